"""Contrastive denoising (DINO, arXiv 2203.03605, section 3.3): extra queries that begin near a known box.

A positive query begins at most a step from its box and should find it; a negative one begins one to two steps away and
should say that nothing is there. Some carry another phrase of the prompt. Nothing is learned for them: the content of a
query is the mean of its phrase's enhanced text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from gdino_lib.model.query_selection import Queries
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.training.targets import Target, positive_map


@dataclass(frozen=True)
class DenoisingQueries:
    """The noised queries of a batch, M for the image with most of them, padded for the others.

    Attributes:
        features: float [B, M, D]; boxes: float [B, M, 4], cxcywh in 0..1.
        targets: int64 [B, M], the box of its image that each one is made of; -1 for padding.
        positive: bool [B, M], True = should find this box, False = should find nothing, or padding.
        groups: int64 [B, M], those that may look at each other; -1 for padding.
    """

    features: Tensor
    boxes: Tensor
    targets: Tensor
    positive: Tensor
    groups: Tensor

    @property
    def weights(self) -> Tensor:
        """float [B, M], what each counts in a loss: 1 / groups of its image, so that an image counts as if it had one
        group; 0 for padding.
        """
        groups = F.pad(self.groups + 1, (1, 0)).amax(1, keepdim=True)  # (B, 1), 0 without queries
        return (self.groups >= 0).to(self.boxes.dtype) / groups.clamp(min=1)

    def before(self, queries: Queries) -> Queries:
        """These, then `queries`; the proposals stay."""
        features, boxes = self.features.to(queries.features), self.boxes.to(queries.boxes)
        return replace(
            queries,
            features=torch.cat([features, queries.features], dim=1),  # (B, M + Q, D)
            boxes=torch.cat([boxes, queries.boxes], dim=1),
        )

    def attention_mask(self, matching: int) -> Tensor:
        """Who may look at whom when `matching` = Q queries follow.

        Returns:
            bool [B, M + Q, M + Q], True = the first may look at the second: all at the matching queries, denoising ones
            at those of their own group as well. Nobody looks at padding.
        """
        free = self.groups.new_full((len(self.groups), matching), -2)
        group = torch.cat([self.groups, free], dim=1)  # (B, M + Q)
        same = (group[:, :, None] == group[:, None]) & (group >= 0)[:, None]
        return same | (group == -2)[:, None]


def make(
    text: TextTokens,
    targets: Sequence[Target],
    seeds: Sequence[int],
    queries: int = 100,
    box_noise: float = 1.0,
    label_noise: float = 0.5,
) -> DenoisingQueries:
    """Noise the boxes and phrases of each image.

    What an image gets depends on its own target, prompt and seed alone: not on the rest of the batch, the device, or the
    order of the phrases in its prompt.

    Args:
        text: the enhanced text.
        targets: one per image.
        seeds: one per image; the same ones give the same noise.
        queries: positive ones an image, with as many negative ones. They come in groups of one positive and one negative
            per box: as many groups as fit in, at least one.
        box_noise: how far, in halves of the box's width and height, a positive query's corners may be moved; a negative
            one's are moved by once to twice as much.
        label_noise: half of it is the share of queries whose phrase is swapped for another one, as in DINO and
            MMDetection.

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
        positive_map(target, tokens[image])  # every phrase has tokens
        phrases.append(_say(target.phrases[numbers[-1]], tokens[image], ids[image], label_noise / 2, generator))
        boxes.append(_shift(target.boxes[numbers[-1]], positives[-1], box_noise, generator))

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


def _shift(boxes: Tensor, positive: Tensor, box_noise: float, generator: torch.Generator) -> Tensor:
    """Move the corners of each box: float [m, 4] cxcywh -> the same, inside the image; corners that cross are exchanged."""
    half = boxes[:, 2:].repeat(1, 2) / 2  # (m, 4): width, height, width, height
    distance = torch.rand(half.shape, generator=generator) + (~positive)[:, None]  # 0..1, or 1..2
    sign = torch.randint(2, half.shape, generator=generator) * 2 - 1
    corners = (box_convert(boxes, "cxcywh", "xyxy") + sign * distance * half * box_noise).clamp(0, 1).view(-1, 2, 2)
    corners = torch.stack([corners.amin(1), corners.amax(1)], dim=1)  # (m, 2, 2): corner, axis
    return box_convert(corners.flatten(1), "xyxy", "cxcywh")


def _say(phrases: Tensor, tokens: Tensor, ids: Sequence[int], swapped: float, generator: torch.Generator) -> Tensor:
    """Which tokens each query carries, after some have been given another phrase of the prompt.

    Phrases are drawn by what they say, not by where they stand in the prompt; those that say the same are one.

    Args:
        phrases: int64 [m], each query's own; tokens: int64 [T] and ids: T of them, a row of the prompt.
        swapped: share of queries that get another one.

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
