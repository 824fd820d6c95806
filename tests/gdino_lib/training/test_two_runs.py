"""Two runs in one folder, and killed runs: nothing is lost, and one line gives the reason of a refusal."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import SETTINGS
from training_runs import Interrupting, losses, run, script

import gdino_lib as gd
from data_prep import atomic
from data_prep.formats import csv_table
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training import checkpoints
from gdino_lib.training.log import read_log

pytestmark = pytest.mark.usefixtures("one_thread")

DYING = """
import os, random, signal
_left = [int({moment})]
def _counted(function):
    def call(*arguments, **options):
        result = function(*arguments, **options)
        _left[0] -= 1
        if not _left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
for _name in ("replace", "fsync", "unlink", "mkdir", "rmdir"):
    setattr(os, _name, _counted(getattr(os, _name)))
"""


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data_of(tmp_path):
    records = csv_table.read(tmp_path / "shapes.csv")
    return GroundingDataset(records, tmp_path / "images", EvaluationTransform(64, 64))


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path, workers):
    """The first run may end in any way; the processes of its loader do not keep the lock."""
    path = script(tmp_path, epochs=500, workers=workers)
    first = subprocess.Popen([sys.executable, str(path), "run"], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(BlockingIOError, match=r"run: another run is writing there; wait until it ends"):
            run(tmp_path, data=data_of(tmp_path), settings=replace(SETTINGS, epochs=500), **options)
    second = subprocess.run([sys.executable, str(path), "run", "--resume"], capture_output=True, text=True)
    assert second.returncode == 1
    assert "another run is writing there" in second.stderr.strip().splitlines()[-1]
    assert first.poll() is None
    first.kill()
    first.communicate()
    done = len(losses(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"its run has epochs|other validation data"):  # the folder is free
        run(tmp_path, data=data_of(tmp_path), settings=replace(SETTINGS, epochs=500), resume=True)
    assert len(losses(tmp_path / "run")) == done > 0


def test_a_trainer_refuses_a_folder_that_another_run_has_changed(tmp_path, images):
    for name in ("late", "later"):
        images.transform = Interrupting(6, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, name, data=images).fit()
        images.transform = EvaluationTransform(64, 64)
        waiting = run(tmp_path, name, data=images, resume=True)
        run(tmp_path, name, data=images, resume=True).fit()
        before = files(tmp_path / name)
        with pytest.raises(FileExistsError, match="another run has changed the folder meanwhile"):
            waiting.fit()
        assert files(tmp_path / name) == before


def test_a_folder_that_another_run_began_is_left_alone(tmp_path, images):
    waiting = run(tmp_path, data=images)
    run(tmp_path, data=images).fit()
    before = files(tmp_path / "run")
    with pytest.raises(FileExistsError, match="is not empty"):
        waiting.fit()
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("place", ["tensorboard", "checkpoints", "checkpoints/step-00000006", "best-adapters", ""])
def test_files_that_no_run_wrote_are_never_removed(tmp_path, images, place):
    run(tmp_path, data=images).fit()
    mine = tmp_path / "run" / place / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = files(tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"holds '.*mine\.txt', which no run wrote"):
        run(tmp_path, data=images, overwrite=True)
    assert files(tmp_path / "run") == before
    run(tmp_path, settings=replace(SETTINGS, epochs=4), data=images, resume=True).fit()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["best.safetensors", "last.safetensors", "best.thresholds.json", "tensorboard/events.out.tfevents.1"]
)
@pytest.mark.parametrize("way", ["resume", "overwrite"])
def test_a_file_that_only_has_the_name_of_a_result_is_never_replaced(tmp_path, images, name, way):
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds '{re.escape(name)}', which no run wrote"):
        run(tmp_path, data=images, **{way: True})
    assert mine.read_text() == "mine"


def test_a_run_killed_while_it_removed_an_earlier_run_can_be_repeated(tmp_path, images, monkeypatch):
    run(tmp_path, data=images).fit()
    unlink = Path.unlink

    def killed(path, **options):
        if path.name == "last.safetensors":
            raise KeyboardInterrupt
        unlink(path, **options)

    again = run(tmp_path, data=images, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            again.fit()
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"last.safetensors", "log.jsonl"} <= there
    assert "checkpoints" not in there
    run(tmp_path, data=images, overwrite=True).fit()


@pytest.mark.parametrize("call", [1, pytest.param(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 16))])
def test_a_full_disk_at_any_write_loses_nothing(tmp_path, images, monkeypatch, call):
    left, fsync = [call], os.fsync

    def full(descriptor):
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    settings = replace(SETTINGS, save_every=1)
    monkeypatch.setattr(atomic.os, "fsync", full)
    try:
        run(tmp_path, settings=settings, data=images).fit()
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 - how many writes there are is not known here
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob("*.partial"))
    for folder in checkpoints.steps(tmp_path / "run"):
        checkpoints.read(folder)
    run(tmp_path, settings=settings, data=images, resume=True).fit()
    run(tmp_path, "whole", settings, data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3, 8, 13, 21, 29, 38, 47, 55, 70])
def test_a_run_that_is_killed_at_any_write_resumes_bit_for_bit(tmp_path, moment):
    """The kill comes after a file was flushed, renamed or removed, or a folder was made."""
    path = script(tmp_path, save_every=1, ema=0.5)
    subprocess.run([sys.executable, str(path), "whole"], check=True)
    dying = tmp_path / "dying.py"
    dying.write_text(path.read_text().replace("Trainer(model()", DYING.format(moment=moment) + "Trainer(model()", 1))
    killed = subprocess.run([sys.executable, str(dying), "run", "--resume"])
    assert killed.returncode == -signal.SIGKILL
    for folder in checkpoints.steps(tmp_path / "run"):
        checkpoints.read(folder)
    for name in ("best", "last"):
        if (tmp_path / "run" / f"{name}.safetensors").exists():
            gd.load(tmp_path / "run" / f"{name}.safetensors", "cpu")
    subprocess.run([sys.executable, str(path), "run", "--resume"], check=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert read_log(tmp_path / "run")[1] == read_log(tmp_path / "whole")[1]
    whole, again = (gd.load(tmp_path / name / "last.safetensors", "cpu").state_dict() for name in ("whole", "run"))
    assert all((whole[name] == again[name]).all() for name in whole)
    assert not list((tmp_path / "run").rglob(".*"))
