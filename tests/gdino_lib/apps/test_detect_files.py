"""`gdino detect`: complete runs and the files that they write."""

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import one_line
from detect_runs import LOW, TABLES, detect, document, files, interrupt_at, picture, status, unexpected
from PIL import Image

import gdino_lib as gd
from data_prep.formats import coco, csv_table
from gdino_lib.apps.detect_files import read_phrases
from gdino_lib.cli.main import main
from gdino_lib.detect.thresholds import Thresholds


def test_a_run_writes_the_boxes_of_the_detector_in_three_formats(work, capsys, model):
    names = [picture("a.png"), picture("b.png", (50, 70), 1)]
    assert detect("a.png", "b.png", "--nms", "0.5", "--top-k", 4) == 0
    assert files() == TABLES | set(names)
    found = [gd.Detector(model)(n, ["cat", "remote control"], 0.1, 0.1, 0.5, 4) for n in names]
    data = document()
    assert data["phrases"] == ["cat", "remote control"]
    assert data["complete"] is True
    assert data["failed"] == []
    for image, expected in zip(data["images"], found, strict=True):
        boxes = image["boxes"]
        assert np.array_equal(np.float32([box["xyxy"] for box in boxes]), expected.xyxy)
        assert np.array_equal(np.float32([box["confidence"] for box in boxes]), expected.confidence)
        assert [box["phrase"] for box in boxes] == expected.data["class_name"].tolist()
    assert [(image["width"], image["height"]) for image in data["images"]] == [(90, 60), (50, 70)]

    dataset = coco.read("detections/detections.coco.json")
    table = csv_table.read("detections/detections.csv")
    for records in (dataset, table):
        assert [image.file_name for image in records.images] == names
        for image, expected in zip(records.images, found, strict=True):
            assert np.allclose([box.xyxy for box in image.boxes], expected.xyxy, atol=1e-4)
            assert [box.label for box in image.boxes] == expected.data["class_name"].tolist()
    scores = [[box.extra["score"] for box in image.boxes] for image in dataset.images]
    assert scores == [[box["confidence"] for box in image["boxes"]] for image in data["images"]]
    assert dataset.categories == ("cat", "remote control")
    with pytest.raises(
        ValueError, match=r"got the detections\.json of gdino detect; use detections\.coco\.json beside it"
    ):
        coco.read("detections/detections.json")

    captured = capsys.readouterr()
    assert unexpected(captured.err) == []
    lines = captured.out.splitlines()
    assert lines[-1] == "8 boxes in 2 files; written to detections"
    assert [line.split(": ")[0] for line in lines[:-1]] == names
    assert sum(int(part.split()[0]) for line in lines[:-1] for part in line.split(": ")[1].split(", ")) == 8
    original, drawn = np.asarray(Image.open("a.png")), np.asarray(Image.open("detections/a.png"))
    assert original.shape == drawn.shape
    assert (original != drawn).any()


def test_nothing_found_is_a_result(work, capsys):
    picture("a.png")
    assert main(["detect", "a.png", "--phrases", "cat", "--box-threshold", "1", "--text-threshold", "1"]) == 0
    assert capsys.readouterr().out == "a.png: nothing found\n0 boxes in 1 file; written to detections\n"
    assert len(coco.read("detections/detections.coco.json").images) == 1
    assert Path("detections/detections.csv").read_text() == ",".join(csv_table.COLUMNS) + "\n,,,,,a.png,90,60\n"
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("detections/a.png")))


