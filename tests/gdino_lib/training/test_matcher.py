"""Targets, positive maps and matching, against hand-computed and brute-forced answers."""

import itertools
import math

import pytest
import torch
from made_up_targets import CAT, REMOTE, random_predictions, random_target, target

from gdino_lib.data.targets import Target, pad_targets, positive_map
from gdino_lib.model.grounding_dino import Predictions
from gdino_lib.prompts import tokenize
from gdino_lib.training.matcher import HungarianMatcher


@pytest.mark.parametrize(
    ("boxes", "phrases", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(2).long(),
            r"a.jpg: boxes: expected float \[n, 4\], got torch.float32 \[2, 3\]",
        ),
        (torch.ones(1, 4).long(), torch.zeros(1).long(), r"a.jpg: boxes: expected float \[n, 4\], got torch.int64"),
        (torch.ones(1, 4), torch.zeros(2).long(), r"a.jpg: phrases: expected one index per box, int64 \[1\], got"),
        (torch.ones(1, 4), torch.zeros(1), r"a.jpg: phrases: .*int64 \[1\], got torch.float32 \[1\]"),
        (torch.tensor([[0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0, 0.1]]), torch.zeros(2).long(), "a.jpg: box 1: .*above 0"),
        (torch.tensor([[0.5, math.nan, 0.1, 0.1]]), torch.zeros(1).long(), r"a.jpg: box 0: .*got \[0.5, nan, 0.1"),
        (torch.tensor([[50.0, 50, 10, 10]]), torch.zeros(1).long(), r"a.jpg: box 0: expected cxcywh in 0..1"),
        (torch.ones(1, 4), torch.tensor([-1]), "a.jpg: box 0: expected a phrase's index, got -1"),
    ],
)
def test_a_wrong_target_is_named_with_its_image(boxes, phrases, message):
    with pytest.raises(ValueError, match=message) as raised:
        Target(boxes, phrases, "a.jpg")
    assert "\n" not in str(raised.value)


def test_a_target_without_boxes_is_fine():
    empty = target([], [])
    assert positive_map(empty, tokenize([["cat"]]).phrases[0]).shape == (0, 4)


def test_positive_maps_are_those_of_each_images_own_prompt():
    tokens = tokenize([["cat", "remote control"], ["tricycle", "a dog", "cat"], ["cat"]]).phrases
    # [CLS] cat . remote control . [SEP] | [CLS] tri ##cycle . a dog . cat . [SEP] | [CLS] cat . [SEP]
    maps = [
        positive_map(target([CAT, REMOTE], [1, 0]), tokens[0]),
        positive_map(target([CAT, REMOTE, CAT], [0, 2, 1]), tokens[1]),
        positive_map(target([CAT], [0]), tokens[2]),
    ]
    assert [[row.nonzero().flatten().tolist() for row in each] for each in maps] == [
        [[3, 4], [1]],
        [[1, 2], [7], [4, 5]],
        [[1]],
    ]


def test_every_box_of_a_class_is_positive_and_a_repeated_class_keeps_its_copies_apart():
    # a public fork keeps one span per class name: the last copy's
    tokens = tokenize([["cat", "dog", "cat"]]).phrases[0]  # [CLS] cat . dog . cat . [SEP]
    found = positive_map(target([CAT, REMOTE, CAT, CAT], [0, 0, 2, 1]), tokens)
    assert [row.nonzero().flatten().tolist() for row in found] == [[1], [1], [5], [3]]


@pytest.mark.parametrize(("prompt", "phrase"), [(["cat", "dog"], 2), (["cat", ""], 1)])
def test_a_box_whose_phrase_has_no_tokens_is_named(prompt, phrase):
    tokens = tokenize([prompt]).phrases[0]
    with pytest.raises(ValueError, match=f"image.jpg: box 1 is named by phrase {phrase}, which has no tokens"):
        positive_map(target([CAT, REMOTE], [0, phrase]), tokens)


