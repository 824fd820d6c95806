"""Losses: against plain loops in double precision, by hand, and against transformers' port on single images."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from made_up_losses import PROMPTS, assert_parts_equal
from made_up_targets import CAT, REMOTE, random_predictions, random_target, target

from gdino_lib.data.targets import positive_map
from gdino_lib.model.grounding_dino import GroundingDINOOutput, Predictions
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.prompts import tokenize
from gdino_lib.training.denoising import noise_queries
from gdino_lib.training.losses import Criterion, LossSettings, focal_loss

COUNTS = [2, 3, 0, 1]


# The reference: plain loops over Python's floats


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def focal(x, label, alpha=0.25, gamma=2.0):
    p = sigmoid(x)
    return -alpha * (1 - p) ** gamma * math.log(p) if label else -(1 - alpha) * p**gamma * math.log(1 - p)


def giou(a, b):
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    across = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    down = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    intersection = max(across, 0) * max(down, 0)
    union = aw * ah + bw * bh - intersection
    hull_width = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    hull_height = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    hull = hull_width * hull_height
    return intersection / union - (hull - union) / hull


def l1(a, b):
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def named(tokens, phrase):
    return [place for place, number in enumerate(tokens) if number == phrase]


def match(logits, boxes, tokens, truth):
    """The cheapest (query, box) pairs, of all permutations."""
    cost = {}
    for query, box in itertools.product(range(len(boxes)), range(len(truth.boxes))):
        places = named(tokens, int(truth.phrases[box]))
        change = sum(focal(logits[query][t], 1) - focal(logits[query][t], 0) for t in places) / len(places)
        true = truth.boxes[box].tolist()
        cost[query, box] = change + 5 * l1(boxes[query], true) - 2 * giou(boxes[query], true)
    choices = itertools.permutations(range(len(boxes)), len(truth.boxes))
    best = min(choices, key=lambda chosen: sum(cost[query, box] for box, query in enumerate(chosen)))
    return [(query, box) for box, query in enumerate(best)]


def sums(logits, boxes, tokens, truth, pairs, queries):
    """(class, box, giou) of one image, over `queries`."""
    total = [0.0, 0.0, 0.0]
    owner = dict(pairs)
    for query in queries:
        positive = named(tokens, int(truth.phrases[owner[query]])) if query in owner else []
        for place, x in enumerate(logits[query]):
            if x != -math.inf:
                total[0] += focal(x, place in positive)
        if query in owner:
            true = truth.boxes[owner[query]].tolist()
            total[1] += l1(boxes[query], true)
            total[2] += 1 - giou(boxes[query], true)
    return total


def reference(out, targets):
    """Every part, weighted."""
    stages = {f"layer_{number}": stage for number, stage in enumerate([*out.layers, out], start=1)}
    if out.proposals is not None:
        stages["proposals"] = out.proposals
    for number, stage in enumerate(out.denoising or [], start=1):
        stages[f"denoising_{number}"] = stage
    boxes = max(sum(len(truth.boxes) for truth in targets), 1)
    parts = {}
    for name, stage in stages.items():
        total = [0.0, 0.0, 0.0]
        for image, truth in enumerate(targets):
            tokens = out.phrase_of_token[image].tolist()
            answer = stage.logits[image].tolist(), stage.boxes[image].tolist(), tokens, truth
            if name.startswith("denoising"):
                noised = out.denoising_queries
                groups = noised.groups[image].tolist()
                queries = [query for query, group in enumerate(groups) if group >= 0]
                pairs = [(q, int(noised.targets[image, q])) for q in queries if noised.positive[image, q]]
                share = 1 / (max(groups, default=-1) + 1) if queries else 0
            else:
                pairs, queries, share = match(*answer), range(stage.boxes.shape[1]), 1
            total = [a + share * b for a, b in zip(total, sums(*answer, pairs, queries), strict=True)]
        for part, weight, value in zip(("class", "box", "giou"), (2, 5, 2), total, strict=True):
            parts[f"{name}/{part}"] = weight * value / boxes
    return parts | {"total": sum(parts.values())}


# Random answers of a model


def padded(predictions, prompts):
    real = tokenize(prompts).mask
    return Predictions(predictions.logits.masked_fill(~real[:, None], -math.inf), predictions.boxes)


def random_output(seed, prompts, targets, queries=5, layers=2, denoising=True, static=False):
    generator = torch.Generator().manual_seed(seed)
    prompt = tokenize(prompts)

    def stage(count=queries):
        return padded(random_predictions(generator, prompt.phrases, count), prompts)

    last, noised, denoised = stage(), None, None
    if denoising:
        text = TextTokens(torch.zeros(*prompt.ids.shape, 4, dtype=torch.float64), prompt)
        noised = noise_queries(text, targets, seeds=range(len(targets)), queries=6)
        denoised = [stage(noised.boxes.shape[1]) for _ in range(layers)]
    proposals = None if static else stage()
    others = [stage() for _ in range(layers - 1)]
    return GroundingDINOOutput(last.logits, last.boxes, prompt.phrases, others, proposals, denoised, noised)


def random_targets(seed, counts=COUNTS, prompts=PROMPTS):
    generator = torch.Generator().manual_seed(seed)
    return [
        random_target(generator, count, len(phrases), f"{number}.jpg")
        for number, (count, phrases) in enumerate(zip(counts, prompts, strict=True))
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["all", "static queries", "no denoising", "no boxes", "one image"])
def test_every_part_equals_plain_loops(seed, kind):
    if kind == "one image":
        prompts, targets = PROMPTS[1:2], random_targets(seed, COUNTS[1:2], PROMPTS[1:2])
    else:
        prompts, targets = PROMPTS, random_targets(seed, [0] * 4 if kind == "no boxes" else COUNTS)
    out = random_output(seed, prompts, targets, denoising=kind != "no denoising", static=kind == "static queries")
    found = Criterion()(out, targets)
    assert_parts_equal(found, reference(out, targets))
    assert all(value.dtype == torch.float64 for value in found.values())


def test_a_loss_by_hand():
    # one query, one box, [CLS] cat . [SEP], padding; all scores 0.5; the boxes are those of the matcher's test by hand
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0, -math.inf]]])
    tokens = torch.tensor([[-1, 0, -1, -1, -1]])
    out = GroundingDINOOutput(logits, torch.tensor([[[0.4, 0.5, 0.4, 0.2]]]), tokens, [], None)
    parts = Criterion()(out, [target([[0.5, 0.5, 0.2, 0.2]], [0])])
    focal_sum = (0.25 + 3 * 0.75) * 0.25 * math.log(2)
    expected = {"layer_1/class": 2 * focal_sum, "layer_1/box": 5 * 0.3, "layer_1/giou": 2 * 0.5}
    assert_parts_equal(parts, expected | {"total": sum(expected.values())}, 1e-6)


def test_settings_weigh_the_parts():
    targets = random_targets(0)
    out = random_output(0, PROMPTS, targets)
    usual = Criterion()(out, targets)
    weights = {"layers": 0.5, "proposals": 2.0, "denoising": 3.0, "box_weight": 15.0}
    found = Criterion(LossSettings(**weights))(out, targets)
    scale = {"layer_1": 0.5, "layer_2": 1.0, "proposals": 2.0, "denoising_1": 3.0, "denoising_2": 3.0}
    expected = {
        name: value * scale[name.split("/")[0]] * (3 if name.endswith("/box") else 1)
        for name, value in usual.items()
        if name != "total"
    }
    assert_parts_equal(found, expected | {"total": sum(expected.values())})
    bare = Criterion(LossSettings(layers=0, proposals=0, denoising=0))(out, targets)
    assert set(bare) == {"layer_2/class", "layer_2/box", "layer_2/giou", "total"}


def test_both_sets_of_the_papers_weights():
    appendix, section = LossSettings(), LossSettings.section_4_1()
    for settings, expected in ((appendix, (1, 5, 2, 2, 5, 2)), (section, (2, 5, 2, 1, 5, 2))):
        s = settings
        given = s.match_class, s.match_box, s.match_giou, s.class_weight, s.box_weight, s.giou_weight
        assert given == expected
    matcher = Criterion(section).matcher
    assert (matcher.class_weight, matcher.box_weight, matcher.giou_weight) == (2, 5, 2)


def test_a_batch_is_the_sum_of_its_images():
    # the port's targets are wrong from the second image on, where phrase counts differ
    targets = random_targets(5)
    out = random_output(5, PROMPTS, targets)
    together = Criterion()(out, targets, normaliser=1)
    total = dict.fromkeys(together, 0.0)
    for image, truth in enumerate(targets):
        length = tokenize(PROMPTS[image : image + 1]).ids.shape[1]

        def own(stage, image=image, length=length):
            return Predictions(stage.logits[[image], :, :length], stage.boxes[[image]])

        noised = out.denoising_queries
        picked = {
            name: getattr(noised, name)[[image]] for name in ("features", "boxes", "targets", "positive", "groups")
        }
        alone = GroundingDINOOutput(
            own(out).logits, own(out).boxes, out.phrase_of_token[[image], :length], [own(stage) for stage in out.layers],
            own(out.proposals), [own(stage) for stage in out.denoising], replace(noised, **picked),
        )  # fmt: skip
        for name, value in Criterion()(alone, [truth], normaliser=1).items():
            total[name] += value
    assert_parts_equal(together, total)


def test_the_normaliser_divides_and_is_at_least_one_box():
    targets = random_targets(1)
    out = random_output(1, PROMPTS, targets)
    boxes = sum(COUNTS)
    expected = {name: value * boxes / 4 for name, value in Criterion()(out, targets).items()}
    assert_parts_equal(Criterion()(out, targets, normaliser=torch.tensor(4.0)), expected)
    empty = random_targets(1, [0] * 4)
    out = random_output(1, PROMPTS, empty)
    assert_parts_equal(Criterion()(out, empty), Criterion()(out, empty, normaliser=1))


def test_each_token_of_a_long_name_has_label_one():
    # a public fork divides targets by their number: of four tokens each would stop at a score of 0.25
    tokens = tokenize([["a very long name", "cat"]]).phrases
    logits = torch.full((1, 1, tokens.shape[1]), -12.0)
    logits[0, 0, 1:5] = 12.0
    out = GroundingDINOOutput(logits, torch.tensor([[CAT]]), tokens, [], None)
    assert Criterion()(out, [target([CAT], [0])])["total"] < 1e-6


def test_all_boxes_of_a_repeated_class_are_positive():
    tokens = tokenize([["cat", "dog"]]).phrases  # [CLS] cat . dog . [SEP]
    logits, boxes = torch.full((1, 3, 6), -12.0), torch.tensor([[CAT, REMOTE, [0.1, 0.9, 0.1, 0.1]]])
    logits[0, :2, 1] = 12.0
    out = GroundingDINOOutput(logits, boxes, tokens, [], None)
    assert Criterion()(out, [target([REMOTE, CAT], [0, 0])])["total"] < 1e-5
    assert Criterion()(out, [target([REMOTE, CAT], [0, 1])])["total"] > 1


def test_boxes_that_do_not_overlap_still_give_a_gradient():
    boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1]]], requires_grad=True)
    out = GroundingDINOOutput(torch.zeros(1, 1, 4), boxes, tokenize([["cat"]]).phrases, [], None)
    (gradient,) = torch.autograd.grad(Criterion()(out, [target([[0.8, 0.8, 0.1, 0.1]], [0])])["layer_1/giou"], boxes)
    assert (gradient[0, 0, :2] < 0).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_padding_costs_nothing_and_its_gradient_is_zero(gamma):
    logits = torch.tensor([1.0, -math.inf, -2.0, 300.0, -300.0], requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])
    loss = focal_loss(logits, labels, gamma=gamma)
    loss.sum().backward()
    assert loss[1] == 0
    assert logits.grad[1] == 0
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[[0, 2, 3, 4]] != 0).all()


def test_inputs_that_do_not_fit_are_named():
    targets = random_targets(0)
    out = random_output(0, PROMPTS, targets)
    with pytest.raises(ValueError, match="targets: expected 4, one per image, got 3"):
        Criterion()(out, targets[:3])
    with pytest.raises(ValueError, match=r"1\.jpg: box 0 is named by phrase 7, which has no tokens"):
        Criterion()(out, [targets[0], target([CAT], [7], "1.jpg"), *targets[2:]])
    out.layers[0].boxes[2, 0, 0] = math.nan  # an image without boxes
    with pytest.raises(ValueError, match=r"2\.jpg: the model's predictions are not finite"):
        Criterion()(out, targets)


def test_the_port_agrees_on_single_images():
    # more images in a batch, and it is wrong
    from transformers.loss.loss_grounding_dino import GroundingDinoForObjectDetectionLoss

    config = SimpleNamespace(
        class_cost=1.0, bbox_cost=5.0, giou_cost=2.0, focal_alpha=0.25, auxiliary_loss=True, two_stage=True,
        decoder_layers=2, bbox_loss_coefficient=5.0, giou_loss_coefficient=2.0,
    )  # fmt: skip
    for seed in range(3):
        prompts, targets = PROMPTS[1:2], random_targets(seed, [3], PROMPTS[1:2])
        out = random_output(seed, prompts, targets, denoising=False)
        every = positive_map(target([CAT] * 3, [0, 1, 2]), out.phrase_of_token[0])
        labels = [{"class_labels": targets[0].phrases, "boxes": targets[0].boxes}]
        layers = [*out.layers, out]
        theirs, parts, _ = GroundingDinoForObjectDetectionLoss(
            out.logits, labels, "cpu", out.boxes, config, (every.double(),), tokenize(prompts).mask[:, None].expand_as(out.logits),
            [stage.logits for stage in layers], [stage.boxes for stage in layers],
            out.proposals.logits, out.proposals.boxes,
        )  # fmt: skip
        ours = Criterion()(out, targets)
        names = {"class": ("loss_ce", 2), "box": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
        for stage, suffix in (("layer_1", "_0"), ("layer_2", ""), ("proposals", "_enc")):
            for part, (name, weight) in names.items():
                assert float(ours[f"{stage}/{part}"]) == pytest.approx(weight * float(parts[name + suffix]), rel=1e-6)
        assert float(ours["total"]) == pytest.approx(float(theirs), rel=1e-6)
