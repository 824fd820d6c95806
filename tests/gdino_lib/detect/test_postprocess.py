import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gdino_lib.detect.postprocess import (
    label_boxes,
    phrase_scores,
    phrase_wise_nms,
    suppress_by_phrase,
    to_pixels,
)

TOKENS = torch.tensor([-1, 0, -1, 1, 1, -1, -1])  # [CLS] cat . remote control . [SEP]


def logit(*probabilities):
    return torch.tensor(probabilities).logit()


def test_a_phrase_scores_the_mean_or_the_best_of_its_tokens():
    logits = logit([0.99, 0.5, 0.99, 0.2, 0.8, 0.99, 0.99])
    assert torch.allclose(phrase_scores(logits, TOKENS, 2), torch.tensor([[0.5, 0.5]]))
    assert torch.allclose(phrase_scores(logits, TOKENS, 2, "max"), torch.tensor([[0.5, 0.8]]))


def test_a_phrase_without_tokens_scores_nothing():
    for score in ("mean", "max"):
        assert phrase_scores(torch.zeros(3, 7), TOKENS, 3, score)[:, 2].tolist() == [0, 0, 0]


def test_no_queries():
    boxes, phrases, scores, *_ = label_boxes(torch.zeros(0, 7), torch.zeros(0, 4), TOKENS, 2, 0.35, 0.25)
    assert boxes.shape == (0, 4)
    assert len(phrases) == len(scores) == 0


def test_both_thresholds_are_reached_not_passed():
    # best token 0.5, score 0.3125: the box is kept at exactly these thresholds, and not at the next larger ones
    logits = torch.tensor([[-9.0, -9.0, -9.0, 0.0, float(np.log(0.125 / 0.875)), 9.0, 9.0]])
    best, mean = 0.5, float(phrase_scores(logits, TOKENS, 2)[0, 1])
    for box, text, kept in ((best, mean, 1), (best + 1e-4, mean, 0), (best, mean + 1e-4, 0)):
        assert len(label_boxes(logits, torch.zeros(1, 4), TOKENS, 2, box, text)[0]) == kept


def test_special_tokens_and_stops_do_not_count():
    logits = logit([0.99, 0.1, 0.99, 0.1, 0.1, 0.99, 0.99])
    assert len(label_boxes(logits, torch.zeros(1, 4), TOKENS, 2, 0.35, 0.0)[0]) == 0


@given(st.integers(0, 2**31))
def test_labels_equal_plain_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, boxes = torch.randn(9, 7, generator=generator), torch.rand(9, 4, generator=generator)
    kept, phrases, scores, surest, queries = label_boxes(logits, boxes, TOKENS, 2, 0.6, 0.5)
    assert surest.all()
    assert torch.equal(boxes[queries], kept)
    expected = []
    for query in range(9):
        p = logits[query].sigmoid().tolist()
        fits = [p[1], (p[3] + p[4]) / 2]
        best = max(range(2), key=lambda phrase: fits[phrase])
        if max(p[1], p[3], p[4]) >= 0.6 and fits[best] >= 0.5:
            expected.append((fits[best], best, boxes[query].tolist()))
    expected.sort(key=lambda row: -row[0])
    assert phrases.tolist() == [row[1] for row in expected]
    assert scores.tolist() == pytest.approx([row[0] for row in expected], abs=1e-6)

    every, names, sure, best, _ = label_boxes(logits, boxes, TOKENS, 2, 0.6, 0.5, every_phrase=True)
    pairs = phrase_scores(logits, TOKENS, 2)
    pairs = pairs[(logits[:, TOKENS >= 0].sigmoid().amax(1) >= 0.6)]
    assert sure.tolist() == sorted(pairs[pairs >= 0.5].tolist(), reverse=True)
    assert torch.equal(every[best], kept)  # the best pairs are the boxes that are found without `every_phrase`
    assert torch.equal(names[best], phrases)
    assert torch.equal(sure[best], scores)
    assert kept.tolist() == [row[2] for row in expected]


def test_pixels_stay_inside_the_image():
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.5, 3.0]])
    assert to_pixels(boxes, 200, 100).tolist() == [[0, 0, 200, 100], [0, 0, 100, 50], [150, 0, 200, 100]]


def test_suppression_does_not_depend_on_the_index_of_the_phrase():
    """The overlap is 0.415; with torchvision's offset of 4,999 times the image's size, float32 rounds it to 0.47."""
    boxes = torch.tensor([[3990.0, 10, 4000, 20], [3990, 14.135, 4000, 24.135]])
    for number in (0, 1202, 4999):
        phrases = torch.tensor([number, number])
        assert len(phrase_wise_nms(boxes, torch.tensor([0.9, 0.8]), phrases, 0.41)) == 1
        assert len(phrase_wise_nms(boxes, torch.tensor([0.9, 0.8]), phrases, 0.42)) == 2


def test_suppression_stays_within_a_phrase():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert phrase_wise_nms(boxes, scores, torch.tensor([0, 0, 1]), 0.5).tolist() == [0, 2]
    assert phrase_wise_nms(boxes[:0], scores[:0], torch.tensor([], dtype=torch.int64), 0.5).tolist() == []


def test_suppression_of_the_results_of_the_official_predict():
    boxes = np.array([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.19], [0.5, 0.5, 0.2, 0.2]])
    kept, scores, phrases = suppress_by_phrase(
        boxes, [0.5, 0.9, 0.4], ["with mask", "with mask", "without mask"], (400, 300)
    )
    assert phrases == ["with mask", "without mask"]
    assert scores.tolist() == pytest.approx([0.9, 0.4])
    assert kept.shape == (2, 4)
    none = suppress_by_phrase(np.zeros((0, 4)), [], [], (400, 300))
    assert (none[0].shape, none[2]) == ((0, 4), [])