def test_padding_the_targets_of_a_batch_does_not_change_them():
    tokens = tokenize([["cat", "remote control"], ["a dog"], ["cat"]]).phrases
    targets = [target([CAT, REMOTE], [1, 0]), target([], []), target([REMOTE], [0])]
    boxes, positive, real = pad_targets(targets, tokens)
    assert real.tolist() == [[True, True], [False, False], [True, False]]
    for image, truth in enumerate(targets):
        assert torch.equal(boxes[image][real[image]], truth.boxes)
        assert torch.equal(positive[image][real[image]], positive_map(truth, tokens[image]))
        assert not positive[image][~real[image]].any()
    with pytest.raises(ValueError, match=r"second\.jpg: box 1 is named by phrase 3, which has no tokens"):
        pad_targets([targets[0], target([CAT, CAT], [0, 3], "second.jpg"), targets[2]], tokens)


def test_the_costs_of_a_batch_are_those_of_each_image():
    generator = torch.Generator().manual_seed(5)
    prompts = [["cat", "dog"], ["remote control", "bus", "tricycle"], ["a dog"]]
    tokens = tokenize(prompts).phrases
    predictions = random_predictions(generator, tokens, queries=7)
    predictions.logits.masked_fill_(tokenize(prompts).blocks[:, None] < 0, -math.inf)
    targets = [random_target(generator, count, phrases) for count, phrases in ((4, 2), (0, 3), (2, 1))]
    boxes, positive, real = pad_targets(targets, tokens)
    matcher = HungarianMatcher(class_weight=2)
    costs = matcher.cost(predictions.logits, predictions.boxes, boxes, positive)
    assert costs.shape == (3, 7, 4)
    for image, truth in enumerate(targets):
        alone = (predictions.logits[image], predictions.boxes[image], truth.boxes, positive_map(truth, tokens[image]))
        torch.testing.assert_close(costs[image][:, real[image]], matcher.cost(*alone))


def test_a_cost_by_hand():
    positive = torch.tensor([[False, True, True, False, False]])
    logits = torch.tensor([[9.0, 0.0, math.log(3), -9.0, -math.inf]])  # scores 0.5 and 0.75 on the phrase
    boxes, truth = torch.tensor([[0.4, 0.5, 0.4, 0.2]]), torch.tensor([[0.5, 0.5, 0.2, 0.2]])

    def change(score):
        return 0.25 * (1 - score) ** 2 * -math.log(score) - 0.75 * score**2 * -math.log(1 - score)

    # x from 0.2 to 0.6 against 0.4 to 0.6, y from 0.4 to 0.6: IoU = 0.04 / 0.08, and the union fills its hull
    expected = 3 * (change(0.5) + change(0.75)) / 2 + 5 * 0.3 + 2 * -0.5
    cost = HungarianMatcher(class_weight=3, box_weight=5, giou_weight=2).cost(logits, boxes, truth, positive)
    torch.testing.assert_close(cost, torch.tensor([[expected]]))


def test_matching_is_the_cheapest_of_all_permutations():
    generator = torch.Generator().manual_seed(3)
    tokens = tokenize([["cat", "remote control", "tricycle"], ["a dog"]]).phrases
    matcher = HungarianMatcher()
    for count in (0, 1, 2, 3, 4):
        predictions = random_predictions(generator, tokens, queries=6)
        targets = [random_target(generator, count, 3), random_target(generator, 4 - count, 1)]
        for image, (queries, boxes) in enumerate(matcher(predictions, tokens, targets)):
            truth = targets[image]
            positive = positive_map(truth, tokens[image])
            cost = matcher.cost(predictions.logits[image], predictions.boxes[image], truth.boxes, positive)
            totals = [
                sum(float(cost[query, box]) for box, query in enumerate(chosen))
                for chosen in itertools.permutations(range(6), len(truth.boxes))
            ]
            assert sorted(boxes.tolist()) == list(range(len(truth.boxes)))
            assert len(set(queries.tolist())) == len(truth.boxes)
            assert float(cost[queries, boxes].sum()) == pytest.approx(min(totals), abs=1e-9)


