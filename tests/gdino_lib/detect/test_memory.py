"""A detector that works for days: its memory and its open files stay as they are."""

import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[2] / "helpers"

# nano on pictures of the sizes that cameras and screens have, with phrases old and new; prints what the process has for itself, in
# bytes, and its open files after each detection
SCRIPT = """
import random
import numpy as np
import psutil
import gdino_lib as gd

def own_memory():
    with open("/proc/self/status") as file:  # pages of files, which the system takes back when it likes, are not in it
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
def test_500_detections_leave_memory_and_open_files_as_they_are():
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
