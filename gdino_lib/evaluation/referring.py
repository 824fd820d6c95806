"""Referring expressions: one phrase, one box."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou

import data_prep
from data_prep import ImageRecord
from data_prep.audit import repair
from gdino_lib.data.records import phrases_merged, single_objects
from gdino_lib.evaluation.detect_all import progress_bar, read_ahead
from gdino_lib.evaluation.found_boxes import FoundBoxes

if TYPE_CHECKING:
    from gdino_lib.detect.detector import Detector


@dataclass(frozen=True)
class Miss:
    """A phrase whose box is wrong.

    Attributes:
        image: file name; phrase: the phrase.
        iou: the largest IoU of the box with a box of the phrase; 0 if no box was found.
    """

    image: str
    phrase: str
    iou: float


@dataclass(frozen=True)
class ReferringAccuracy:
    """How often the best box for a phrase is right.

    Attributes:
        phrases: number of phrases; correct: number of phrases whose box is right; iou: the least IoU of a right box.
        misses: the phrases whose box is wrong.
    """

    phrases: int
    correct: int
    iou: float
    misses: tuple[Miss, ...]

    @property
    def accuracy(self) -> float:
        """In 0..1."""
        return self.correct / self.phrases

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return asdict(self) | {"accuracy": self.accuracy, "misses": [asdict(miss) for miss in self.misses]}


def referring_accuracy(
    detector: Detector, dataset: data_prep.Dataset, images: Path | str, *, iou: float = 0.5, progress: bool = True
) -> ReferringAccuracy:
    """Look for each phrase of each grounding record by itself, and take the box with the best score, however low.

    The box is right if its IoU with a box of the phrase is at least `iou`. In RefCOCO each phrase has one box.

    Raises:
        ImageError: an image that cannot be used.
        ValueError: no grounding record with a box.
    """
    groups = by_image(grounding_records(dataset))
    found: list[FoundBoxes] = []
    with progress_bar(len(groups), "referring", progress) as bar:
        pictures = (picture for _, part in read_ahead([group[0] for group in groups], images, 1) for picture in part)
        for group, picture in zip(groups, pictures, strict=True):
            found += refer_all(detector, picture, group)
            bar.update()
    return judge([record for group in groups for record in group], found, iou)


def by_image(records: Iterable[ImageRecord]) -> list[list[ImageRecord]]:
    """The records of each image together; an image stands where its first record stood."""
    groups: dict[str, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(record.file_name, []).append(record)
    return list(groups.values())


def refer_all(detector: Detector, image: Image.Image, records: Sequence[ImageRecord]) -> Iterator[FoundBoxes]:
    """Look for each phrase of each grounding record of one image by itself.

    Yields:
        For each record, at most one box for each phrase; `class_id` is the index among the record's distinct phrases.
    """
    embedding = detector.encode_image(image)
    for record in records:
        parts = []
        for index, (phrase, _) in enumerate(_phrases(record)):
            best = FoundBoxes.of(detector.refer(embedding, phrase), f"the box found for {phrase!r}")
            parts.append(FoundBoxes(best.xyxy[:1], best.confidence[:1], np.full(len(best.xyxy[:1]), index)))
        yield FoundBoxes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def judge(records: Sequence[ImageRecord], found: Sequence[FoundBoxes], iou: float = 0.5) -> ReferringAccuracy:
    """How many of the boxes that `refer_all` yields are right.

    Args:
        records: grounding records with boxes, as `grounding_records` gives them; found: the boxes found for each.

    Raises:
        ValueError: no records, or not one result for each of them.
    """
    if not records:
        raise ValueError("no captions with boxes; expected grounding records, as ODVG and RefCOCO have them")
    if len(records) != len(found):
        raise ValueError(f"expected one result for each of {len(records)} records, got {len(found)}")
    count, misses = 0, []
    for record, boxes in zip(records, found, strict=True):
        for index, (phrase, truth) in enumerate(_phrases(record)):
            overlap = _best_overlap(boxes.xyxy[boxes.class_id == index], truth)
            count += 1
            if overlap < iou:
                misses.append(Miss(record.file_name, phrase, overlap))
    return ReferringAccuracy(count, count - len(misses), iou, tuple(misses))


def grounding_records(dataset: data_prep.Dataset) -> list[ImageRecord]:
    """The records with a caption and at least one box of a single object, repaired.

    Phrases that are the same to the model are merged.
    """
    records = (phrases_merged(repair(record)[0]) for record in dataset.images if record.caption is not None)
    return [record for record in records if single_objects(record)]


def _phrases(record: ImageRecord) -> Iterator[tuple[str, torch.Tensor]]:
    """Each phrase with its boxes, float64 [n, 4]."""
    boxes = single_objects(record)
    for phrase in dict.fromkeys(box.label for box in boxes):
        yield phrase, torch.tensor([box.xyxy for box in boxes if box.label == phrase], dtype=torch.float64)


def _best_overlap(found: np.ndarray, boxes: torch.Tensor) -> float:
    if not len(found):
        return 0.0
    return float(box_iou(torch.as_tensor(found, dtype=torch.float64), boxes).max())
