"""One detector in many threads, in a forked process and in the workers of a loader: results are right, and nothing hangs.

Each case runs in an interpreter of its own, with a time limit.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gdino_lib.ops import native

HELPERS = Path(__file__).parents[2] / "helpers"
TIMEOUT = 120  # seconds; a case takes less than ten

BEGIN = """
import multiprocessing, os, signal, sys, threading, warnings
import numpy as np, torch
import gdino_lib as gd
from small_detectors import ALL, build, picture

warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of a fork beside threads
PHRASES = ["cat", "remote control", "a person with an umbrella"]
# images large enough for PyTorch to divide the work among its threads
PICTURES = [picture(seed, (900, 600)) for seed in range(4)]
"""

FORKED = """
torch.set_num_threads(2)
detector = build(short_side=400, long_side=600)
detector(PICTURES[0], PHRASES, **ALL)  # starts PyTorch's threads
torch.set_num_threads(1)  # a child process has one thread, and equal numbers of threads give equal bits
expected = [detector(image, PHRASES, **ALL) for image in PICTURES]
torch.set_num_threads(2)

def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("xyxy", "confidence", "class_id"))

def child_finds_the_same(image, truth):
    process = os.fork()
    if process == 0:
        signal.alarm(60)
        os._exit(0 if same(detector(image, PHRASES, **ALL), truth) else 1)
    return os.waitpid(process, 0)[1] == 0

assert all(child_finds_the_same(*pair) for pair in zip(PICTURES, expected))
assert torch.get_num_threads() == 2, "the parent keeps its threads"
"""

LOADED_AFTER_FORK = """
gd.Detector.from_pretrained("nano", "cpu")
process = os.fork()
if process == 0:
    signal.alarm(60)
    gd.Detector.from_pretrained("nano", "cpu")(PICTURES[0], PHRASES)
    os._exit(0)
assert os.waitpid(process, 0)[1] == 0
"""

FORKED_BESIDE_THREADS = """
stop = False

def keep_asking(number):
    count = 0
    while not stop:
        detector(PICTURES[number], PHRASES + [f"{number} and {count}"], **ALL)  # BERT always has a new phrase to read
        count += 1

threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
results = [child_finds_the_same(PICTURES[0], expected[0]) for _ in range(12)]
stop = True
for thread in threads:
    thread.join()
assert all(results), results
"""

LOADER = """
class Found(torch.utils.data.Dataset):
    def __init__(self, detector):
        self.detector = detector

    def __len__(self):
        return len(PICTURES)

    def __getitem__(self, index):
        return self.detector(PICTURES[index], PHRASES, **ALL)

if __name__ == "__main__":
    torch.set_num_threads(2)
    detector = build(short_side=400, long_side=600)
    expected = [detector(image, PHRASES, **ALL) for image in PICTURES]
    loader = torch.utils.data.DataLoader(
        Found(detector), None, num_workers=2, multiprocessing_context={context!r}, timeout=60
    )
    for found, truth in zip(loader, expected, strict=True):
        np.testing.assert_allclose(found.xyxy, truth.xyxy, atol=1e-3)
        np.testing.assert_allclose(found.confidence, truth.confidence, atol=1e-5)
        assert found.data["class_name"].tolist() == truth.data["class_name"].tolist()
"""

COLD_THREADS = """
sys.setswitchinterval(1e-5)
torch.set_num_threads(1)
detector, gate, found = build(), threading.Barrier(12), {}

def ask(number):
    gate.wait()
    found[number] = detector(PICTURES[number % 4], PHRASES, **ALL)

threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 12, "a thread ended in an error"
for number, result in found.items():
    alone = detector(PICTURES[number % 4], PHRASES, **ALL)
    assert np.array_equal(result.xyxy, alone.xyxy), number
    assert result.data["class_name"].tolist() == alone.data["class_name"].tolist()
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
CASES = [
    pytest.param(FORKED + FORKED_BESIDE_THREADS, id="forked", marks=forks),
    pytest.param(LOADER.format(context="fork"), id="loader, fork", marks=forks),
    pytest.param(LOADER.format(context="spawn"), id="loader, spawn", marks=pytest.mark.slow),
    pytest.param(COLD_THREADS, id="threads that begin at once"),
    pytest.param(LOADED_AFTER_FORK, id="loaded after a fork", marks=[forks, pytest.mark.slow]),
]


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_one_process_and_nothing_hangs(case, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BEGIN + case, "utf-8")
    paths = os.pathsep.join([str(HELPERS), str(Path(native.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_one_of_several_threads_loads_the_op_and_the_others_wait(monkeypatch):
    loads, answers, gate = [], [], threading.Barrier(8)

    def load(device):
        loads.append(device)
        time.sleep(0.2)

    def ask():
        gate.wait()
        answers.append(native.load_library("cpu"))

    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setattr(native, "_load_or_build", load)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["cpu"]
    assert answers == [True] * 8, "no thread uses the reference while another one loads the op"
