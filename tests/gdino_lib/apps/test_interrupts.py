"""The files that interrupted, terminated and killed runs leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detect_runs import LOW, TABLES, ctrl_c, detect, document, files, film, interrupt_at, picture, unexpected
from PIL import Image

from data_prep.formats import coco
from gdino_lib.weights.loading import save

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("replacing", [False, True])
def test_ctrl_c_keeps_the_results_so_far_unless_they_would_replace_older_results(work, capsys, monkeypatch, replacing):
    for name in "abc":
        picture(f"in/{name}.png")
    if replacing:
        assert detect("in/a.png") == 0
        before = Path("detections/detections.json").read_bytes()
    interrupt_at(monkeypatch, 3, ctrl_c)
    capsys.readouterr()
    assert detect("in", "--overwrite") == 130
    err = capsys.readouterr().err
    assert {path.name for path in work.iterdir()} == {"in", "detections"}
    if replacing:
        assert err == "interrupted after 2 of 3 files; detections is unchanged\n"
        assert Path("detections/detections.json").read_bytes() == before
    else:
        assert err == "interrupted after 2 of 3 files; the results so far are in detections\n"
        assert files() == TABLES | {"a.png", "b.png"}
        assert document()["complete"] is False
        assert len(coco.read("detections/detections.coco.json").images) == 2


def test_an_interrupt_at_the_first_file_leaves_nothing(work, capsys, monkeypatch):
    picture("a.png")
    interrupt_at(monkeypatch, 1, ctrl_c)
    assert detect("a.png") == 130
    assert capsys.readouterr().err == "interrupted; no half-written file is left\n"
    assert [path.name for path in work.iterdir()] == ["a.png"]


def test_an_interrupt_while_an_image_is_written_leaves_no_half_written_image(work, monkeypatch):
    for name in "abc":
        picture(f"in/{name}.png")
    real = Image.Image.save

    def save_half(self, path, *arguments, **options):
        real(self, path, *arguments, **options)
        if Path(path).name == "b.png":
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save_half)
    assert detect("in") == 130
    assert files() == {*TABLES, "a.png"}


def test_an_interrupt_in_a_film_leaves_no_half_written_film(work, monkeypatch):
    picture("a.png")
    film("film.avi")
    interrupt_at(monkeypatch, 3, ctrl_c)
    assert detect("a.png", "film.avi") == 130
    assert files() == {*TABLES, "a.png"}


def test_sigterm_keeps_the_results_so_far(work, monkeypatch):
    for name in "abc":
        picture(f"in/{name}.png")
    interrupt_at(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        detect("in")
    assert end.value.code == 143
    assert files() == {*TABLES, "a.png"}


def test_a_full_disk_leaves_nothing(work, capsys, monkeypatch):
    picture("a.png")
    picture("b.png")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coco, "write", full)
    assert detect("a.png", "b.png") == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert {path.name for path in work.iterdir()} == {"a.png", "b.png"}


def test_a_killed_process_leaves_no_results_and_the_next_run_removes_its_files(work, model):
    save(model, "small.safetensors")
    for number in range(120):
        picture(f"in/{number:03}.png", (400, 300), number)
    command = [
        sys.executable,
        "-m",
        "gdino_lib.cli.main",
        "detect",
        "in",
        "--phrases",
        "cat",
        "--model",
        "small.safetensors",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *LOW], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not Path(".detections.partial/002.png").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    lines, errors = process.communicate()
    assert "in/000.png: " in lines
    assert unexpected(errors) == [], "no progress bar in a pipe"
    assert Path(".detections.partial").exists()
    assert not Path("detections").exists()
    assert detect("in/11*.png") == 0
    assert not Path(".detections.partial").exists()
    assert len(files()) == 13
