"""Contrastive denoising (DINO, arXiv 2203.03605, section 3.3): extra queries that begin near a known box.

A positive query begins at most one step from its box and should find the box. A negative query begins one to two steps away
and should find nothing. Some queries carry another phrase of the prompt. These queries need no parameters: the content of a
query is the mean of its phrase's enhanced text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from gdino_lib.data.targets import Target, positive_map
from gdino_lib.model.denoising_queries import DenoisingQueries
from gdino_lib.model.text_encoder import TextTokens


def noise_queries(
    text: TextTokens,
    targets: Sequence[Target],
    seeds: Sequence[int],
    queries: int = 100,
    box_noise: float = 1.0,
    label_noise: float = 0.5,
) -> DenoisingQueries:
    """Add noise to the boxes and phrases of each image.

    The noise of an image depends on its own target, prompt and seed alone, not on the rest of the batch, the device, or the
    order of the phrases in its prompt.

    Args:
        text: the enhanced text.
        targets: one per image.
        seeds: one per image; the same seed gives the same noise.
        queries: number of positive queries per image, with as many negative ones. They form groups of one positive and one
            negative query per box: as many groups as fit, but at least one.
        box_noise: how far the corners of a positive query are moved at most, in halves of the box's width and height; the
            corners of a negative query are moved by once to twice as much.
        label_noise: twice the share of queries whose phrase is replaced by another one, as in DINO and MMDetection.

    Raises:
        ValueError: another number of targets or seeds; a box whose phrase has no token.
    """
    tokens, ids = text.prompt.phrases.cpu(), text.prompt.ids.tolist()
    if not len(targets) == len(seeds) == len(tokens):
        raise ValueError(f"expected {len(tokens)} targets and seeds, got {len(targets)} and {len(seeds)}")
    boxes, phrases, numbers, positives, groups = [], [], [], [], []
    for image, (target, seed) in enumerate(zip(targets, seeds, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        count = len(target.boxes)
        rounds = max(1, queries // count) if count else 0
        numbers.append(torch.arange(count).repeat(2 * rounds))  # (m): m = rounds * (positive, negative) * count
        positives.append(torch.tensor([True, False]).repeat_interleave(count).repeat(rounds))
        groups.append(torch.arange(rounds).repeat_interleave(2 * count))
        positive_map(target, tokens[image])  # raises if a phrase has no token
        phrases.append(
            _noise_labels(target.phrases[numbers[-1]], tokens[image], ids[image], label_noise / 2, generator)
        )
        boxes.append(_noise_boxes(target.boxes[numbers[-1]], positives[-1], box_noise, generator))

    device = text.features.device
    chosen = pad_sequence(phrases, batch_first=True).to(text.features)  # (B, M, T), 0 or 1
    mean = chosen / chosen.sum(-1, keepdim=True).clamp(min=1)
    return DenoisingQueries(
        features=mean @ text.features,  # (B, M, T) x (B, T, D) -> (B, M, D)
        boxes=pad_sequence(boxes, batch_first=True, padding_value=0.5).to(device),
        targets=pad_sequence(numbers, batch_first=True, padding_value=-1).to(device),
        positive=pad_sequence(positives, batch_first=True).to(device),
        groups=pad_sequence(groups, batch_first=True, padding_value=-1).to(device),
    )


def _noise_boxes(boxes: Tensor, positive: Tensor, box_noise: float, generator: torch.Generator) -> Tensor:
    """Move the corners of each box: float [m, 4] cxcywh -> the same, inside the image; corners that cross are exchanged."""
    half = boxes[:, 2:].repeat(1, 2) / 2  # (m, 4): width, height, width, height
    distance = torch.rand(half.shape, generator=generator) + (~positive)[:, None]  # 0..1, or 1..2
    sign = torch.randint(2, half.shape, generator=generator) * 2 - 1
    corners = (box_convert(boxes, "cxcywh", "xyxy") + sign * distance * half * box_noise).clamp(0, 1).view(-1, 2, 2)
    corners = torch.stack([corners.amin(1), corners.amax(1)], dim=1)  # (m, 2, 2): corner, axis
    return box_convert(corners.flatten(1), "xyxy", "cxcywh")


def _noise_labels(
    phrases: Tensor, tokens: Tensor, ids: Sequence[int], swapped: float, generator: torch.Generator
) -> Tensor:
    """The tokens of each query's phrase, after some queries have been given another phrase of the prompt.

    The draw depends on the phrases' tokens, not on their order in the prompt; phrases with the same tokens are one.

    Args:
        phrases: int64 [m], each query's own; tokens: int64 [T] and ids: T of them, a row of the prompt.
        swapped: share of queries that get another phrase.

    Returns:
        bool [m, T].
    """
    change = torch.rand(len(phrases), generator=generator) < swapped
    draw = torch.rand(len(phrases), generator=generator)
    said: dict[int, tuple[int, ...]] = {}  # in the order of the prompt
    for index, token in zip(tokens.tolist(), ids, strict=True):
        if index >= 0:
            said[index] = (*said.get(index, ()), token)
    first = {text: index for index, text in reversed(said.items())}  # of several copies, the first
    texts = sorted(first)
    number = torch.tensor([texts.index(said[index]) for index in phrases.tolist()], dtype=torch.int64)  # (m)
    if len(texts) > 1:
        other = (number + 1 + (draw * (len(texts) - 1)).long()) % len(texts)  # any but its own
        number = torch.where(change, other, number)
    place = torch.tensor([first[text] for text in texts], dtype=torch.int64)  # (K)
    return tokens == place[number][:, None]  # (T) == (m, 1) -> (m, T)
