"""Signals: when a run stops, what it saves, and that it resumes as if it had not stopped."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from small_runs import SETTINGS, SIDE, model
from training_runs import STEPS, Interrupting, losses, run, script

import gdino_lib as gd
from data_prep import Dataset
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training import checkpoints
from gdino_lib.training.log import read_log
from gdino_lib.training.stop import InterruptedValidation, StopRequest
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, images, number, error):
    run(tmp_path, "whole", data=images).fit()
    handler = signal.getsignal(number)  # a shell's background jobs ignore Ctrl-C
    images.transform = Interrupting(6, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(error) as stopped:
        run(tmp_path, "stopped", data=images).fit()
    if number == signal.SIGTERM:
        assert stopped.value.code == 143
    assert [path.name for path in checkpoints.steps(tmp_path / "stopped")] == ["step-00000001"]  # a batch is read ahead
    assert signal.getsignal(number) == handler
    images.transform = EvaluationTransform(SIDE, SIDE)
    run(tmp_path, "stopped", data=images, resume=True).fit()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_signal_interrupts_a_validation_which_is_repeated(tmp_path, images):
    settings, validation = replace(SETTINGS, ema=0.5), Validation(Dataset(images.records), images.images)
    run(tmp_path, "whole", settings, data=images, validation=validation).fit()

    class Stopped(Trainer):
        def _measure(self):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")

    options = {"workers": 0, "device": "cpu", "progress": False, "validation": validation}
    with pytest.raises(SystemExit):
        Stopped(model(), images, settings, tmp_path / "stopped", **options).fit()
    assert [path.name for path in checkpoints.steps(tmp_path / "stopped")] == ["step-00000003"]
    run(tmp_path, "stopped", settings, data=images, validation=validation, resume=True).fit()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert read_log(tmp_path / "stopped")[1] == read_log(tmp_path / "whole")[1]


class StoppedSaving(Trainer):
    """A trainer that gets SIGTERM whenever it writes weights."""

    def _save_weights(self, name, averaged=False):
        os.kill(os.getpid(), signal.SIGTERM)
        super()._save_weights(name, averaged)


def test_a_signal_while_the_best_is_written_loses_nothing(tmp_path, images):
    """The weights are written whole, with their thresholds and the entry of the log; then the run stops."""
    settings, validation = replace(SETTINGS, ema=0.5), Validation(Dataset(images.records), images.images)

    options = {"workers": 0, "device": "cpu", "progress": False, "validation": validation}
    with pytest.raises(SystemExit):
        StoppedSaving(model(), images, settings, tmp_path / "stopped", **options).fit()
    assert [path.name for path in checkpoints.steps(tmp_path / "stopped")] == ["step-00000003"]
    assert [entry["step"] for entry in read_log(tmp_path / "stopped")[1]] == [3]
    assert (tmp_path / "stopped" / "best.thresholds.json").is_file()
    gd.load(tmp_path / "stopped" / "best.safetensors")
    run(tmp_path, "stopped", settings, data=images, validation=validation, resume=True).fit()
    run(tmp_path, "whole", settings, data=images, validation=validation).fit()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert read_log(tmp_path / "stopped")[1] == read_log(tmp_path / "whole")[1]


def test_a_signal_during_the_last_save_still_stops(tmp_path, images):
    with pytest.raises(SystemExit) as stopped:
        StoppedSaving(model(), images, SETTINGS, tmp_path / "run", workers=0, device="cpu", progress=False).fit()
    assert stopped.value.code == 143
    gd.load(tmp_path / "run" / "last.safetensors")


def test_an_interrupted_trainer_can_continue(tmp_path, images):
    """A user may interrupt the cell of a notebook and run it again."""
    images.transform = Interrupting(6, lambda _: os.kill(os.getpid(), signal.SIGINT))
    training = run(tmp_path, data=images)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    assert training.fit().step == STEPS
    run(tmp_path, "whole", data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_reaches_the_trainer_alone(tmp_path, number):
    """Launchers, `timeout` and Ctrl-C signal the whole group; the loader's workers must survive that."""
    path = script(tmp_path, epochs=200, workers=2)
    process = subprocess.Popen(
        [sys.executable, str(path), "run"], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (143, 1 if number == signal.SIGINT else 143, -number), said
    steps = losses(tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run")[-1].name == f"step-{len(steps):08d}"


def test_a_request_is_polled_and_a_second_signal_acts_as_before(capsys):
    seen, stop = [], StopRequest()
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("second"))
    try:
        with stop.listening():
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
            assert seen == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == ["second"]
        with stop.listening():
            assert not stop.requested, "the request of an earlier block"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "stopping after this step ...\n"


def test_a_request_interrupts_only_an_immediate_block():
    stop = StopRequest(verbose=False)
    with stop.listening():
        with pytest.raises(InterruptedValidation), stop.immediate():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    with stop.listening(), stop.immediate(enabled=False):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit):
        stop.end("told")


def test_another_thread_trains_without_signals():
    handler = signal.getsignal(signal.SIGTERM)

    def train():
        with StopRequest().listening():
            assert signal.getsignal(signal.SIGTERM) == handler

    with ThreadPoolExecutor(1) as pool:
        pool.submit(train).result()
