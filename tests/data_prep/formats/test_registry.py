"""Tests that hold for every format; tests of a single format are in files of their own."""

import re

import pytest
from picture_folders import written

from data_prep.formats import coco, odvg
from data_prep.formats.registry import BY_SUFFIX, FORMATS, format_of
from data_prep.records import Box, Dataset, ImageRecord

ALL = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
BOXES = (Box("cat", 1, 2, 11, 12), Box("dog", 0, 0, 5, 5), Box("cat", 3, 4, 5.5, 6.25))
DATASET = Dataset((ImageRecord("a.jpg", 40, 30, BOXES), ImageRecord("b.jpg", 7, 9, BOXES[:1])), ("cat", "dog"))


def place(folder, format):
    """A path for a data set of this format."""
    return folder / f"set{'' if format.writes_folder else format.suffixes[0]}"


def boxes(dataset):
    return [(image.file_name, [(box.label, box.xyxy) for box in image.boxes]) for image in dataset.images]


def test_each_format_is_listed_by_its_name_and_its_suffixes():
    assert all(format.name == name for name, format in FORMATS.items())
    assert {suffix: format.name for suffix, format in BY_SUFFIX.items()} == {
        ".csv": "csv", ".json": "coco", ".jsonl": "odvg", ".odvg": "odvg", ".xml": "cvat", ".yaml": "yolo", ".yml": "yolo",
    }  # fmt: skip


@ALL
def test_a_data_set_survives_a_round_trip_and_no_other_files_are_written(format, tmp_path):
    path = place(tmp_path, format)
    second_file = format.write(DATASET, path)
    assert set(tmp_path.iterdir()) == {path, second_file} - {None} == set(format.files(path))
    back = format.load(path, None, written(format, DATASET, path))
    assert boxes(back) == boxes(DATASET)
    assert back.categories == DATASET.categories


@ALL
def test_the_format_of_a_data_set_is_told_from_its_name_or_its_content(format, tmp_path):
    path = place(tmp_path, format)
    format.write(DATASET, path)
    assert format_of(path) is format


def test_a_file_of_another_kind_has_no_format(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt: expected a folder of \.xml files, .*, got the suffix '\.txt'$"):
        format_of(tmp_path / "a.txt")


@ALL
def test_an_earlier_data_set_is_replaced(format, tmp_path):
    path = place(tmp_path, format)
    format.write(Dataset((ImageRecord("old.jpg", 1, 1, (Box("cat", 0, 0, 1, 1),)),)), path)
    images = written(format, DATASET, path) if format.name != "yolo" else None  # its images would be files of others
    format.write(DATASET, path)
    images = images or written(format, DATASET, path)
    assert boxes(format.load(path, None, images)) == boxes(DATASET)


@ALL
def test_the_message_about_a_missing_path_names_it(format, tmp_path):
    path = place(tmp_path, format)
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        format.load(path, None, tmp_path)


@ALL
def test_fields_without_a_place_are_counted_and_the_others_written(format, tmp_path):
    dataset = Dataset(DATASET.images, DATASET.categories, {"info": {"year": 2017}})
    lost = format.left_out(dataset) if format.left_out else {}
    assert lost == ({} if format.name in ("coco", "lvis") else {"info": 1})
    kept = {name: value for name, value in dataset.extra.items() if name not in lost}
    format.write(Dataset(dataset.images, dataset.categories, kept), place(tmp_path, format))


def test_odvg_has_a_place_for_its_label_map_alone(tmp_path):
    odvg.write(DATASET, tmp_path / "a.jsonl")
    (tmp_path / "a_label_map.json").write_text('{"3": "cat", "1": "dog"}')
    (tmp_path / "a.jsonl").write_text("")
    dataset = odvg.read(tmp_path / "a.jsonl")
    assert dataset.extra
    assert odvg.left_out(dataset) == {}
    coco.write(dataset, tmp_path / "a.json")
    assert coco.read(tmp_path / "a.json").extra["label_map"] == dataset.extra["label_map"]
