"""`gdino detect --explain`: a picture for each box, in the folder of results like everything else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from detect_runs import LOW, TABLES, ctrl_c, detect, document, files, film, picture, unexpected
from PIL import Image

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.detect.explanation_drawing import draw_explanation


def test_each_box_has_its_picture(work, capsys, model):
    picture("a.png")
    picture("deep/b.webp", (50, 70), 1)
    assert detect(".", "--explain", "--top-k", 2, "--nms", "0.5", "--score", "max") == 0
    boxes = {image["drawn"]: image["boxes"] for image in document()["images"]}
    assert [box["explained"] for box in boxes["a.png"]] == ["a.png.explained/1.png", "a.png.explained/2.png"]
    drawn = {box["explained"] for image in boxes.values() for box in image}
    assert files() == TABLES | set(boxes) | drawn
    assert unexpected(capsys.readouterr().err) == []

    options = {"box_threshold": 0.1, "text_threshold": 0.1, "top_k": 2, "nms_iou": 0.5, "score": "max"}
    explanation = gd.Detector(model).explain("a.png", ["cat", "remote control"], **options)
    query, phrase = explanation.detections.data["query"][1], explanation.detections.data["class_name"][1]
    expected = draw_explanation("a.png", explanation, query, phrase, "max")
    assert np.array_equal(np.asarray(Image.open("detections/a.png.explained/2.png")), np.asarray(expected))


def test_the_rest_is_what_a_run_without_it_writes(work):
    picture("a.png")
    assert detect("a.png", "--out", "plain") == detect("a.png", "--out", "explained", "--explain") == 0
    for name in ("a.png", "detections.csv", "detections.coco.json"):
        assert Path("plain", name).read_bytes() == Path("explained", name).read_bytes()
    boxes = document("explained")["images"][0]["boxes"]
    assert [{key: box[key] for key in box if key != "explained"} for box in boxes] == document("plain")["images"][0][
        "boxes"
    ]


def test_overwrite_removes_them_and_only_them(work, capsys):
    picture("a.png")
    assert detect("a.png", "--explain") == 0
    assert detect("a.png", "--overwrite") == 0
    assert files() == {*TABLES, "a.png"}
    assert detect("a.png", "--explain", "--overwrite") == 0
    Path("detections/a.png.explained/mine.txt").touch()
    assert detect("a.png", "--overwrite") == 2
    assert "mine.txt" in capsys.readouterr().err


def test_results_as_inputs_keep_their_names(work):
    picture("in/a.png")
    assert detect("in/a.png", "--explain", "--top-k", 1) == 0
    shutil.move("detections", "earlier")
    assert detect("earlier", "--explain", "--top-k", 1) == 0
    boxes = {image["drawn"]: [box["explained"] for box in image["boxes"]] for image in document()["images"]}
    assert boxes == {
        "a.png": ["a.png.explained/1-2.png"],
        "a.png.explained/1.png": ["a.png.explained/1.png.explained/1.png"],
    }
    assert files() == {*TABLES, *boxes, *(path for paths in boxes.values() for path in paths)}


def test_an_interrupt_keeps_the_images_that_are_done(work, monkeypatch):
    for name in ("a.png", "b.png"):
        picture(name)
    calls = []

    def draw(*arguments):
        calls.append(arguments)
        if len(calls) == 4:  # the second picture of the second image
            ctrl_c()
        return draw_explanation(*arguments)

    monkeypatch.setattr("gdino_lib.apps.detect_files.draw_explanation", draw)
    assert detect("a.png", "b.png", "--explain", "--top-k", 2) == 130
    assert files() == {*TABLES, "a.png", "a.png.explained/1.png", "a.png.explained/2.png"}
    assert not Path("detections/b.png.explained").exists()
    assert document()["complete"] is False


def test_nothing_found_needs_no_picture(work):
    picture("a.png")
    command = ["detect", "a.png", "--phrases", "cat", "--explain", "--box-threshold", "1", "--text-threshold", "1"]
    assert main(command) == 0
    assert files() == {*TABLES, "a.png"}


def test_films_get_none_and_a_note_says_so(work, capsys):
    film("a.avi", frames=2)
    assert detect("a.avi", "--explain") == 0
    assert unexpected(capsys.readouterr().err) == ["note: films get no explanations"]
    assert not any("explained" in name for name in files())


@pytest.mark.parametrize("phrases", [" . ".join(f"thing {number}" for number in range(100)), "\u0300"])
def test_phrases_that_do_not_make_one_prompt_are_refused(work, capsys, phrases):
    picture("a.png")
    Path("names.txt").write_text(phrases.replace(" . ", "\n"), "utf-8")
    assert main(["detect", "a.png", "--phrases-file", "names.txt", "--explain", *LOW]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: explain: expected phrases that fit into one prompt, got ")
    assert [path.name for path in work.iterdir() if path.is_dir()] == []
