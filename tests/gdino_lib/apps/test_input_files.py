"""What stands on the command line becomes files, each with a name."""

import os
from pathlib import Path

import pytest
from detect_runs import TABLES, detect, document, files, picture

from data_prep.formats import coco, csv_table
from gdino_lib.apps.input_files import find_input_files


def test_folders_patterns_and_files_each_once(work):
    for name in ("in/b/x.jpg", "in/a/x.jpg", "in/a/y.PNG", "in/.hidden/z.png", "in/.z.png", "other/q.gif"):
        picture(name)
    Path("in/notes.txt").write_text("no image")
    Path("in/a/[1].png").write_bytes(Path("in/a/y.PNG").read_bytes())
    out = work / "detections"

    def names(*inputs):
        found, useless = find_input_files(inputs, out)
        assert useless == []
        return [file.name for file in found]

    everything = ["a/[1].png", "a/x.jpg", "a/y.PNG", "b/x.jpg"]
    assert names("in") == names("in", "in/a/x.jpg", "./in/a") == everything
    assert names("in/*") == [*everything, "notes.txt"] == names("in/**"), "as a shell would read it"
    assert names("in/**/*.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert names("in/a/[1].png") == ["[1].png"]
    assert names("other/q.gif", "in/b/x.jpg") == ["other/q.gif", "in/b/x.jpg"]
    assert names("in/a") == ["[1].png", "x.jpg", "y.PNG"]
    picture("in/results/old.png")
    assert "results/old.png" not in [file.name for file in find_input_files(["in"], work / "in" / "results")[0]]


def test_names_never_collide(work):
    inputs = [
        picture("a/x.jpg"),
        picture("b/x.jpg"),
        picture("b/X.jpg", seed=1),
        picture("b/x.gif"),
        picture("b/x.gif.png"),
    ]
    if len(list(Path("b").iterdir())) < 4:
        pytest.skip("this file system does not tell letter case apart")
    assert detect(*inputs) == 0
    assert files() == TABLES | {"a/x.jpg", "b/x.jpg", "b/X-2.jpg", "b/x.gif.png", "b/x.gif-2.png"}
    assert [image["name"] for image in document()["images"]] == inputs
    assert len(coco.read("detections/detections.coco.json").images) == 5


def test_names_of_every_script_survive(work, capsys):
    names = ["with space.png", "кошка.png", "猫 🐈.png", "é" * 90 + ".png", "-dash.png", "100%.png", "[a].png"]
    if os.name == "posix":
        names += ["a\nb.png", "back\\slash.png", os.fsdecode(b"latin\xe9.png"), "x" * 251 + ".png"]
    for name in names:
        picture(f"in/{name}")
    assert detect("in", phrases="猫 . cat") == 0
    recorded = {image["name"] for image in document()["images"]}
    assert {"with space.png", "кошка.png", "猫 🐈.png", "[a].png"} < recorded
    assert len(recorded) == len(names)
    assert len(files()) == len(names) + 3
    assert {image.file_name for image in coco.read("detections/detections.coco.json").images} == recorded
    assert {image.file_name for image in csv_table.read("detections/detections.csv").images} == recorded
    assert len(capsys.readouterr().out.splitlines()) == len(names) + 1


def test_a_pipe_is_not_waited_for(work, capsys):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo("pipe.png")
    assert detect("pipe.png") == 2
    assert "pipe or a device" in capsys.readouterr().err


def test_inputs_that_are_not_there_say_what_they_may_be(work, capsys):
    Path("empty").mkdir()
    assert detect("*.jpg", "emp*", "control", "gone.png") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: '*.jpg': this pattern matches no file"
    assert "holds no image and no film" in lines[1] or "no image and no film in this folder" in lines[1]
    assert '(a word of a phrase? "remote control" takes quotes)' in lines[2]
    assert lines[3] == "error: 'gone.png': no such file; expected an image, a folder, a film or a pattern"
