"""Several processes give the results of one, and a killed process costs nothing."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from training_runs import STEPS, losses, script

from gdino_lib.training.log import read_log

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_processes_give_the_losses_of_one(tmp_path):
    path = script(tmp_path, epochs=7, ema=0.9, lr_scale={"text_encoder.bert": 0.0})  # 21 steps, no BERT's dropout
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(path), "two"]
    for command in (launch, [sys.executable, str(path), "one"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 21
    for (alone, norm, _), (together, other, _) in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
        assert other == pytest.approx(norm, rel=0.05)  # rounding errors are let in by every ReLU
    (_, validated), (_, validated_alone) = read_log(tmp_path / "two"), read_log(tmp_path / "one")
    assert len(validated) == len(validated_alone) == 7
    for entry, alone in zip(validated, validated_alone, strict=True):
        assert entry["ap"] == pytest.approx(alone["ap"], abs=0.02)


@pytest.mark.slow
def test_losses_switched_off_on_several_processes(tmp_path):
    path = script(tmp_path, epochs=2, loss={"layers": 0.0, "proposals": 0.0})
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(path), "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "two")) == STEPS


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    """SIGKILL ends the run while it starts, learns, validates or saves."""
    path = script(tmp_path, epochs=40, save_every=1)
    subprocess.run([sys.executable, str(path), "whole"], check=True)
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        process = subprocess.Popen([sys.executable, str(path), "killed", "--resume"])
        log, before = tmp_path / "killed" / "log.jsonl", 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # until it has begun to learn
            if log.is_file() and (size := log.stat().st_size) != before:
                if before:
                    break
                before = size
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    subprocess.run([sys.executable, str(path), "killed", "--resume"], check=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
