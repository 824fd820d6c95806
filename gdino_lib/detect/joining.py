"""The boxes of all prompts of an image become one result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.postprocess import LabelledBoxes, label_boxes, phrase_wise_nms, to_pixels
from gdino_lib.detect.vocabulary import NEGATIVE, Vocabulary
from gdino_lib.model.grounding_dino import GroundingDINOOutput

if TYPE_CHECKING:
    import supervision as sv

CHUNK_IOU = 0.7  # boxes of several chunks that overlap more are one object


def label_image(
    out: GroundingDINOOutput,
    row: int,
    vocabulary: Vocabulary,
    step: int,
    size: tuple[int, int],
    options: DetectOptions,
) -> LabelledBoxes:
    """The boxes that one pass of the model finds in one image, those of negatives among them.

    Args:
        out: of the pass; row: of the image in its batch.
        vocabulary: of the image; step: the chunk of it that the pass read.
        size: (width, height) of the image in pixels.

    Returns:
        Boxes as xyxy in pixels; phrases as indices of `vocabulary.phrases`; queries counted through all chunks.
    """
    indices = torch.tensor(vocabulary.indices[step], device=out.logits.device)
    owners = [vocabulary.owners[index] for index in vocabulary.indices[step]]
    names = [None if owner == NEGATIVE else vocabulary.names[owner] for owner in owners]
    box_threshold, threshold = options.thresholds_of(names)
    if isinstance(threshold, np.ndarray):
        threshold = torch.from_numpy(threshold).to(out.logits.device)
    found = label_boxes(
        out.logits[row],
        out.boxes[row],
        out.phrase_of_token[row],
        len(indices),
        box_threshold,
        threshold,
        options.score,
        options.every_phrase,
    )
    if options.every_phrase and len({*owners} - {NEGATIVE}) < len(owners):  # several wordings, or a negative
        found = _best_wordings(found, torch.tensor(owners, device=found.phrases.device)[found.phrases])
    queries = found.queries + step * out.logits.shape[1]
    return found._replace(boxes=to_pixels(found.boxes, *size), phrases=indices[found.phrases], queries=queries)


def _best_wordings(found: LabelledBoxes, owners: Tensor) -> LabelledBoxes:
    """Keep the best pair of each query and name; of a query whose best phrase is a negative, keep nothing else.

    Args:
        found: pairs of a query and a phrase, by falling score; owners: int64 [n], of the phrase of each pair.
    """
    negative = owners == NEGATIVE
    taken_away = torch.isin(found.queries, found.queries[found.best & negative])
    keep = found.best | ~(negative | taken_away)
    found, owners = LabelledBoxes(*(column[keep] for column in found)), owners[keep]
    pairs = torch.stack([found.queries, owners], dim=1)
    numbers = torch.arange(len(owners), device=owners.device)
    _, pair = pairs.unique(dim=0, return_inverse=True)
    first = torch.full_like(numbers, len(numbers)).scatter_reduce(0, pair, numbers, "amin")  # of each pair
    return LabelledBoxes(*(column[first[pair] == numbers] for column in found))


def join_chunks(chunks: list[LabelledBoxes], vocabulary: Vocabulary, options: DetectOptions) -> LabelledBoxes:
    """The boxes of all chunks as one result, without those of negatives, on the CPU."""
    if not chunks:  # no phrase has a word piece
        none = torch.zeros(0, dtype=torch.int64)
        chunks = [LabelledBoxes(torch.zeros(0, 4), none, torch.zeros(0), none.bool(), none)]
    found = LabelledBoxes(*map(torch.cat, zip(*chunks, strict=True)))
    if len(chunks) > 1:
        found = _suppress_across_chunks(found)
        if not options.every_phrase:
            found = LabelledBoxes(*(column[found.best] for column in found))
    owners = torch.tensor(vocabulary.owners, device=found.phrases.device)
    found = LabelledBoxes(*(column[owners[found.phrases] != NEGATIVE] for column in found))
    if options.nms_iou is not None:
        keep = phrase_wise_nms(found.boxes, found.scores, owners[found.phrases], options.nms_iou)
        found = LabelledBoxes(*(column[keep] for column in found))
    return LabelledBoxes(*(column[: options.top_k].cpu() for column in found))


def to_detections(found: LabelledBoxes, vocabulary: Vocabulary, options: DetectOptions) -> sv.Detections:
    """The result of a call."""
    import supervision as sv

    boxes, phrases, scores, best, _ = (column.numpy() for column in found)
    class_ids = np.array(vocabulary.owners, dtype=np.int64)[phrases]
    data: dict[str, np.ndarray | list] = {
        "class_name": np.array([vocabulary.names[number] for number in class_ids.tolist()], dtype=str),
        "wording": np.array([vocabulary.phrases[number] for number in phrases.tolist()], dtype=str),
    }
    if options.every_phrase:
        data["best"] = best
    return sv.Detections(xyxy=boxes.reshape(-1, 4), confidence=scores, class_id=class_ids, data=data)


def _suppress_across_chunks(found: LabelledBoxes) -> LabelledBoxes:
    """Of the boxes of several chunks that overlap, only the surest stays the best one of its object; by falling score."""
    candidates = found.best.nonzero().squeeze(1)
    kept = candidates[nms(found.boxes[candidates], found.scores[candidates], CHUNK_IOU)]
    best = torch.zeros_like(found.best)
    best[kept] = True
    order = found.scores.argsort(descending=True, stable=True)
    return LabelledBoxes(*(column[order] for column in found._replace(best=best)))
