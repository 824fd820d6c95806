"""The calibration of scores, and the choice of score thresholds."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_up_detectors import SQUARES, detections, perfect, unnamed

from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.evaluation.calibration import calibrate, choose_thresholds
from gdino_lib.evaluation.matching import Matches, match_all


def made(confidence, correct, class_id=None, objects=((10, 10),)):
    n = len(confidence)
    ids = np.zeros(n, int) if class_id is None else np.array(class_id)
    return Matches(
        ("cat", "dog"), np.array(confidence, float), np.array(correct, bool), ids, np.zeros(n, int), np.array(objects)
    )


def test_calibration_by_hand():
    result = calibrate(made([0.95, 0.95, 0.15, 0.15, 1.0, 0.01], [1, 0, 0, 0, 1, 0]))
    last, second = result.bins[9], result.bins[1]
    assert (last.boxes, second.boxes) == (3, 2)
    assert last.confidence == pytest.approx(2.9 / 3)
    assert last.precision == pytest.approx(2 / 3)
    assert result.bins[0].boxes == 0, "the score 0.01 is below min_confidence"
    assert result.bins[0].precision is None
    assert result.error == pytest.approx((3 * (2.9 / 3 - 2 / 3) + 2 * 0.15) / 5)
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert calibrate(made([], [])).error is None


def test_calibrated_scores_have_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.05, 1, 200_000)
    correct = rng.uniform(size=200_000) < confidence
    assert calibrate(made(confidence, correct)).error < 0.01
    assert calibrate(made(np.sqrt(confidence), correct)).error > 0.1


def test_thresholds_by_hand():
    matches = made([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 0], class_id=[0, 0, 0, 0, 0, 1], objects=((4, 1),))
    chosen = choose_thresholds(matches)
    assert chosen.classes == {"cat": 0.6}, "dogs were never found"
    assert chosen.f1["cat"] == pytest.approx(2 * 3 / (4 + 4))
    assert chosen.default == 0.6


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 5),
)
def test_no_other_threshold_is_better(boxes, missed):
    confidence, correct = map(np.array, zip(*boxes, strict=True))
    objects = int(correct.sum()) + missed
    assume(objects)
    chosen = choose_thresholds(made(confidence, correct, objects=((objects, 0),)))

    def f1(threshold):
        shown = confidence >= threshold
        return 2 * correct[shown].sum() / (shown.sum() + objects)

    best = max(f1(score) for score in confidence)
    assert chosen.f1.get("cat", 0) == pytest.approx(best)
    if best > 0:
        assert f1(chosen.classes["cat"]) == pytest.approx(best)


def test_thresholds_are_saved_loaded_and_applied(tmp_path):
    chosen = Thresholds(0.5, {"red square": 0.8, "blue_square": 0.1}, {"red square": 1.0})
    path = thresholds_path(tmp_path)
    assert path == tmp_path / "thresholds.json"
    assert thresholds_path(tmp_path / "best.safetensors") == tmp_path / "best.thresholds.json"
    chosen.save(path)
    assert Thresholds.load(path) == chosen
    found = detections(
        ("red square", (0, 0, 9, 9), 0.7),
        ("red square", (0, 0, 9, 9), 0.81),
        ("green square", (0, 0, 9, 9), 0.5),
        ("blue_square", (0, 0, 9, 9), 0.2),
    )
    assert chosen.keep(found).confidence.tolist() == pytest.approx([0.81, 0.5, 0.2])
    assert len(chosen.keep(detections())) == 0
    with pytest.raises(ValueError, match="class_name"):
        chosen.keep(unnamed(0))
    with pytest.raises(FileNotFoundError, match="no such file"):
        Thresholds.load(tmp_path / "other.json")
    for text in ("[1]", "{}", "nonsense", '{"default": 2, "classes": {}}', '{"default": 0.5, "classes": {"a": "b"}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"thresholds\.json: expected"):
            Thresholds.load(path)


def test_a_threshold_that_is_saved_and_loaded_keeps_the_box_with_its_score(dataset, tmp_path):
    found = {name: detections() for name in perfect(dataset)}
    found["0.png"] = detections(("red square", SQUARES["red square"], 0.1))  # 0.1 in float32 differs from 0.1
    choose_thresholds(match_all(dataset, found)).save(tmp_path / "t.json")
    assert len(Thresholds.load(tmp_path / "t.json").keep(found["0.png"])) == 1
