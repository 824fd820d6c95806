"""Losses through a model: which parameters learn, batches against single images, autocast."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from made_up_losses import PROMPTS, assert_parts_equal
from made_up_targets import CAT, REMOTE, target
from peers import SMALL, randomise

import gdino_lib as gd
from gdino_lib.training.denoising import noise_queries
from gdino_lib.training.losses import Criterion

CONFIG = SMALL.replace(
    swin_depths=(1, 1, 1, 1), bert_layers=1, levels=3, encoder_layers=1, decoder_layers=2, backbone_drop_path=0.0,
    fusion_drop_path=0.0,
)  # fmt: skip
TARGETS = [
    target([CAT, REMOTE, [0.6, 0.4, 0.3, 0.1]], [0, 1, 1], "a.jpg"),
    target([REMOTE, CAT], [2, 0], "b.jpg"),
    target([], [], "c.jpg"),
]


def build(config=CONFIG):
    model = gd.GroundingDINO(config)
    randomise(model)
    return model.train()


def step(model, images, prompts, targets, seeds=(1, 2, 3)):
    noise = partial(noise_queries, targets=targets, seeds=seeds[: len(targets)], queries=8)
    return Criterion()(model(images, prompts, denoising=noise), targets)


def pixels(batch=3):
    return torch.randn(batch, 3, 64, 96, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    ("switches", "denoising"),
    [
        ({}, True),
        ({}, False),
        ({"language_guided": False}, True),
        ({"scaled_logits": True, "shared_box_head": False}, True),
    ],
    ids=["denoising", "plain", "static queries", "mm"],
)
def test_the_loss_reaches_every_parameter(switches, denoising):
    # the proposals' heads too, which get nothing in the port
    model = build(CONFIG.replace(**switches))
    noise = partial(noise_queries, targets=TARGETS, seeds=[1, 2, 3], queries=8) if denoising else None
    parts = Criterion()(model(pixels(), PROMPTS[:3], denoising=noise), TARGETS)
    assert any(name.startswith("denoising") for name in parts) == denoising
    parts["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
    assert [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()] == []


def test_a_batch_without_boxes_trains():
    model = build()
    parts = step(model, pixels(), PROMPTS[:3], [target([], [])] * 3)
    parts["total"].backward()
    assert parts["total"] > 0
    assert all(value == 0 for name, value in parts.items() if name.endswith(("/box", "/giou")))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_a_models_batch_is_the_sum_of_its_images_and_the_order_of_phrases_changes_nothing():
    model, images, prompts = build().eval(), pixels(), PROMPTS[:3]
    together = step(model, images, prompts, TARGETS)
    boxes = sum(len(truth.boxes) for truth in TARGETS)
    total = dict.fromkeys(together, 0.0)
    for image, truth in enumerate(TARGETS):
        alone = step(model, images[[image]], prompts[image : image + 1], [truth], seeds=[image + 1])
        for name, value in alone.items():
            total[name] += value * max(len(truth.boxes), 1) / boxes
    assert_parts_equal(together, total, 1e-4)

    shuffled, moved = [], []
    for phrases, truth in zip(prompts, TARGETS, strict=True):
        order = list(range(len(phrases)))[::-1]
        shuffled.append([phrases[number] for number in order])
        moved.append(replace(truth, phrases=torch.tensor([order.index(n) for n in truth.phrases.tolist()]).long()))
    assert_parts_equal(step(model, images, shuffled, moved), together, 1e-4)


def test_under_autocast_losses_are_single_precision():
    model = build().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = step(model, pixels(), PROMPTS[:3], TARGETS)
    parts["total"].backward()
    assert {value.dtype for value in parts.values()} == {torch.float32}
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    exact = step(model, pixels(), PROMPTS[:3], TARGETS)["total"].item()
    assert parts["total"].item() == pytest.approx(exact, rel=0.1)
