"""From logits to labelled boxes: the phrase of each box, its score, and whether the box is kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from gdino_lib.detect.options import Score


def phrase_scores(logits: Tensor, tokens: Tensor, count: int, score: Score = "mean") -> Tensor:
    """How well each query fits each phrase: the mean of the sigmoids of the phrase's tokens, or the best of them.

    Args:
        logits: float [Q, T]; tokens: int64 [T], phrase index of each token or -1; count: number of phrases P.

    Returns:
        float32 [Q, P] in 0..1; 0 for a phrase without tokens.
    """
    probabilities = logits.float().sigmoid()
    members = tokens[:, None] == torch.arange(count, device=tokens.device)  # (T, P)
    if score == "mean":
        # (Q, T) x (T, P); padding has probability 0 and no phrase
        return probabilities @ members.float() / members.sum(0).clamp(min=1)
    return torch.stack(
        [probabilities[:, m].amax(1) if m.any() else probabilities.new_zeros(len(logits)) for m in members.unbind(1)],
        dim=1,
    )


class LabelledBoxes(NamedTuple):
    """Boxes that each carry one phrase, by falling score.

    Attributes:
        boxes: float32 [n, 4]; from `label_boxes` cxcywh in 0..1, within the `Detector` xyxy in pixels.
        phrases: int64 [n], index of the box's phrase.
        scores: float32 [n], score of the box's phrase, in 0..1.
        best: bool [n], True if no other phrase has a higher score for the same query.
        queries: int64 [n], index of the query.
    """

    boxes: Tensor
    phrases: Tensor
    scores: Tensor
    best: Tensor
    queries: Tensor


def label_boxes(
    logits: Tensor,
    boxes: Tensor,
    tokens: Tensor,
    count: int,
    box_threshold: float,
    text_threshold: float | Tensor,
    score: Score = "mean",
    every_phrase: bool = False,
) -> LabelledBoxes:
    """Give each query its best phrase, and keep the queries whose scores reach the thresholds.

    Args:
        logits: float [Q, T]; boxes: float [Q, 4], cxcywh in 0..1.
        tokens: int64 [T], phrase index of each token or -1, with at least one token of a phrase; count: number of phrases.
        box_threshold: the best of a query's tokens must reach it (special tokens and "." do not count).
        text_threshold: the score of a phrase must reach it. A float32 tensor [count] has a threshold for each phrase.
        score: see `phrase_scores`.
        every_phrase: give each query a box for every phrase whose score reaches the threshold, not for its best phrase
            alone. COCO's average precision is measured on such boxes.
    """
    best_token = logits.float()[:, tokens >= 0].sigmoid().amax(1)
    scores = phrase_scores(logits, tokens, count, score)  # (Q, P)
    best = torch.arange(count, device=scores.device) == scores.argmax(1)[:, None]  # (Q, P)
    keep = (best_token >= box_threshold)[:, None] & (scores >= text_threshold)
    if not every_phrase:
        keep &= best
    query, phrase = keep.nonzero(as_tuple=True)
    order = scores[query, phrase].argsort(descending=True, stable=True)
    query, phrase = query[order], phrase[order]
    return LabelledBoxes(boxes.float()[query], phrase, scores[query, phrase], best[query, phrase], query)


def to_pixels(boxes: Tensor, width: int, height: int) -> Tensor:
    """cxcywh in 0..1 -> xyxy in pixels, inside the image; float32 [n, 4]."""
    scale = boxes.new_tensor([width, height, width, height])
    corners = box_convert(boxes, "cxcywh", "xyxy") * scale
    return torch.minimum(corners.clamp(min=0), scale)


def phrase_wise_nms(boxes: Tensor, scores: Tensor, phrases: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression within each phrase.

    Args:
        boxes: float [n, 4], xyxy in pixels; scores: float [n]; phrases: int64 [n].
        iou: overlap above which the weaker of two boxes of one phrase is removed.

    Returns:
        int64, indices of the boxes that stay, by falling score; empty if there are no boxes.
    """
    # phrases are numbered from 0: torchvision shifts the boxes of a phrase by its number, and large shifts lose digits
    return batched_nms(boxes, scores, phrases.unique(return_inverse=True)[1], iou)


def suppress_by_phrase(
    boxes: np.ndarray | Tensor, scores: np.ndarray | Tensor, phrases: list[str], size: tuple[int, int], iou: float = 0.3
) -> tuple[Tensor, Tensor, list[str]]:
    """Phrase-wise NMS on the results of `gdino_lib.inference.predict`: group by phrase, scale to pixels, suppress.

    Args:
        boxes: [n, 4], cxcywh in 0..1; scores: [n]; phrases: n labels; size: (width, height) of the image in pixels.
        iou: see `phrase_wise_nms`.

    Returns:
        (boxes float32 [m, 4] cxcywh in 0..1, scores float32 [m], labels), by falling score.
    """
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.as_tensor(scores, dtype=torch.float32).reshape(-1)
    names = {phrase: number for number, phrase in enumerate(dict.fromkeys(phrases))}
    classes = torch.tensor([names[phrase] for phrase in phrases], dtype=torch.int64)
    keep = phrase_wise_nms(to_pixels(boxes, *size), scores, classes, iou)
    return boxes[keep], scores[keep], [phrases[index] for index in keep.tolist()]
