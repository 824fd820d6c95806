"""Files in common encodings and table dialects are read if they are unambiguous, or refused with advice."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from voc_files import voc_xml

from data_prep.__main__ import main
from data_prep.formats import csv_table, voc
from data_prep.formats.csv_table import COLUMNS
from data_prep.records import Box, Dataset, ImageRecord

WORDS = {
    "gbk": "口罩", "gb18030": "口罩𠀀", "big5": "口罩", "shift_jis": "マスク", "euc-jp": "マスク", "iso-2022-jp": "マスク",
    "utf-7": "é",
    "euc-kr": "마스크", "windows-1251": "маска", "koi8-r": "маска", "iso-8859-15": "€é", "cp437": "é", "utf-16-le": "ж",
    "utf-8": "ж猫", "ascii": "mask",
}  # fmt: skip


@pytest.mark.parametrize("encoding", WORDS)
@pytest.mark.parametrize("quote", ['"', "'"])
def test_xml_in_every_encoding_that_it_declares(tmp_path, encoding, quote):
    word = WORDS[encoding]
    declaration = f"<?xml version={quote}1.0{quote} encoding={quote}{encoding}{quote}?>\n"
    text = voc_xml(f"{word}.jpg", objects=[(word, (1, 2, 3, 4))], declaration=declaration)
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    if encoding == "utf-16-le":  # without a byte order mark, the parser cannot read the declaration
        with pytest.raises(ValueError, match="not readable as XML"):
            voc.read_file(tmp_path / "a.xml")
        return
    record = voc.read_file(tmp_path / "a.xml")
    assert (record.file_name, record.boxes[0].label) == (f"{word}.jpg", word)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "zlib", "rot13", "idna", "undefined"])
def test_an_unknown_encoding_is_refused_in_one_line(tmp_path, encoding):
    text = voc_xml(declaration=f'<?xml version="1.0" encoding="{encoding}"?>')
    (tmp_path / "a.xml").write_bytes(text.encode() + b"\xff")
    with pytest.raises(ValueError, match="not readable as XML") as error:
        voc.read_file(tmp_path / "a.xml")
    assert "\n" not in str(error.value)


def test_entities_are_refused_in_every_encoding(tmp_path):
    bomb = '<?xml version="1.0" encoding="gbk"?><!DOCTYPE a [<!ENTITY x "ha">]>' + voc_xml("&x;口.jpg")
    (tmp_path / "a.xml").write_bytes(bomb.encode("gbk"))
    with pytest.raises(ValueError, match="document types and entities are refused"):
        voc.read_file(tmp_path / "a.xml")


# tables

numbers = st.integers(-50, 2000) | st.floats(-50, 2000).map(lambda value: round(value, 4)).filter(
    lambda v: "e" not in str(v)
)
labels = st.sampled_from(["cat", "with mask", "猫", 'a "b"', "a,b", "a;b"])


@st.composite
def datasets(draw):
    images = []
    for number in range(draw(st.integers(1, 3))):
        boxes = draw(st.lists(st.builds(Box, labels, numbers, numbers, numbers, numbers), max_size=3))
        images.append(ImageRecord(f"{number}.jpg", draw(st.integers(1, 9999)), 30, tuple(boxes)))
    return Dataset(tuple(images), tuple(sorted({box.label for image in images for box in image.boxes})))


def as_spreadsheets_write_it(text, delimiter, has_commas, has_index, states_delimiter):
    """The table as it is written by Excel with decimal commas, by pandas, or by both."""
    rows = list(csv.reader(io.StringIO(text)))
    for number, row in enumerate(rows):
        if number and has_commas:
            row[1:5] = [value.replace(".", ",") for value in row[1:5]]
        if has_index:
            row.insert(0, str(number - 1) if number else "")
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return f"sep={delimiter}\r\n" * states_delimiter + out.getvalue()


@settings(max_examples=80, deadline=None)
@given(
    datasets(),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_tables_of_spreadsheets_are_read_or_refused_and_never_misread(
    tmp_path_factory, dataset, delimiter, has_commas, has_index, states_delimiter, encoding
):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    csv_table.write(dataset, path)
    text = as_spreadsheets_write_it(path.read_text("utf-8"), delimiter, has_commas, has_index, states_delimiter)
    path.write_bytes(text.encode(encoding))
    found = []
    back = csv_table.read(path, found)
    if found:  # each comma of the table may separate thousands
        assert has_commas
        assert all("may have decimals or groups of thousands; write decimals after a point" in f.detail for f in found)
        kept = {(image.file_name, box) for image in back.images for box in image.boxes}
        assert kept <= {(image.file_name, box) for image in dataset.images for box in image.boxes}
    else:
        assert back == dataset
    assert {(image.file_name, image.width) for image in back.images} <= {(i.file_name, i.width) for i in dataset.images}


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (("1,5", "2", "3", "4"), (1.5, 2, 3, 4)),
        (("0,125", "2", "3", "4"), (0.125, 2, 3, 4)),
        (("1,234", "2", "3", "4"), None),
        (("1,234", "2,5", "3", "4"), (1.234, 2.5, 3, 4)),  # the other number shows that commas are decimal commas
        (("1.234", "2,5", "3", "4"), None),
        (("1.234", "2.5", "3", "4"), (1.234, 2.5, 3, 4)),
        (("1,234,567", "2", "3", "4"), None),
        (("1.234,5", "2", "3", "4"), None),
    ],
)
def test_commas_in_numbers(tmp_path, values, read):
    (tmp_path / "a.csv").write_text(f"{';'.join(COLUMNS)}\ncat;{';'.join(values)};a.jpg;40;30\n")
    found = []
    boxes = [box.xyxy for image in csv_table.read(tmp_path / "a.csv", found).images for box in image.boxes]
    assert boxes == ([] if read is None else [read])
    assert len(found) == (read is None)


def test_refusals_give_advice(tmp_path):
    table = f"{','.join(COLUMNS)}\n"
    for text, words in [
        (f"{table}cat,1,5,2,3,4,a.jpg,40,30".encode(), "decimal commas need quotes, or semicolons"),
        (f"{table}café,1,2,3,4,a.jpg,40,30".encode("latin-1"), "in a spreadsheet, save as 'CSV UTF-8'"),
        (f",{table}one,cat,1,2,3,4,a.jpg,40,30".encode(), "holds values that are no row numbers"),
        (f"score,{table}1,cat,1,2,3,4,a.jpg,40,30".encode(), "expected the columns"),
    ]:
        (tmp_path / "a.csv").write_bytes(text)
        with pytest.raises(ValueError, match=words):
            csv_table.read(tmp_path / "a.csv")


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 2)), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_an_image_without_objects_survives_in_every_format(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("empty")
    images = [
        ImageRecord(f"{n}.jpg", width, 9, (Box("cat", 0, 0, 1, 1),) * count) for n, (width, count) in enumerate(sizes)
    ]
    dataset = Dataset(tuple(images), ("cat",) if any(count for _, count in sizes) else ())
    csv_table.write(dataset, folder / "a.csv")
    assert csv_table.read(folder / "a.csv") == dataset
    for target, name in (("coco", "a.json"), ("odvg", "a.jsonl")):
        assert main([f"csv-to-{target}", str(folder / "a.csv"), str(folder / name)]) == 0
        assert main([f"{target}-to-csv", str(folder / name), str(folder / "b.csv"), "--overwrite"]) == 0
        assert csv_table.read(folder / "b.csv") == dataset
    assert main(["csv-to-voc", str(folder / "a.csv"), str(folder / "voc")]) == 0
    assert {(i.file_name, len(i.boxes)) for i in voc.read(folder / "voc").images} == {
        (i.file_name, len(i.boxes)) for i in images
    }
