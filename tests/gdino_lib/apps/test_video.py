"""Films: read, searched frame by frame, and written with drawn frames."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from detect_runs import TABLES, detect, document, files, film, picture

import gdino_lib as gd
from data_prep.formats import coco


def test_a_film_gives_a_film_and_one_line_per_frame(work, capsys, model):
    cv2 = pytest.importorskip("cv2")
    film("film.avi")
    picture("a.png")
    assert detect("film.avi", "a.png", "--top-k", 3) == 0
    assert files() == TABLES | {"a.png", "film.avi.mp4", "film.avi.mp4.jsonl"}
    (entry,) = document()["films"]
    assert (entry["frames"], entry["fps"], entry["width"], entry["height"]) == (5, 10, 64, 48)
    lines = [json.loads(line) for line in Path("detections/film.avi.mp4.jsonl").read_text("utf-8").splitlines()]
    assert [line["frame"] for line in lines] == list(range(5))
    assert lines[4]["seconds"] == 0.4
    assert sum(entry["counts"].values()) == sum(len(line["boxes"]) for line in lines) == 15
    capture = cv2.VideoCapture("film.avi")
    drawn = cv2.VideoCapture("detections/film.avi.mp4")
    for line in lines:
        frame = capture.read()[1]
        expected = gd.Detector(model)(frame[..., ::-1].copy(), ["cat", "remote control"], 0.1, 0.1, None, 3)
        assert np.array_equal(np.float32([box["xyxy"] for box in line["boxes"]]), expected.xyxy)
        assert drawn.read()[1].shape == frame.shape
    assert not drawn.read()[0]
    assert "film.avi: 5 frames, " in capsys.readouterr().out
    assert [image.file_name for image in coco.read("detections/detections.coco.json").images] == ["a.png"]


def test_odd_and_damaged_films(work, capsys):
    film("odd.mp4", (65, 49), 3, "mp4v")
    film("one.avi", (64, 48), 1)
    Path("bad.mp4").write_bytes(b"no film")
    Path("cut.mp4").write_bytes(Path("odd.mp4").read_bytes()[:200])
    assert detect("bad.mp4", "odd.mp4", "cut.mp4", "one.avi") == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert [entry["frames"] for entry in document()["films"]] == [3, 1]
    assert files() == TABLES | {"odd.mp4", "odd.mp4.jsonl", "one.avi.mp4", "one.avi.mp4.jsonl"}


def test_a_film_with_an_unusual_frame_rate_is_written(work):
    """The codec refuses 119.983 frames per second, the rate of slow-motion films of telephones."""
    film("slow.avi", rate=119.983)
    assert detect("slow.avi") == 0
    assert document()["films"][0]["fps"] == pytest.approx(119.983, abs=1e-3)


def test_a_film_that_cannot_be_written_does_not_affect_other_files(work, capsys):
    picture("a.png")
    film("thin.avi", (1, 48), 2)
    assert detect("a.png", "thin.avi") == 1
    assert "'thin.avi': OpenCV cannot" in capsys.readouterr().err
    assert files() == {*TABLES, "a.png"}


def test_films_without_opencv_say_what_to_install(work, capsys, monkeypatch):
    Path("film.mp4").write_bytes(b"")
    picture("a.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert detect("film.mp4", "a.png") == 1
    assert capsys.readouterr().err == "error: 'film.mp4': films need OpenCV: pip install opencv-python-headless\n"
