"""The noise of an image depends on this image alone, and no other query attends to denoising queries."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from made_up_targets import CAT, REMOTE, target
from peers import SMALL, randomise

import gdino_lib as gd
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.prompts import tokenize
from gdino_lib.training.denoising import noise_queries

PROMPTS = [["cat", "remote control", "tricycle"], ["a dog"]]
TARGETS = [target([CAT, REMOTE, [0.6, 0.4, 0.3, 0.1]], [0, 1, 2], "a"), target([REMOTE], [0], "b")]


def text_of(prompts, width=8):
    """Features that depend on the word piece alone, as the enhanced ones do not: enough to recognise phrases."""
    prompt = tokenize(prompts)
    table = torch.randn(30522, width, generator=torch.Generator().manual_seed(0))
    return TextTokens(table[prompt.ids], prompt)


def phrase_feature(phrase, width=8):
    text = text_of([[phrase]], width)
    return text.features[0][text.prompt.phrases[0] == 0].mean(0)


@pytest.fixture(scope="module")
def model():
    model = gd.GroundingDINO(
        SMALL.replace(swin_depths=(1, 1, 1, 1), bert_layers=1, levels=3, encoder_layers=1, decoder_layers=2)
    )
    randomise(model)
    return model.eval()


def images(batch=2):
    return torch.randn(batch, 3, 64, 96, generator=torch.Generator().manual_seed(7))


def test_groups_halves_and_padding():
    noised = noise_queries(text_of(PROMPTS), TARGETS, seeds=[1, 2], queries=7, label_noise=0)
    assert noised.targets.shape == (2, 14)  # the second has 7 groups of 2; the first 2 groups of 6, and 2 for padding
    assert noised.targets[0].tolist() == [0, 1, 2] * 4 + [-1, -1]
    assert noised.positive[0].tolist() == ([True] * 3 + [False] * 3) * 2 + [False] * 2
    assert noised.groups[0].tolist() == [0] * 6 + [1] * 6 + [-1] * 2
    assert noised.targets[1].tolist() == [0] * 14
    assert noised.positive[1].tolist() == [True, False] * 7
    assert noised.groups[1].tolist() == [group for group in range(7) for _ in range(2)]
    torch.testing.assert_close(
        noised.weights, torch.tensor([[1 / 2] * 12 + [0] * 2, [1 / 7] * 14], dtype=torch.float64)
    )
    expected = [phrase_feature(PROMPTS[0][number]) for number in (0, 1, 2)]
    torch.testing.assert_close(noised.features[0, :3], torch.stack(expected))


def test_more_boxes_than_queries_are_one_group_and_no_boxes_none():
    many = target([CAT] * 9, [0] * 9)
    noised = noise_queries(text_of([["cat"], ["dog"]]), [many, target([], [])], seeds=[0, 0], queries=4)
    assert noised.groups[0].tolist() == [0] * 18
    assert noised.groups[1].tolist() == [-1] * 18
    assert not noised.weights[1].any()
    assert torch.isfinite(noised.features).all()
    nothing = noise_queries(text_of([["cat"]]), [target([], [])], seeds=[0])
    assert nothing.features.shape == (1, 0, 8)
    assert nothing.weights.shape == (1, 0)
    assert nothing.attention_mask(3).tolist() == [[[True] * 3] * 3]


def corners(boxes):
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


@pytest.mark.parametrize("box_noise", [0.4, 1.0])
def test_positive_boxes_stay_near_and_negative_ones_are_further_off(box_noise):
    truth = target([[0.5, 0.5, 0.1, 0.2]], [0])  # far from the border
    noised = noise_queries(text_of([["cat"]]), [truth], seeds=[5], queries=2000, box_noise=box_noise)
    shift = (corners(noised.boxes) - corners(truth.boxes)).abs() / torch.tensor([0.05, 0.1, 0.05, 0.1]) / box_noise
    near, far = shift[noised.positive], shift[~noised.positive]
    assert near.max() <= 1 + 1e-5
    assert near.min() < 0.05
    assert abs(near.mean() - 0.5) < 0.02
    if box_noise < 0.5:  # corners can't cross
        assert far.min() >= 1 - 1e-5
        assert far.max() <= 2 + 1e-5
        assert abs(far.mean() - 1.5) < 0.02
    assert (noised.boxes[..., 2:] >= 0).all()


def test_boxes_stay_inside_the_image():
    edge = target([[0.05, 0.95, 0.1, 0.1], [0.5, 0.5, 1.0, 1.0]], [0, 0])
    boxes = corners(noise_queries(text_of([["cat"]]), [edge], seeds=[5], queries=500).boxes)
    assert boxes.min() >= -1e-6
    assert boxes.max() <= 1 + 1e-6


def test_half_the_label_noise_is_the_share_of_swapped_phrases():
    text = text_of([["cat", "dog", "remote control", "cat"]])
    noised = noise_queries(text, [target([CAT], [0])], seeds=[3], queries=2000, label_noise=0.5)
    known = torch.stack([phrase_feature(phrase) for phrase in ("cat", "dog", "remote control")])
    said = torch.cdist(noised.features[0], known).argmin(1).bincount() / noised.features.shape[1]
    # of two copies of "cat", neither is another phrase than the other
    torch.testing.assert_close(said, torch.tensor([0.75, 0.125, 0.125]), atol=0.02, rtol=0)
    alone = noise_queries(text_of([["cat"]]), [target([CAT], [0])], seeds=[3], label_noise=1.0)
    torch.testing.assert_close(alone.features[0], known[:1].expand(200, -1))


def test_an_images_noise_depends_on_its_own_seed_target_and_prompt_only():
    together = noise_queries(text_of(PROMPTS), TARGETS, seeds=[1, 2], queries=7)
    for image in range(2):
        alone = noise_queries(
            text_of(PROMPTS[image : image + 1]), TARGETS[image : image + 1], seeds=[1 + image], queries=7
        )
        count = alone.targets.shape[1]
        for name in ("features", "boxes", "targets", "positive", "groups"):
            torch.testing.assert_close(getattr(together, name)[image, :count], getattr(alone, name)[0])
    again = noise_queries(text_of(PROMPTS), TARGETS, seeds=[1, 2], queries=7)
    assert torch.equal(together.boxes, again.boxes)
    other = noise_queries(text_of(PROMPTS), TARGETS, seeds=[1, 3], queries=7)
    assert torch.equal(together.boxes[0], other.boxes[0])
    assert not torch.equal(together.boxes[1], other.boxes[1])


def test_the_order_of_phrases_changes_nothing():
    order = [2, 0, 1]
    shuffled = [[PROMPTS[0][number] for number in order], PROMPTS[1]]
    moved = replace(TARGETS[0], phrases=torch.tensor([order.index(number) for number in TARGETS[0].phrases.tolist()]))
    one = noise_queries(text_of(PROMPTS), TARGETS, seeds=[1, 2], label_noise=1.0)
    two = noise_queries(text_of(shuffled), [moved, TARGETS[1]], seeds=[1, 2], label_noise=1.0)
    torch.testing.assert_close(one.features, two.features)
    assert torch.equal(one.boxes, two.boxes)


def test_which_queries_attend_to_which():
    noised = noise_queries(text_of(PROMPTS), TARGETS, seeds=[1, 2], queries=3)  # 1 group of 6; 3 groups of 2
    mask = noised.attention_mask(2)
    assert mask.shape == (2, 8, 8)
    assert mask[0].int().tolist() == [[1] * 8] * 6 + [[0] * 6 + [1] * 2] * 2
    pairs = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    assert mask[1].int().tolist() == [[*row, 1, 1] for row in [*pairs, pairs[-1]]] + [[0] * 6 + [1] * 2] * 2
    padded = replace(noised, groups=torch.tensor([[0] * 6, [0, 0, -1, -1, -1, -1]])).attention_mask(2)
    assert not padded[1, :, 2:6].any()
    assert padded.any(-1).all()  # a query that sees nothing would be NaN


def decode(model, change=lambda noised: noised, queries=4):
    noise = partial(noise_queries, targets=TARGETS, seeds=[1, 2], queries=queries)
    with torch.no_grad():
        return model(images(), PROMPTS, denoising=lambda text: change(noise(text)))


def changed(noised, where):
    """Other contents and boxes at `where`, bool [B, M]."""
    return replace(
        noised,
        features=torch.where(where[..., None], noised.features + 3, noised.features),
        boxes=torch.where(where[..., None], 0.9 - 0.8 * noised.boxes, noised.boxes),
    )


def test_matching_queries_do_not_attend_to_denoising_ones(model):
    with torch.no_grad():
        plain = model(images(), PROMPTS)
    one, two = decode(model), decode(model, lambda noised: changed(noised, noised.groups >= -1))
    assert plain.denoising is None
    assert plain.denoising_queries is None
    assert not torch.allclose(one.denoising[-1].logits[0, :, :4], two.denoising[-1].logits[0, :, :4], atol=1e-2)
    for stage in ("proposals", 0, -1):
        first, second, without = (
            out.proposals if stage == "proposals" else [*out.layers, out][stage] for out in (one, two, plain)
        )
        assert torch.equal(first.logits, second.logits)
        assert torch.equal(first.boxes, second.boxes)
        torch.testing.assert_close(first.logits, without.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(first.boxes, without.boxes, rtol=0, atol=1e-4)


def test_groups_do_not_attend_to_each_other(model):
    one = decode(model, queries=6)
    for group in (0, 1):
        two = decode(model, lambda noised, group=group: changed(noised, noised.groups == group), queries=6)
        same, real = one.denoising_queries.groups != group, one.denoising_queries.groups >= 0
        for first, second in zip(one.denoising, two.denoising, strict=True):
            assert torch.equal(first.boxes[same & real], second.boxes[same & real])
            assert torch.equal(first.logits[same & real], second.logits[same & real])
            assert not torch.allclose(first.boxes[~same], second.boxes[~same], atol=1e-3)


def test_padding_of_the_batch_changes_no_denoising_query(model):
    together = decode(model)
    for image in range(2):
        noise = partial(noise_queries, targets=TARGETS[image : image + 1], seeds=[1 + image], queries=4)
        with torch.no_grad():
            alone = model(images()[[image]], PROMPTS[image : image + 1], denoising=noise)
        count, length = alone.denoising[0].boxes.shape[1], alone.phrase_of_token.shape[1]
        for both, own in zip(together.denoising, alone.denoising, strict=True):
            assert torch.isfinite(both.boxes).all()
            torch.testing.assert_close(both.boxes[image, :count], own.boxes[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(both.logits[image, :count, :length], own.logits[0], rtol=0, atol=1e-4)


def test_a_batch_without_boxes_has_no_denoising_queries(model):
    noise = partial(noise_queries, targets=[target([], []), target([], [])], seeds=[0, 1])
    with torch.no_grad():
        out, plain = model(images(), PROMPTS, denoising=noise), model(images(), PROMPTS)
    assert [stage.boxes.shape for stage in out.denoising] == [(2, 0, 4)] * 2
    torch.testing.assert_close(out.boxes, plain.boxes, rtol=0, atol=1e-4)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="expected 2 targets and seeds, got 2 and 1"):
        noise_queries(text_of(PROMPTS), TARGETS, seeds=[1])
    with pytest.raises(ValueError, match="b: box 0 is named by phrase 4, which has no tokens"):
        noise_queries(text_of(PROMPTS), [TARGETS[0], target([CAT], [4], "b")], seeds=[1, 2])
