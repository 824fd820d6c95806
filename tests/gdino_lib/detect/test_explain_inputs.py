"""`Detector.explain` with models that lack parts, in half precision, and with inputs of every kind."""

import warnings

import numpy as np
import pytest
import torch
from small_detectors import ALL, CONFIG, LONG, build, picture

import gdino_lib as gd

ABLATIONS = {"fusion": False, "text_cross_attention": False, "language_guided": False}


def test_ablations_lack_what_they_leave_out():
    detector = build(**ABLATIONS)
    explanation = detector.explain(picture(), ["cat"], **ALL)
    assert np.array_equal(explanation.detections.xyxy, detector(picture(), ["cat"], **ALL).xyxy)
    assert all(stage.logits is None and stage.similarity.isfinite().all() for stage in explanation.stages)
    assert all(layer.over_text is None and layer.over_image is None for layer in explanation.enhancer)
    assert all(layer.text is None for layer in explanation.decoder)
    assert explanation.query_tokens is None
    assert explanation.logits[0].isnan().all()
    assert explanation.logits[1:].isfinite().all()
    query = explanation.query(0)
    assert query.place is query.rank is query.text_attention is None
    for ask in (lambda: explanation.ranks, lambda: explanation.heat_maps("cat")):
        with pytest.raises(ValueError, match="the queries of this model are static"):
            ask()


def test_an_enhancer_without_layers():
    explanation = build(encoder_layers=0).explain(picture(), ["cat"])
    assert [stage.name for stage in explanation.stages] == ["backbone"]
    assert explanation.enhancer == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    detector = gd.Detector(build().model, dtype=dtype)
    explanation = detector.explain(picture(), ["cat"], **ALL)
    plain = detector(picture(), ["cat"], **ALL)
    assert np.array_equal(explanation.detections.xyxy, plain.xyxy)
    assert np.array_equal(explanation.detections.confidence, plain.confidence)
    layer = explanation.decoder[0]
    for weights, axes in ((layer.text, -1), (layer.weights, (2, 3)), (explanation.enhancer[0].over_text, -1)):
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(axes), torch.ones_like(weights.sum(axes)), rtol=0, atol=0.02)


def test_phrases_that_are_alike_share_their_tokens():
    detector = build()
    explanation = detector.explain(picture(), ["Cat", "cat", "dog", "cat."])
    assert explanation.tokens_of("Cat") == explanation.tokens_of("cat") == explanation.tokens_of("cat.")
    assert explanation.phrases == ("Cat", "cat", "dog", "cat.")
    assert set(explanation.phrase_of_token.tolist()) == {-1, 0, 2}
    joined = detector.explain(picture(), "cat . dog .")
    assert joined.phrases == ("cat", "dog")


def test_an_embedding_may_be_explained():
    detector = build()
    embedding = detector.encode_image(picture())
    ours, other = detector.explain(embedding, ["cat"], **ALL), detector.explain(picture(), ["cat"], **ALL)
    assert torch.equal(ours.boxes, other.boxes)


def test_bad_input_is_refused_in_one_line(monkeypatch):
    detector, image = build(max_tokens=32), picture()
    explanation = detector.explain(image, ["cat", "red dog"])
    count, queries = sum(height * width for height, width in explanation.shapes), CONFIG.queries
    stages = len(explanation.stages)
    for message, call in {
        "phrase: expected one of 'cat', 'red dog', got 'dog'": lambda: explanation.tokens_of("dog"),
        f"query: expected 0 to {queries - 1}, got {queries}": lambda: explanation.query(queries),
        f"query: expected 0 to {queries - 1}, got -1": lambda: explanation.query(-1),
        f"token: expected 0 to {count - 1}, got {count}": lambda: explanation.place(count),
        "level: expected 0 to 3, got 4": lambda: explanation.token_at(1, 1, 4),
        f"stage: expected {-stages} to {stages - 1}, got {stages}": lambda: explanation.heat_maps("cat", stages),
        "measure: expected 'score' or 'similarity', got 'dot'": lambda: explanation.heat_maps("cat", measure="dot"),
        f"image_tokens: expected 0 to {count - 1}, got {count}": lambda: detector.explain(
            image, ["cat"], image_tokens=[count]
        ),
        "no phrases; expected at least one": lambda: detector.explain(image, []),
        "no phrases; expected at least one ": lambda: detector.explain(image, " . "),
        "phrase 0 is empty; expected words": lambda: detector.explain(image, [" "]),
        "box_threshold: expected a number in 0..1, got 2": lambda: detector.explain(image, ["cat"], box_threshold=2),
        "explain: expected phrases that fit into one prompt, got 3 prompts": lambda: detector.explain(image, LONG),
    }.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
            call()
        assert str(caught.value) == message.strip()
    with pytest.raises(TypeError, match=r"^image: expected one image, got list$"):
        detector.explain([image], ["cat"])
    with pytest.raises(TypeError, match="box_treshold"):
        detector.explain(image, ["cat"], box_treshold=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"got no prompt: no phrase has a token$"):
            detector.explain(image, ["\x07"])
    monkeypatch.setattr(detector.model.feature_enhancer, "forward", lambda image, text: (image, text))
    with pytest.raises(ValueError, match=r"expected a model that calls each of its layers, got one that passes over"):
        detector.explain(image, ["cat"])
