"""One pass of the model answers every choice of options as a fresh call does."""

import numpy as np
import pytest
from small_detectors import ALL, LONG, WORDS, build, picture

from gdino_lib.detect.thresholds import Thresholds

NAMES = {"passenger": ["cat", "bus"], "street": ["dog", "red_circle", "Fire Hydrant"]}
OPTIONS = [
    {},
    ALL,
    {"box_threshold": 0.5, "text_threshold": 0.45},
    {**ALL, "nms_iou": 0.2, "top_k": 3},
    {**ALL, "score": "max", "every_phrase": True},
    {"thresholds": Thresholds(0.45, {"Passenger": 0.3, "red": 0.5}, {})},
]


@pytest.fixture(scope="module")
def detector():
    return build()


def assert_equal(found, expected):
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.confidence, expected.confidence)
    assert np.array_equal(found.class_id, expected.class_id)
    for name in expected.data:
        assert np.array_equal(found.data[name], expected.data[name])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("phrases", "negatives"), [(WORDS, ()), (NAMES, ["remote control"]), ("cat .", "bus . dog .")])
def test_every_option_equals_a_call(detector, phrases, negatives, options):
    embedding = detector.encode_image(picture())
    for image in (picture(), embedding):
        found = detector.predict(image, phrases, negatives).detections(**options)
        assert_equal(found, detector(picture(), phrases, negatives=negatives, **options))


def test_several_chunks_equal_a_call():
    detector = build(max_tokens=32)
    predictions = detector.predict(picture(), LONG[:20], LONG[20:])
    found = predictions.detections(**ALL)
    assert len(predictions.outputs) == 3
    assert_equal(found, detector(picture(), LONG[:20], negatives=LONG[20:], **ALL))
    assert len(set(found.data["query"].tolist())) == len(found) > 1
    assert_scores_make_the_confidence(predictions, found)


def test_token_scores_make_the_confidence(detector):
    predictions = detector.predict(picture(), NAMES, ["remote control"])
    found = predictions.detections(**ALL)
    assert_scores_make_the_confidence(predictions, found)
    pieces = [(token.piece, token.phrase) for token in predictions.token_scores(found.data["query"][0])]
    assert ("remote", "remote control") in pieces
    assert [piece for piece, phrase in pieces if phrase == "red_circle"] == ["red", "circle"]
    explanation = detector.explain(picture(), NAMES, negatives=["remote control"], **ALL)
    assert np.array_equal(found.data["query"], explanation.detections.data["query"])


def assert_scores_make_the_confidence(predictions, found):
    for query, wording, confidence in zip(
        *(found.data[n] for n in ("query", "wording")), found.confidence, strict=True
    ):
        own = [token.score for token in predictions.token_scores(query) if token.phrase == wording]
        assert np.mean(own) == pytest.approx(confidence, abs=1e-6)


def test_what_cannot_be_predicted_is_named(detector):
    with pytest.raises(TypeError, match="image: expected one image, got list"):
        detector.predict([picture()], ["cat"])
    with pytest.raises(ValueError, match="no phrases"):
        detector.predict(picture(), [])
    with pytest.raises(ValueError, match="box_threshold: expected a number"):
        detector.predict(picture(), ["cat"]).detections(box_threshold=2)
    assert repr(detector.predict(picture(), ["cat"])) == "<ImagePredictions: 90 x 60 pixels, 1 phrases>"
