"""Figures of masks and edits that `book/data` stores: how they are measured, and that they fit the settings of their script."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from gdino_lib.nano.scenes import Scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # the scripts import one another
        yield load_script("benchmarks/edits")


def test_stored_figures_have_the_settings_of_their_script(script):
    measured = json.loads((ROOT / "book" / "data" / "edits.json").read_text())
    assert {key: measured[key] for key in script.about()} == script.about()
    for figures in measured["right things"].values():
        assert [row["threshold"] for row in figures["alone"]] == list(script.THRESHOLDS)
        edits = [row["edits"] for row in figures["alone"]]
        assert edits == sorted(edits, reverse=True)


def test_a_thing_shows_what_later_things_do_not_hide(script):
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :, :2] = masks[1, :2] = masks[2, 0, 0] = True
    seen = script.visible(Scene(Image.new("RGB", (4, 4)), None, masks))
    assert seen.sum((1, 2)).tolist() == [4, 7, 1]
    assert not (seen.sum(0) > 1).any()
    np.testing.assert_array_equal(seen.any(0), masks.any(0))


def test_wrong_boxes_are_wrong_by_a_tenth(script):
    boxes = np.float32([[100, 100, 200, 140]])
    assert np.abs(script.shifted(boxes, random.Random(0)) - boxes).tolist() == [[10, 4, 10, 4]]
    np.testing.assert_allclose(script.scaled(boxes, 0.9), [[105, 102, 195, 138]])
    np.testing.assert_allclose(script.scaled(boxes, 1.1), [[95, 98, 205, 142]])
