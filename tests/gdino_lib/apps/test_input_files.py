"""The inputs of the command line become files, each with a name of its own."""

import os
from pathlib import Path

import pytest
from detect_runs import TABLES, detect, document, files, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.formats import coco, csv_table
from gdino_lib.apps.input_files import find_input_files


def test_folders_patterns_and_files_give_each_file_once(work):
    for name in ("in/b/x.jpg", "in/a/x.jpg", "in/a/y.PNG", "in/.hidden/z.png", "in/.z.png", "other/q.gif"):
        picture(name)
    Path("in/notes.txt").write_text("no image")
    Path("in/a/[1].png").write_bytes(Path("in/a/y.PNG").read_bytes())
    out = work / "detections"

    def names(*inputs):
        found = find_input_files(inputs, out)
        assert (found.unusable, found.not_read) == ([], {})
        return [file.name for file in found.files]

    everything = ["a/[1].png", "a/x.jpg", "a/y.PNG", "b/x.jpg"]
    assert names("in") == names("in", "in/a/x.jpg", "./in/a") == everything
    assert names("in/*") == [*everything, "notes.txt"] == names("in/**"), (
        "a pattern gives the files that a shell would give"
    )
    assert names("in/**/*.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert names("in/a/[1].png") == ["[1].png"]
    assert names("other/q.gif", "in/b/x.jpg") == ["other/q.gif", "in/b/x.jpg"]
    assert names("in/a") == ["[1].png", "x.jpg", "y.PNG"]
    picture("in/results/old.png")
    assert "results/old.png" not in [file.name for file in find_input_files(["in"], work / "in" / "results").files]


NAMES = ["a.png", "sub/b.JPG", "phone.heic", "sub/raw.DNG", "Thumbs.db", "noname", "notes.txt", "boxes.json", ".x.heic"]
NAMES += ["results/old.heic", "sub/.hidden/c.heic", "clip.mp4"]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(NAMES)))
def test_every_file_of_a_folder_is_read_or_named(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("in")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = find_input_files([str(folder)], folder / "results")
    read = {os.path.relpath(file.path, folder) for file in found.files}
    assert read == names & {"a.png", "sub/b.JPG", "clip.mp4"}
    assert set(found.not_read.get(str(folder), [])) == names & {"phone.heic", "sub/raw.DNG", "Thumbs.db", "noname"}
    assert len(found.unusable) == (not read)


def test_files_that_are_not_read_are_named_in_one_line(work, capsys):
    picture("in/a.png")
    for number in range(12):
        Path(f"in/{number:02}.heic").touch()
    assert detect("in") == 0
    names = ", ".join(f"{number:02}.heic" for number in range(10))
    note = f"note: 'in': not read, because neither images nor films: {names} and 2 more\n"
    assert capsys.readouterr().err == note
    Path("phone").mkdir()
    Path("phone/only.heic").touch()
    assert detect("phone", "--out", "none") == 2
    assert capsys.readouterr().err.splitlines() == [
        "note: 'phone': not read, because neither images nor films: only.heic",
        "error: 'phone': contains no image and no film",
    ]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_entries_of_a_folder_that_are_not_files_are_named(work, capsys):
    picture("in/a.png")
    Path("in/link.png").symlink_to("nowhere.png")
    os.mkfifo("in/pipe.png")
    assert detect("in") == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: 'in/link.png': expected a file, got a dangling link",
        "error: 'in/pipe.png': expected a file, got a pipe or a device",
    ]


def test_no_two_files_have_the_same_name(work):
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


def test_a_pipe_is_refused_without_waiting(work, capsys):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo("pipe.png")
    assert detect("pipe.png") == 2
    assert "pipe or a device" in capsys.readouterr().err


def test_the_message_about_a_missing_input_says_what_the_input_may_be(work, capsys):
    Path("empty").mkdir()
    assert detect("*.jpg", "emp*", "control", "gone.png") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: '*.jpg': this pattern matches no file"
    assert lines[1] == "error: 'emp*': contains no image and no film"
    assert '(a word of a phrase? put phrases in quotes: "remote control")' in lines[2]
    assert lines[3] == "error: 'gone.png': no such file; expected an image, a folder, a film or a pattern"
