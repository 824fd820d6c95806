"""The films of `benchmarks/video.py`: the true boxes are those of the drawn objects."""

from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

from gdino_lib.detect.frames import Film

ROOT = Path(__file__).parents[3]


def test_the_true_boxes_hold_all_that_is_drawn_and_no_more(tmp_path):
    for package in ("av", "trackers", "emoji", "resvg_py"):
        pytest.importorskip(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # the scripts import one another
        script = load_script("benchmarks/video")
    path, names, truth = script.draw_film(tmp_path, 0, 6)
    assert len(names) == script.OBJECTS
    frames = list(Film(path).frames())
    assert len(frames) == len(truth) == 6
    for frame, boxes in zip(frames, truth, strict=True):
        drawn = np.abs(frame.pixels.astype(int) - (230, 228, 220)).max(axis=2) > 40
        outside = drawn.copy()
        for left, top, right, bottom in boxes.values():
            outside[top - 2 : bottom + 2, left - 2 : right + 2] = False
            inside = drawn[top:bottom, left:right]
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            assert rows[0] <= 3
            assert columns[0] <= 3
            assert rows[-1] >= bottom - top - 4
            assert columns[-1] >= right - left - 4
        assert not outside.any()
