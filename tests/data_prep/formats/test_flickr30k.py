"""Flickr30k Entities: sentences, boxes by entity, and one line for each fault."""

import pytest
from made_up_detectors import SQUARES
from published_files import flickr_xml, write_flickr

from data_prep.formats import flickr30k, odvg

LINE = (
    "[/EN#1/people Two young guys] with [/EN#2/bodyparts shaggy hair] look at [/EN#3/bodyparts/other their hands] "
    "while hanging out in [/EN#4/scene the yard] ."
)


def test_a_sentence():
    text, phrases = flickr30k.parse_sentence(LINE)
    assert text == "Two young guys with shaggy hair look at their hands while hanging out in the yard ."
    assert [(phrase.text, phrase.entity, phrase.types) for phrase in phrases] == [
        ("Two young guys", "1", ("people",)),
        ("shaggy hair", "2", ("bodyparts",)),
        ("their hands", "3", ("bodyparts", "other")),
        ("the yard", "4", ("scene",)),
    ]
    assert flickr30k.parse_sentence("") == ("", [])
    assert flickr30k.parse_sentence("[ no phrase ] .") == ("[ no phrase ] .", [])


@pytest.mark.parametrize("line", ["[/EN#1/people Two guys", "[/EN#1 Two guys]", "[/EN#/people Two]", "[/EN#1/people ]"])
def test_a_broken_sentence(line):
    with pytest.raises(ValueError, match="expected"):
        flickr30k.parse_sentence(line)


def test_files_as_published(tmp_path):
    write_flickr(tmp_path)
    dataset = flickr30k.read(tmp_path, "test")
    assert len(dataset.images) == 8, "two sentences for each picture that shows something"
    record = dataset.images[2]
    assert record.file_name == "2.jpg"
    assert record.caption == "red square and green square and air , line 0 ."
    assert [(box.label, box.xyxy) for box in record.boxes] == [
        (label, SQUARES[label]) for label in ("red square", "green square")
    ]
    assert [box.extra for box in record.boxes] == [
        {odvg.REGION: 0, "entity": "11", "types": ["other"]},
        {odvg.REGION: 1, "entity": "12", "types": ["other"]},
    ]


def test_an_entity_with_several_boxes_and_a_box_of_several_entities(tmp_path):
    write_flickr(tmp_path)
    (tmp_path / "test.txt").write_text("7\n")
    objects = [(["1"], (1, 2, 30, 40)), (["1", "2"], (5, 6, 70, 60)), (["4"], None)]
    (tmp_path / "Annotations" / "7.xml").write_text(flickr_xml(7, objects))
    (tmp_path / "Sentences" / "7.txt").write_text(LINE + "\n")
    (record,) = flickr30k.read(tmp_path, "test").images
    assert [(box.label, box.xyxy, box.extra[odvg.REGION]) for box in record.boxes] == [
        ("Two young guys", (1, 2, 30, 40), 0),
        ("Two young guys", (5, 6, 70, 60), 0),
        ("shaggy hair", (5, 6, 70, 60), 1),
    ]


def test_the_records_can_be_written_as_odvg(tmp_path):
    write_flickr(tmp_path)
    dataset = flickr30k.read(tmp_path, "test")
    odvg.write(dataset, tmp_path / "set.jsonl")
    assert odvg.read(tmp_path / "set.jsonl").images == dataset.images


@pytest.mark.parametrize(
    ("file", "text", "place", "words"),
    [
        ("test.txt", "", "test.txt", "expected the number of a picture in each line"),
        ("test.txt", "../7\n", "test.txt", "leaves its folder"),
        ("Sentences/1.txt", "fine\n[/EN#1/people Two\n", "Sentences/1.txt:2", "expected a ']'"),
        ("Annotations/1.xml", "<annotation>", "Annotations/1.xml", "not readable as XML"),
        (
            "Annotations/1.xml",
            "<annotation/>",
            "Annotations/1.xml",
            "expected <width> to be a number of pixels, got None",
        ),
        (
            "Annotations/1.xml",
            flickr_xml(1, [(["1"], ("a", 1, 2, 3))]),
            "Annotations/1.xml",
            "object 1: expected <xmin>",
        ),
        ("Annotations/1.xml", flickr_xml(1, [([], (1, 1, 2, 3))]), "Annotations/1.xml", "expected a <name>"),
    ],
)
def test_wrong_files_give_one_line(tmp_path, file, text, place, words):
    write_flickr(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=r"expected|leaves|readable") as error:
        flickr30k.read(tmp_path, "test")
    assert str(error.value).startswith(f"{tmp_path / place}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["test.txt", "Sentences/2.txt", "Annotations/2.xml"])
def test_missing_files(tmp_path, file):
    write_flickr(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        flickr30k.read(tmp_path, "test")