def test_odd_images(work):
    picture("one.png", (1, 1))
    picture("wide.jpg", (3000, 3))
    picture("grey.png", mode="L")
    picture("alpha.webp", mode="RGBA")
    Image.new("L", (10_000, 9_500)).save("large.png")  # PIL warns of it
    picture("turned.jpg", (90, 60), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detect(".", "--out", "found") == 0
    sizes = {image["name"]: (image["width"], image["height"]) for image in document("found")["images"]}
    assert sizes["turned.jpg"] == (60, 90), "upright, as drawn"
    assert Image.open("found/turned.jpg").size == (60, 90)
    assert sizes["large.png"] == (10_000, 9_500)
    Image.new("RGB", (65_600, 1)).save("long.png")
    shutil.move("long.png", "long.jpg")  # longer than a JPEG can be
    assert detect("long.jpg") == 0
    assert Image.open("detections/long.jpg").format == "PNG"


def test_unreadable_files_are_named_and_the_others_are_read(work, capsys):
    good = picture("good.png")
    Path("bad.jpg").write_bytes(b"no image")
    Path("empty.png").touch()
    Path("cut.png").write_bytes(Path(good).read_bytes()[:500])
    Path("nothing").mkdir()
    assert detect("missing.png", "bad.jpg", "empty.png", good, "cut.png", "nothing", "*.tif", "") == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: '") for line in lines)
    assert {line.split("'")[1] for line in lines} == {
        "missing.png",
        "bad.jpg",
        "empty.png",
        "cut.png",
        "nothing",
        "*.tif",
        "",
    }
    assert len(lines) == len(document()["failed"]) == 7
    assert files() == {*TABLES, good}


def test_without_readable_files_nothing_is_written(work, capsys):
    Path("bad.jpg").write_bytes(b"no image")
    assert detect("missing.png", "bad.jpg") == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 2
    assert captured.out == ""
    assert [path.name for path in work.iterdir()] == ["bad.jpg"]


def test_phrases_from_a_file_keep_their_dots(work, capsys):
    picture("a.png")
    Path("names.txt").write_text("St. Bernard\n\n  hot dog \r\ncat\n", "utf-8")
    assert main(["detect", "a.png", "--phrases-file", "names.txt", *LOW]) == 0
    assert document()["phrases"] == ["St. Bernard", "hot dog", "cat"]
    assert read_phrases(["cat. dog", "bus"], None) == ["cat", "dog", "bus"]
    assert main(["detect", "a.png", "--phrases-file", "missing.txt"]) == 2
    assert capsys.readouterr().err == "error: there is no file missing.txt\n"


def test_quotes_commas_and_semicolons_at_the_ends_of_lines_are_ignored(work):
    picture("a.png")
    results = {}
    for name, lines in {
        "plain": "hot dog\ncat\n",
        "listed": '"hot dog",\n"cat"\n',
        "sentence": "\ufeffhot dog;\r\ncat.",
    }.items():
        Path(name).write_text(lines, "utf-8")
        assert main(["detect", "a.png", "--phrases-file", name, "--out", f"out-{name}", *LOW]) == 0
        results[name] = document(f"out-{name}")
    boxes = {name: [(b["xyxy"], b["confidence"]) for b in r["images"][0]["boxes"]] for name, r in results.items()}
    assert boxes["plain"] == boxes["listed"] == boxes["sentence"] != []
    assert results["listed"]["phrases"] == ['"hot dog",', '"cat"'], "labels keep the text of the caller"


def test_a_comma_at_the_end_of_a_phrase_is_ignored_without_a_note(work, capsys):
    picture("a.png")
    assert detect("a.png", phrases="cat, . dog;") == 0
    assert capsys.readouterr().err == ""


def test_a_comma_within_a_phrase_belongs_to_it_and_gives_a_note(work, capsys):
    picture("a.png")
    assert detect("a.png", phrases="cat, dog") == 0
    assert document()["phrases"] == ["cat, dog"]
    assert capsys.readouterr().err == 'note: "cat, dog" is one phrase; phrases are separated by ".", not by ","\n'
    Path("names.txt").write_text("cat, dog", "utf-8")
    assert main(["detect", "a.png", "--phrases-file", "names.txt", "--overwrite"]) == 0
    assert capsys.readouterr().err == "", "in a file, a line is a phrase, so no note is needed"


def test_one_box_in_one_file(work, capsys):
    picture("a.png")
    assert detect("a.png", "--top-k", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 box in 1 file; written to detections"


def test_thresholds_from_validation_are_used(work, capsys, model):
    picture("a.png")
    Thresholds(0.2, {"cat": 0.3}, {}).save("own.json")
    Thresholds(1.0, {}, {}).save("small.thresholds.json")
    Path("small.pth").touch()
    assert main(["detect", "a.png", "--phrases", "cat . dog", "--thresholds", "own.json"]) == 0
    expected = gd.Detector(model)("a.png", ["cat", "dog"], thresholds=Thresholds.load("own.json"))
    assert len(expected) == len(document()["images"][0]["boxes"])
    assert document()["settings"]["thresholds"]["classes"] == {"cat": 0.3}
    assert capsys.readouterr().err == ""
    saved = ["--model", "small.pth", "--thresholds", "saved", "--overwrite"]
    assert main(["detect", "a.png", "--phrases", "cat . dog", *saved]) == 0
    assert document()["images"][0]["boxes"] == []
    assert capsys.readouterr().err == "note: no phrase has a threshold of its own; all use the default, 1\n"


def test_repeated_phrases_and_unknown_ones(work, capsys):
    picture("a.png")
    picture("b.png")
    assert detect("a.png", "b.png", phrases="cat . cat . Cat . 😀") == 0
    assert coco.read("detections/detections.coco.json").categories == ("cat", "Cat", "😀")
    assert capsys.readouterr().err == (
        "warning: phrase 3, '😀', has no word that the model knows: its boxes mean nothing\n"
    ), "once"


def test_a_closed_pipe_does_not_end_the_run(work, monkeypatch):
    picture("a.png")
    picture("b.png")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert detect("a.png", "b.png") == 0
    assert files() == TABLES | {"a.png", "b.png"}


def test_a_terminal_shows_progress(work, capsys, monkeypatch):
    picture("a.png")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert detect("a.png") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("loading nano (for drawn pictograms only; for photographs use --model tiny) ...\n")
    assert "1/1" in captured.err
    assert captured.out.splitlines()[-1].endswith("written to detections")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--phrases", "cat"], "required: IMAGE"),
        (["a.png"], "one of the arguments --phrases --phrases-file --ontology is required"),
        (["a.png", "--phrases", " . "], "expected phrases, as in "),
        (["a.png", "--phrases", "a\x07"], "one line of text"),
        (["a.png", "--phrases", "cat " * 300], "has 300 tokens; expected at most 253"),
        (
            ["a.png", "--phrases", "cat", "--box-threshold", "nan"],
            "--box-threshold: expected a number in 0..1, got 'nan'",
        ),
        (["a.png", "--phrases", "cat", "--nms", "two"], "--nms: expected a number in 0..1, got 'two'"),
        (["a.png", "--phrases", "cat", "--top-k", "0"], "--top-k: expected a whole number of at least 1, got '0'"),
        (["a.png", "--phrases", "cat", "--device", "abacus"], "device: expected auto, cpu, cuda, cuda:1 or mps, got"),
        (["a.png", "--phrases", "cat", "--device", "meta"], "device: 'meta' cannot be used here"),
        (["a.png", "--phrases", "cat", "--thresholds", "none.json"], "none.json: no such file, expected thresholds"),
        (["a.png", "--phrases", "cat", "--thresholds", "t", "--box-threshold", "0"], "give one or the other"),
        (["a.png", "--phrases", "cat", "--dtype", "int8"], "--dtype: invalid choice"),
        (["a.png", "--phrases", "cat", "--out", "a.png"], "'a.png' is a file; expected a folder"),
        (["a.png", "--phrases", "cat", "--out", "/"], "name a folder inside it"),
    ],
)
def test_usage_errors_are_one_line(work, capsys, arguments, message):
    picture("a.png")
    assert status(["detect", *arguments]) == 2
    assert message in one_line(capsys)
    assert [path.name for path in work.iterdir()] == ["a.png"]


def test_a_missing_model_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture("a.png")
    assert main(["detect", "a.png", "--phrases", "cat", "--model", "missing.pth"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_missing_memory_on_the_device_fails_one_image(work, capsys, monkeypatch):
    def out_of_memory():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    picture("a.png")
    picture("b.png")
    interrupt_at(monkeypatch, 1, out_of_memory)
    assert detect("a.png", "b.png") == 1
    assert capsys.readouterr().err == "error: 'a.png': the device has not enough memory\n"
    assert files() == {*TABLES, "b.png"}


def test_if_memory_is_missing_for_all_images_earlier_results_stay(work, monkeypatch):
    def out_of_memory():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    picture("a.png")
    assert detect("a.png") == 0
    before = document()
    interrupt_at(monkeypatch, 1, out_of_memory)
    assert detect("a.png", "--overwrite") == 2
    assert document() == before
    assert not Path(".detections.partial").exists()
