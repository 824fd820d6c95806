"""A detector that runs for days: the memory and the number of open files of its process do not grow."""

import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[2] / "helpers"

# nano detects on pictures of usual camera and screen sizes, with old and new phrases; after each detection the script prints
# the private memory of the process in bytes and the number of its open files
SCRIPT = """
import random
import numpy as np
import psutil
import gdino_lib as gd

def own_memory():
    with open("/proc/self/status") as file:  # anonymous memory alone: the system can drop pages of files at any time
        values = dict(line.split(":") for line in file)
    return sum(int(values[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))

SIZES = [(640, 480), (480, 640), (800, 600), (1280, 720), (720, 1280), (1024, 1024), (300, 200), (64, 64), (1600, 1200), (1, 1),
         (1000, 30), (500, 333), (333, 500), (1920, 1080), (224, 224), (1500, 1000)]
WORDS = ["cat", "dog", "bus", "fire hydrant", "tropical fish", "person with an umbrella", "magic wand"]
detector, process, rng = gd.Detector.from_pretrained("nano", "cpu"), psutil.Process(), random.Random(0)
pixels = np.random.default_rng(0).integers(0, 256, (1280, 1920, 3), dtype=np.uint8)
for _ in range(500):
    width, height = rng.choice(SIZES)
    phrases = rng.sample(WORDS, rng.randint(1, len(WORDS)))
    if rng.random() < 0.5:
        phrases.append(f"thing {rng.randint(0, 10**9)}")  # no phrase of an earlier call
    found = detector(pixels[:height, :width], phrases, box_threshold=0.1, text_threshold=0.1)
    assert set(found.data["class_name"]) <= set(phrases)
    print(own_memory(), process.num_fds(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files as Linux does")
def test_500_detections_neither_grow_memory_nor_leave_files_open():
    pytest.importorskip("psutil")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    memory, files = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert len(memory) == 500
    start = max(memory[:100])
    after = max(memory[100:])
    print(
        f"\n{start / 1e6:.0f} MB at most in the first 100 detections, {after / 1e6:.0f} MB afterwards; {files[-1]} open files"
    )
    assert after <= 1.03 * start
    assert max(files[100:]) == files[99]
