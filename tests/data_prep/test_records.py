import pytest

from data_prep import Box, Dataset, ImageRecord
from data_prep.records import parse_number


def test_an_empty_set_counts_its_classes_as_zero():
    assert Dataset(categories=("cat", "dog")).class_counts == {"cat": 0, "dog": 0}


def test_class_counts_list_the_categories_first():
    boxes = (Box("zebra", 0, 0, 1, 1), Box("ant", 0, 0, 1, 1), Box("cat", 0, 0, 1, 1), Box("cat", 0, 0, 2, 2))
    dataset = Dataset((ImageRecord("a.jpg", 5, 5, boxes),), categories=("dog", "cat"))
    assert list(dataset.class_counts.items()) == [("dog", 0), ("cat", 2), ("ant", 1), ("zebra", 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", None, True, 10**400])
def test_a_coordinate_must_be_a_number(value):
    with pytest.raises(ValueError, match="x2 of a box must be a number of pixels"):
        Box("cat", 0, 0, value, 1)


@pytest.mark.parametrize("label", ["", "  ", "two\nlines", "nul\0", "\ud800", None])
def test_a_label_is_one_line_of_text(label):
    with pytest.raises(ValueError, match="label"):
        Box(label, 0, 0, 1, 1)


@pytest.mark.parametrize(
    "name", ["", ".", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:a.jpg", "a\0.jpg"]
)
def test_a_file_name_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="file name"):
        ImageRecord(name, 1, 1)


@pytest.mark.parametrize("size", [(0, 1), (1, -1), (1.5, 1), (True, 1)])
def test_a_size_is_positive_and_whole(size):
    with pytest.raises(ValueError, match="positive integer"):
        ImageRecord("a.jpg", *size)


def test_touching_the_border_is_inside_and_clipping_keeps_integers():
    assert Box("cat", 0, 0, 10, 10).is_inside(10, 10)
    outside = Box("cat", -1, 2, 11, 10.5, extra={"difficult": "1"})
    assert not outside.is_inside(10, 10)
    clipped = outside.clipped(10, 10)
    assert clipped == Box("cat", 0, 2, 10, 10, extra={"difficult": "1"})
    assert all(isinstance(value, int) for value in clipped.xyxy)


def test_a_box_beyond_the_image_clips_to_nothing():
    assert Box("cat", 20, 0, 30, 5).clipped(10, 10).is_degenerate


@pytest.mark.parametrize(("text", "number"), [("79", 79), (" -3 ", -3), ("79.0", 79.0), ("1e2", 100.0), (".5", 0.5)])
def test_numbers_keep_their_type(text, number):
    assert parse_number(text) == number
    assert type(parse_number(text)) is type(number)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e400", "1_000", "0x10", "١٢", "1,5", "9" * 5000])
def test_other_texts_than_numbers_are_refused(text):
    with pytest.raises(ValueError, match="expected a number"):
        parse_number(text)
