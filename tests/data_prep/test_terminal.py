"""No command prints control characters of other people's file names and labels on the terminal."""

import json
import os
import warnings

import pytest
from hostile_names import DIRECTION, STEERING, STEERING_LINES, assert_harmless
from hypothesis import given
from hypothesis import strategies as st
from voc_files import voc_xml

from data_prep.__main__ import main
from data_prep.arguments import one_line, printable
from gdino_lib import messages

ESCAPED = "\\x1b]0;taken over\\x07\\x1b[2J\\x9b3m\\x08\\x7f"
TURNED = "fish\\u202egpj.\\u2066x\\u2069\\u200f"


@given(st.text(st.characters()))
def test_only_characters_that_are_not_printable_are_escaped(text):
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()
    assert one_line(text).isprintable()
    assert (messages.printable(text), messages.one_line(text)) == (shown, one_line(text)), "both packages agree"


def test_emojis_and_letters_of_all_scripts_are_not_escaped():
    assert printable("猫 кошка 😀 naïve «a» ﷺ") == "猫 кошка 😀 naïve «a» ﷺ"
    assert one_line("a\x1b[1mb\nc\td\u202e") == "a\\x1b[1mb c d\\u202e"


def status(arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def printed(capsys):
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def hostile(voc_folder):
    """A data set with hostile names of files and classes; some files can be used."""
    voc_folder.add("good").add(STEERING, objects=((DIRECTION, (1, 2, 90, 12)), (DIRECTION, (5, 5, 5, 5))))
    voc_folder.add("differs", xml=voc_xml(filename=f"{DIRECTION}.jpg", objects=((DIRECTION, (3, 3, 3, 9)),)))
    voc_folder.write(f"broken{DIRECTION}", f"<annotation><{DIRECTION}")
    voc_folder.add("control", xml=voc_xml(filename="control.jpg", objects=((f"{STEERING}", (1, 2, 11, 12)),)))
    return voc_folder


def test_voc_to_csv(hostile, tmp_path, capsys):
    where = ["--images", hostile.images, "--annotations", hostile.annotations]
    out = tmp_path / f"out{STEERING}"
    assert status(["voc-to-csv", *where, "--out", out, "--train", "1"]) == 1
    assert_harmless(printed(capsys), TURNED)
    assert_harmless((out / "audit.txt").read_text("utf-8"), TURNED)
    assert status(["voc-to-csv", *where, "--out", out, "--train", "1"]) == 2
    assert_harmless(printed(capsys), ESCAPED, TURNED)
    assert status(["voc-to-csv", *where, "--out", f"{out}2", "--train", "1", "--strict"]) == 2
    assert_harmless(printed(capsys))


def test_audit(hostile, tmp_path, capsys):
    arguments = ["audit", "--data", hostile.annotations, "--images", hostile.images, "--out", tmp_path / STEERING]
    assert status(arguments) == 1
    assert_harmless(printed(capsys), ESCAPED, TURNED)


def coco_file(path, name=DIRECTION, category=DIRECTION):
    extra = {f"note{DIRECTION}": 1, STEERING: 2}
    images = [{"id": 1, "file_name": f"{name}.jpg", "width": 40, "height": 30} | extra]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]} | extra]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": category}]} | extra
    path.write_text(json.dumps(document), "utf-8")
    return path


@pytest.mark.parametrize("target", ["csv", "odvg", "voc"])
def test_conversions(tmp_path, capsys, target):
    suffix = {"csv": ".csv", "odvg": ".jsonl", "voc": ""}[target]
    out = tmp_path / f"out{STEERING}{suffix}"
    assert status([f"coco-to-{target}", coco_file(tmp_path / f"in{STEERING}.json"), out]) == 0
    assert_harmless(printed(capsys), ESCAPED, TURNED)
    refused = 1, 2  # 1: the image is left out; 2: the whole file is refused
    assert status([f"coco-to-{target}", coco_file(tmp_path / "b.json", STEERING), tmp_path / f"b{suffix}"]) in refused
    assert (
        status([f"coco-to-{target}", coco_file(tmp_path / "c.json", "a", STEERING), tmp_path / f"c{suffix}"]) in refused
    )
    assert status([f"coco-to-{target}", tmp_path / STEERING, tmp_path / f"d{suffix}"]) == 2
    assert_harmless(printed(capsys), ESCAPED)


def test_arguments(tmp_path, capsys):
    hostile = [[STEERING_LINES], [f"--{STEERING_LINES}"], ["sample", tmp_path / "a", STEERING_LINES]]
    hostile += [["voc-to-csv", "--train", STEERING_LINES], ["sample", tmp_path / "a", f"--{STEERING}=1"]]
    hostile += [["csv-to-coco", STEERING_LINES, "a.json"], ["audit", "--data", STEERING_LINES, "--out", tmp_path / "b"]]
    for arguments in hostile:
        assert status(arguments) == 2
        text = printed(capsys)
        assert_harmless(text, "\\x1b]0;")
        assert text.count("\n") == 1


def test_sample_and_warnings(tmp_path, capsys, monkeypatch):
    assert status(["sample", tmp_path / STEERING]) == 0
    assert_harmless(printed(capsys), ESCAPED)
    from data_prep.sample import cartoon_faces

    monkeypatch.setattr(cartoon_faces, "write", lambda *_: warnings.warn(STEERING_LINES, stacklevel=1) or [])
    assert status(["sample", tmp_path / "b"]) == 0
    text = printed(capsys)
    assert_harmless(text, "warning: a\\x1b]0;taken over")
    assert text.count("\n") == 2


@pytest.mark.skipif(os.name == "nt", reason="no such terminals")
def test_a_real_terminal_gets_no_control_characters(hostile, tmp_path):
    from terminals import run_on_a_terminal

    arguments = ["voc-to-csv", "--images", hostile.images, "--annotations", hostile.annotations]
    code, text = run_on_a_terminal("data_prep", *arguments, "--out", tmp_path / STEERING, "--train", "1")
    assert code == 1, text
    assert_harmless(text.replace("\r\n", "\n"), TURNED)
