import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import Box, Dataset, ImageRecord
from data_prep.formats import csv_table
from data_prep.records import picture_key

HEADER = "label_name,bbox_x1,bbox_y1,bbox_x2,bbox_y2,image_name,image_width,image_height"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12).filter(str.strip)
NAMES = TEXT.map(lambda text: text.replace("/", "-").replace("\\", "-").replace(":", "-") + ".jpg")
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def datasets(draw):
    images = []
    for name in draw(st.lists(NAMES, unique_by=picture_key, max_size=4)):
        boxes = draw(st.lists(st.builds(Box, TEXT, NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=4))
        images.append(ImageRecord(name, draw(st.integers(1, 9999)), draw(st.integers(1, 9999)), tuple(boxes)))
    return Dataset(tuple(images), tuple(sorted({box.label for image in images for box in image.boxes})))


@given(datasets())
def test_round_trip(tmp_path_factory, dataset):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    csv_table.write(dataset, path)
    back = csv_table.read(path)
    assert back == dataset
    kinds = [[type(v) for image in d.images for box in image.boxes for v in box.xyxy] for d in (dataset, back)]
    assert kinds[0] == kinds[1]


def test_an_empty_data_set_is_a_header(tmp_path):
    csv_table.write(Dataset(), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == HEADER + "\n"
    assert csv_table.read(tmp_path / "a.csv") == Dataset()


def test_the_written_text_to_the_letter(tmp_path):
    boxes = (Box("with_mask", 79, 105, 109, 142), Box('a "b", c', 1.5, 0, 2, 3))
    csv_table.write(Dataset((ImageRecord("été, 1.jpg", 512, 366, boxes),)), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        f'{HEADER}\nwith_mask,79,105,109,142,"été, 1.jpg",512,366\n"a ""b"", c",1.5,0,2,3,"été, 1.jpg",512,366\n'
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path, encoding, newline):
    text = newline.join([HEADER, "猫,1,2,3,4,ж.jpg,10,20", "", "猫,1,2,3,5,ж.jpg,10,20", ""])
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (image,) = csv_table.read(tmp_path / "a.csv").images
    assert image == ImageRecord("ж.jpg", 10, 20, (Box("猫", 1, 2, 3, 4), Box("猫", 1, 2, 3, 5)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["cat,1,2,3"], "a.csv:2: expected 8 fields, got 4"),
        (["cat,1,2,3,4,a.jpg,10,20", "cat,1,x,3,4,a.jpg,10,20"], "a.csv:3: expected a number, got 'x'"),
        (["cat,1,2,3,nan,a.jpg,10,20"], "a.csv:2: expected a number, got 'nan'"),
        (["cat,1,2,3,4,../a.jpg,10,20"], "a.csv:2: the file name '../a.jpg' leaves its folder"),
        (["cat,1,2,3,4,a.jpg,0,20"], "a.csv:2: width of 'a.jpg' must be a positive integer"),
        (["cat,1,2,3,4,a.jpg,10.5,20"], "a.csv:2: expected a whole number of pixels, got '10.5'"),
        (["cat,1,2,3,4,a.jpg,10,20", "cat,1,2,3,4,a.jpg,10,21"], "a.csv:3: 'a.jpg' is 10 x 21 here and 10 x 20"),
        ([",1,2,3,4,a.jpg,10,20"], "a.csv:2: a box needs a label"),
        (['"cat,1,2,3,4,a.jpg,10,20'], "a.csv:2: not a readable CSV row"),
    ],
)
def test_the_message_about_a_fault_has_the_line(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        csv_table.read(tmp_path / "a.csv")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "header", ["", HEADER.replace("label_name", "label"), HEADER + ",score", HEADER + ",label_name"]
)
def test_other_columns_are_refused(tmp_path, header):
    (tmp_path / "a.csv").write_text(header + "\n")
    with pytest.raises(ValueError, match=r"a\.csv:1: expected the columns label_name"):
        csv_table.read(tmp_path / "a.csv")


def test_binary_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xd8\xff\xe0" * 100)
    with pytest.raises(ValueError, match="expected UTF-8 or UTF-16 text"):
        csv_table.read(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="no CSV file at"):
        csv_table.read(tmp_path / "b.csv")


def test_fields_without_a_column_are_counted():
    boxes = (Box("cat", 0, 0, 1, 1, extra={"difficult": "1"}), Box("cat", 0, 0, 1, 1, extra={"difficult": "0"}))
    images = (ImageRecord("a.jpg", 1, 1, boxes, caption="a cat"), ImageRecord("b.jpg", 1, 1, extra={"id": 3}))
    assert csv_table.left_out(Dataset(images, extra={"info": {}})) == {
        "info": 1,
        "difficult": 2,
        "caption": 1,
        "id": 1,
    }
    assert csv_table.left_out(Dataset((ImageRecord("a.jpg", 1, 1, (Box("cat", 0, 0, 1, 1),)),))) == {}
