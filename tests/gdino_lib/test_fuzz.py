"""Thousands of seeded inputs that nobody should give: no traceback, no hang, no loss without a word, nothing half-written.

`pytest tests/gdino_lib/test_fuzz.py -s -m slow` prints the figures; `test_one_input` runs one again, as in
`GDINO_FUZZ="data_prep 17" pytest tests/gdino_lib/test_fuzz.py -k one_input`.
"""

import os
import random
import sys
import time

import fuzz_commands
import fuzz_data
import fuzz_meaning
import fuzz_runs
import fuzz_threads
import fuzz_weights
import pytest
from fuzz import fuzz, summary
from peers import SMALL, randomise

import gdino_lib as gd
from gdino_lib import config
from gdino_lib.weights.loading import choose_device

ROOMS = {  # what tries an input; how many `make test` takes; how many there are
    "data_prep": (fuzz_data.attack, 80, 1600),
    "meaning": (fuzz_meaning.attack, 40, 800),
    "commands": (fuzz_commands.attack, 80, 1200),
    "weights": (fuzz_weights.attack, 50, 800),
    "runs": (fuzz_runs.attack, 10, 300),
    "threads": (fuzz_threads.attack, 40, 500),
}
MEMORY = 12 << 30  # bytes: what asks for more than that at once is refused by the system, not given

pytestmark = [
    pytest.mark.usefixtures("one_thread", "limited_memory", "small_model"),
    pytest.mark.skipif(os.name == "nt", reason="the limits are those of POSIX"),
]


@pytest.fixture
def limited_memory():
    """A bomb shall hurt nobody: the process may take `MEMORY` more than it has."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def small_model(monkeypatch):
    """`gdino detect` has a small model, whatever name is asked for; random weights of "nano" are small ones, too."""
    settings = {"swin_depths": (1, 1, 1, 1), "encoder_layers": 1, "decoder_layers": 2}
    model = gd.GroundingDINO(SMALL.replace(short_side=64, long_side=128, **settings))
    randomise(model, seed=3)
    monkeypatch.setattr("gdino_lib.detect.detector.load", lambda _, device: model.to(choose_device(device)))
    monkeypatch.setitem(config.PRESETS, "nano", config.PRESETS["nano"])  # restored afterwards


def run_room(name, count, folder):
    start = time.perf_counter()
    faults = fuzz(name, ROOMS[name][0], range(count), folder)
    print(f"\n{name}: {count} inputs in {time.perf_counter() - start:.0f} s\n{summary(faults)}")
    assert not faults, f"{name}\n{summary(faults)}"


@pytest.mark.parametrize("name", ROOMS)
def test_some_inputs(name, tmp_path):
    run_room(name, ROOMS[name][1], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOMS)
def test_all_inputs(name, tmp_path):
    run_room(name, ROOMS[name][2], tmp_path)


@pytest.mark.skipif("GDINO_FUZZ" not in os.environ, reason="GDINO_FUZZ names no input")
def test_one_input(tmp_path, monkeypatch):
    name, number = os.environ["GDINO_FUZZ"].split()
    place = tmp_path / f"{name}-{number}"
    place.mkdir()
    monkeypatch.chdir(place)
    ROOMS[name][0](random.Random(f"{name}/{number}"), place)


def test_there_are_as_many_inputs_as_promised():
    assert sum(some for _, some, _ in ROOMS.values()) == 300
    assert sum(count for _, _, count in ROOMS.values()) >= 5000
