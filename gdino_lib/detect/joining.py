"""The boxes of all prompts of an image become one result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torchvision.ops import nms

from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.postprocess import LabelledBoxes, label_boxes, phrase_wise_nms, to_pixels
from gdino_lib.detect.vocabulary import Vocabulary
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
    """The boxes that one pass of the model finds in one image.

    Args:
        out: of the pass; row: of the image in its batch.
        vocabulary: of the image; step: the chunk of it that the pass read.
        size: (width, height) of the image in pixels.

    Returns:
        Boxes as xyxy in pixels; phrases as indices of `vocabulary.phrases`.
    """
    indices = vocabulary.indices[step]
    box_threshold, threshold = options.thresholds_of(vocabulary.chunks[step])
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
    class_ids = torch.tensor(indices, device=found.phrases.device)[found.phrases]
    return found._replace(boxes=to_pixels(found.boxes, *size), phrases=class_ids)


def join_chunks(chunks: list[LabelledBoxes], options: DetectOptions) -> LabelledBoxes:
    """The boxes of all chunks as one result, on the CPU."""
    if not chunks:  # no phrase has a word piece
        none = torch.zeros(0, dtype=torch.int64)
        chunks = [LabelledBoxes(torch.zeros(0, 4), none, torch.zeros(0), none.bool(), none)]
    found = LabelledBoxes(*map(torch.cat, zip(*chunks, strict=True)))
    if len(chunks) > 1:
        found = _suppress_across_chunks(found)
        if not options.every_phrase:
            found = LabelledBoxes(*(column[found.best] for column in found))
    if options.nms_iou is not None:
        keep = phrase_wise_nms(found.boxes, found.scores, found.phrases, options.nms_iou)
        found = LabelledBoxes(*(column[keep] for column in found))
    return LabelledBoxes(*(column[: options.top_k].cpu() for column in found))


def to_detections(found: LabelledBoxes, phrases: tuple[str, ...], options: DetectOptions) -> sv.Detections:
    """The result of a call; `phrases` are the caller's."""
    import supervision as sv

    boxes, class_ids, scores, best, _ = (column.numpy() for column in found)
    names = np.array([phrases[index] for index in class_ids.tolist()], dtype=str)
    data: dict[str, np.ndarray | list] = {"class_name": names}
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
