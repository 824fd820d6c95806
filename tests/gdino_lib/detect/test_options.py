"""Which of the boxes that a model finds are kept, and which options are refused."""

import numpy as np
import pytest
import torch
from small_detectors import ALL, LONG, build, picture
from torchvision.ops import nms

from gdino_lib.detect.thresholds import Thresholds


@pytest.fixture(scope="module")
def detector():
    return build()


def rows(found):
    """(name, box, confidence) of each, in an order that does not depend on ties."""
    return sorted(
        zip(
            found.data["class_name"].tolist(),
            found.xyxy.round(1).tolist(),
            found.confidence.round(3).tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("max_tokens", [256, 32])
def test_every_phrase_of_a_box_holds_what_its_best_one_says(max_tokens):
    """In one chunk and in several, the pairs marked as best are the boxes that are found without `every_phrase`."""
    detector, words = build(max_tokens=max_tokens), LONG
    plain, every = detector(picture(), words, **ALL), detector(picture(), words, **ALL, every_phrase=True)
    assert rows(every[every.data["best"]]) == rows(plain)
    assert len(every) > len(plain)
    assert (np.diff(every.confidence) <= 0).all()
    kept = detector(picture(), words, **ALL, every_phrase=True, top_k=7)
    assert kept.confidence.tolist() == every.confidence[:7].tolist()


def test_each_threshold_is_compared_with_its_own_score(detector):
    """The box threshold is compared with the best token, the text threshold with the phrase's mean, which is lower."""
    phrases = ["a person with an umbrella"]
    everything = detector(picture(), phrases, **ALL)
    limit = float(np.median(everything.confidence))
    by_text = detector(picture(), phrases, box_threshold=0.0, text_threshold=limit)
    assert len(by_text) == (everything.confidence >= limit).sum()
    by_box = detector(picture(), phrases, box_threshold=limit, text_threshold=0.0)
    best = detector(picture(), phrases, **ALL, score="max")
    assert len(by_box) == (best.confidence >= limit).sum() > len(by_text)


def test_top_k_nms_score_and_referring(detector):
    everything = detector(picture(), ["cat", "dog"], **ALL)
    assert np.array_equal(detector(picture(), ["cat", "dog"], **ALL, top_k=5).xyxy, everything.xyxy[:5])
    suppressed = detector(picture(), ["cat", "dog"], **ALL, nms_iou=0.01)
    kept = []
    for number in (0, 1):
        own = (everything.class_id == number).nonzero()[0]
        boxes, scores = torch.tensor(everything.xyxy[own]), torch.tensor(everything.confidence[own])
        kept += own[nms(boxes, scores, 0.01).numpy()].tolist()
    assert np.array_equal(suppressed.xyxy, everything.xyxy[sorted(kept)])
    assert len(suppressed) < len(everything)
    best = detector(picture(), ["a red circle"], **ALL, score="max").confidence.max()
    assert best > detector(picture(), ["a red circle"], **ALL).confidence.max()
    one = detector.refer(picture(), "the cat on the left")
    assert len(one) == 1
    assert one.data["class_name"].tolist() == ["the cat on the left"]


@pytest.mark.parametrize("text", ["[" * 10_000, '{"default": 0.5, "classes": {}, "f1": {"a": null}}'])
def test_damaged_thresholds_are_refused(tmp_path, text):
    (tmp_path / "thresholds.json").write_text(text)
    with pytest.raises(ValueError, match=r"thresholds\.json: expected .*, got (RecursionError|None)"):
        Thresholds.load(tmp_path / "thresholds.json")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((picture(), []), ValueError, "no phrases"),
        ((picture(), " . "), ValueError, "no phrases"),
        ((picture(), ["cat", " "]), ValueError, "phrase 1 is empty"),
        ((picture(), ["cat", 3]), ValueError, "phrases: expected strings"),
        ((picture(), 3), TypeError, "phrases: expected a string, a list, or a mapping of names to wordings, got int"),
        ((picture(), [["cat"]]), ValueError, "lists go with a list of images"),
        (([picture()], [["cat"], ["dog"]]), ValueError, "expected 1 lists of phrases"),
        (("nowhere.jpg", ["cat"]), FileNotFoundError, "nowhere.jpg"),
        ((picture(), ["cat"], 1.5), ValueError, r"box_threshold: expected a number in 0\.\.1, got 1\.5"),
        ((picture(), ["cat"], 0.1, float("nan")), ValueError, "text_threshold"),
        ((picture(), ["cat"], 0.1, 0.1, -1), ValueError, "nms_iou"),
        ((picture(), ["cat"], "0.3"), ValueError, r"box_threshold: expected a number in 0\.\.1, got '0\.3'"),
        ((picture(), ["cat"], 0.1, None), ValueError, r"text_threshold: expected a number in 0\.\.1, got None"),
        ((picture(), ["cat"], 0.1, 0.1, True), ValueError, "nms_iou: expected a number"),
        ((picture(), ["cat"], 0.1, 0.1, None, 0), ValueError, "top_k: expected a whole number"),
        (
            (picture(), ["cat"], 0.1, 0.1, None, "3"),
            ValueError,
            "top_k: expected a whole number of at least 1, got '3'",
        ),
        ((picture(), ["cat"], 0.1, 0.1, None, 2.5), ValueError, r"got 2\.5"),
        (
            (picture(), ["cat"], 0.1, 0.1, None, None, "mean", 0.3),
            TypeError,
            "thresholds: expected Thresholds of gdino_lib.detect.thresholds",
        ),
        ((None, ["cat"]), ValueError, "got NoneType"),
        ((picture(), ["cat"], 0.1, 0.1, None, None, "sum"), ValueError, "score: expected one of mean, max"),
        ((picture(), ["cat"], 10**400), ValueError, "box_threshold: .* got a number of about 401 digits"),
        ((picture(), ["cat"], 0.1, 0.1, None, -(10**5000)), ValueError, "top_k: .* got a number of about 5001 digits"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(detector, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        detector(*arguments)
    assert "\n" not in str(caught.value)


def test_thresholds_of_classes_replace_both_thresholds(detector):
    phrases = ["red_circle", "cat", "bus"]
    everything = detector(picture(), phrases, **ALL)
    middle = float(np.median(everything.confidence))
    chosen = Thresholds(middle, {"Red circle": 0.0, "bus": 1.0}, {})
    found = detector(picture(), phrases, box_threshold=1.0, text_threshold=1.0, thresholds=chosen)
    limits = np.float32([[0.0, middle, 1.0][number] for number in everything.class_id])
    expected = everything[everything.confidence >= limits]
    assert 0 < len(expected) < len(everything)
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.class_id, expected.class_id)
    assert np.array_equal(found.xyxy, chosen.keep(everything).xyxy), "as `keep` does afterwards"
    punctuated = Thresholds(middle, {"'red circle'": 0.0, "bus,": 1.0}, {})
    assert punctuated.of(phrases) == chosen.of(phrases) == [0.0, middle, 1.0]
    top = detector(picture(), phrases, top_k=2, thresholds=chosen)
    assert np.array_equal(top.xyxy, expected.xyxy[:2])
    many = build(max_tokens=8)([picture(), picture(1)], [phrases, ["cat"]], thresholds=chosen)
    assert all("bus" not in one.data["class_name"] for one in many)