def test_two_boxes_nearest_to_one_query_get_two_queries():
    # taking each box's best query gives query 0 to both
    tokens = tokenize([["cat"]]).phrases
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1], [0.6, 0.6, 0.2, 0.2]]])
    truth = target([[0.5, 0.5, 0.2, 0.2], [0.52, 0.52, 0.2, 0.2]], [0, 0])
    ((queries, found),) = HungarianMatcher()(Predictions(torch.zeros(1, 3, 4), boxes), tokens, [truth])
    assert dict(zip(found.tolist(), queries.tolist(), strict=True)) == {0: 0, 1: 2}


def test_more_boxes_than_queries():
    generator = torch.Generator().manual_seed(0)
    tokens = tokenize([["cat"]]).phrases
    predictions = random_predictions(generator, tokens, queries=3)
    ((queries, found),) = HungarianMatcher()(predictions, tokens, [random_target(generator, 7, 1)])
    assert queries.tolist() == [0, 1, 2]
    assert len(set(found.tolist())) == 3


def test_each_image_is_matched_with_its_own_prompt_only():
    generator = torch.Generator().manual_seed(1)
    prompts = [["cat", "dog", "remote control"], ["bus"], ["a long phrase of words", "cat"]]
    tokens = tokenize(prompts).phrases
    predictions = random_predictions(generator, tokens, queries=8)
    predictions.logits.masked_fill_(tokenize(prompts).blocks[:, None] < 0, -math.inf)
    targets = [random_target(generator, count, len(prompts[i])) for i, count in enumerate((3, 4, 2))]
    together = HungarianMatcher()(predictions, tokens, targets)
    for image, pair in enumerate(together):
        alone = tokenize(prompts[image : image + 1]).phrases
        own = Predictions(predictions.logits[[image], :, : alone.shape[1]], predictions.boxes[[image]])
        assert all(
            torch.equal(*each) for each in zip(HungarianMatcher()(own, alone, [targets[image]])[0], pair, strict=True)
        )


@pytest.mark.parametrize("what", ["box", "token of the phrase", "other token", "infinite logit", "-inf in the phrase"])
@pytest.mark.parametrize("count", [0, 2])
def test_predictions_that_are_not_finite_stop_with_the_images_name(what, count):
    # elsewhere such costs become 0 (and win), or the largest number
    generator = torch.Generator().manual_seed(2)
    tokens = tokenize([["cat"], ["dog"]]).phrases
    predictions = random_predictions(generator, tokens, queries=5)
    targets = [random_target(generator, 2, 1, "first.jpg"), random_target(generator, count, 1, "second.jpg")]
    place, value = {
        "box": (predictions.boxes[1, 3, 2:3], math.nan),
        "token of the phrase": (predictions.logits[1, 3, 1:2], math.nan),
        "other token": (predictions.logits[1, 3, 0:1], math.nan),
        "infinite logit": (predictions.logits[1, 3, 1:2], math.inf),
        "-inf in the phrase": (predictions.logits[1, 3, 1:2], -math.inf),
    }[what]
    place.fill_(value)
    if what == "-inf in the phrase" and count == 0:
        assert len(HungarianMatcher()(predictions, tokens, targets)) == 2  # as good as padding
        return
    with pytest.raises(ValueError, match=r"second\.jpg: the model's predictions are not finite"):
        HungarianMatcher()(predictions, tokens, targets)


def test_half_precision_predictions_are_matched_in_single():
    generator = torch.Generator().manual_seed(4)
    tokens = tokenize([["cat", "dog"]]).phrases
    exact, truth = random_predictions(generator, tokens, queries=6), random_target(generator, 3, 2)
    half = Predictions(exact.logits.bfloat16(), exact.boxes.bfloat16())
    single = Predictions(half.logits.float(), half.boxes.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = HungarianMatcher()(half, tokens, [truth])
    assert given[0][0].tolist() == HungarianMatcher()(single, tokens, [truth])[0][0].tolist()
    cost = HungarianMatcher().cost(half.logits[0], half.boxes[0], truth.boxes, positive_map(truth, tokens[0]))
    assert cost.dtype == torch.float32
