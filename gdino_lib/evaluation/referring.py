"""Referring expressions: one phrase, one box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchvision.ops import box_iou

import data_prep
from data_prep import ImageRecord
from data_prep.audit import repair
from gdino_lib.data.records import phrases_merged, single_objects
from gdino_lib.evaluation.detect_all import progress_bar, read_ahead

if TYPE_CHECKING:
    import supervision as sv

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
    records = grounding_records(dataset)
    if not records:
        raise ValueError("no captions with boxes; expected grounding records, as ODVG and RefCOCO have them")
    count, misses = 0, []
    with progress_bar(len(records), "referring", progress) as bar:
        for (record,), (picture,) in read_ahead(records, images, 1):
            embedding = detector.encode_image(picture)
            for phrase, boxes in _phrases(record):
                overlap = _best_overlap(detector.refer(embedding, phrase), boxes)
                count += 1
                if overlap < iou:
                    misses.append(Miss(record.file_name, phrase, overlap))
            bar.update()
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


def _best_overlap(found: sv.Detections, boxes: torch.Tensor) -> float:
    if not len(found):
        return 0.0
    return float(box_iou(torch.as_tensor(found.xyxy[:1], dtype=torch.float64), boxes).max())
