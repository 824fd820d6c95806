"""Phrase grounding: where in the picture are the things that the phrases of a sentence name?

Recall at k is the share of the phrases for which one of the k best boxes is right, which means an IoU of at least 0.5. An entity
may have several boxes, "two men" for example. There are two protocols: in "any box" it is enough to find one of them, in
"merged boxes" the one box around all of them counts.

All phrases of a sentence are asked for together. Our prompts are lists of phrases (sub-sentence text), so that the words between
the phrases are not seen, in contrast to MDETR and GLIP, which read the whole sentence.

Sources: Plummer et al., Flickr30k Entities, arXiv 1505.04870; the protocols are those of MDETR, arXiv 2104.12763, appendix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

from data_prep import ImageRecord
from data_prep.formats.flickr30k import TYPES
from data_prep.formats.odvg import REGION
from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.prompts import word_pieces

if TYPE_CHECKING:
    from gdino_lib.detect.detector import Detector

BEST = (1, 5, 10)
IOU = 0.5
ALL = "all"


class Phrase(NamedTuple):
    """A phrase of a sentence.

    Attributes:
        text: its words; types: such as ["people"]; boxes: float64 [n, 4], xyxy in pixels.
    """

    text: str
    types: list[str]
    boxes: torch.Tensor


@dataclass(frozen=True)
class GroundingRecall:
    """Recall of one protocol.

    Attributes:
        phrases: {type: number of phrases}; a phrase of several types counts for each; "all" has each phrase once.
        recall: {type: {k: recall with the k best boxes, in 0..1}}.
    """

    phrases: dict[str, int]
    recall: dict[str, dict[int, float]]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        recall = {kind: {str(k): value for k, value in own.items()} for kind, own in self.recall.items()}
        return {"phrases": self.phrases, "recall": recall}


def phrases_of(record: ImageRecord) -> list[Phrase]:
    """The phrases of a sentence that have a box, in their order."""
    regions: dict[int, list] = defaultdict(list)
    for box in record.boxes:
        regions[box.extra[REGION]].append(box)
    return [
        Phrase(boxes[0].label, boxes[0].extra[TYPES], torch.tensor([box.xyxy for box in boxes], dtype=torch.float64))
        for _, boxes in sorted(regions.items())
    ]


def ground(detector: Detector, image: Image.Image, records: Sequence[ImageRecord]) -> Iterator[FoundBoxes]:
    """Look for the phrases of each sentence about one picture.

    Yields:
        For each record, the ten best boxes of each phrase, by falling score; `class_id` is the index in `phrases_of`. Phrases
        that are the same to the model get the same boxes.
    """
    embedding = detector.encode_image(image)
    for record in records:
        phrases = [phrase.text for phrase in phrases_of(record)]
        found = detector(embedding, phrases, box_threshold=0.0, text_threshold=0.0, every_phrase=True)
        boxes = FoundBoxes.of(found, f"boxes found in {record.file_name!r}")
        first: dict[tuple[int, ...], int] = {}
        parts = []
        for index, phrase in enumerate(phrases):
            twin = first.setdefault(word_pieces(phrase), index)  # the detector reports both under the first index
            rows = np.flatnonzero(boxes.class_id == twin)[: max(BEST)]
            parts.append(FoundBoxes(boxes.xyxy[rows], boxes.confidence[rows], np.full(len(rows), index)))
        yield FoundBoxes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def grounding_recall(
    records: Sequence[ImageRecord], found: Sequence[FoundBoxes], merge_boxes: bool = False
) -> GroundingRecall:
    """Recall at 1, 5 and 10.

    Args:
        records: sentences, as `data_prep.formats.flickr30k.read` gives them.
        found: what `ground` yields for them.
        merge_boxes: the protocol "merged boxes"; else "any box".

    Raises:
        ValueError: no phrases, or not one result for each sentence.
    """
    if len(records) != len(found):
        raise ValueError(f"expected one result for each of {len(records)} sentences, got {len(found)}")
    totals: dict[str, int] = defaultdict(int)
    hits: dict[str, dict[int, int]] = defaultdict(lambda: dict.fromkeys(BEST, 0))
    for record, boxes in zip(records, found, strict=True):
        for index, phrase in enumerate(phrases_of(record)):
            truth = phrase.boxes
            if merge_boxes:
                truth = torch.cat([truth[:, :2].amin(0), truth[:, 2:].amax(0)])[None]
            own = torch.as_tensor(boxes.xyxy[boxes.class_id == index], dtype=torch.float64)
            right = (box_iou(own, truth) >= IOU).any(1)
            for kind in (ALL, *phrase.types):
                totals[kind] += 1
                for k in BEST:
                    hits[kind][k] += bool(right[:k].any())
    if not totals:
        raise ValueError(
            f"no phrases with boxes in {len(records)} sentences; expected at least one to measure recall by"
        )
    kinds = [ALL, *sorted(set(totals) - {ALL})]
    recall = {kind: {k: hits[kind][k] / totals[kind] for k in BEST} for kind in kinds}
    return GroundingRecall({kind: totals[kind] for kind in kinds}, recall)
