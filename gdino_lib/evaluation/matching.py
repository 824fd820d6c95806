"""Which of the boxes found are right: each object is found once, by the surest box of its class that overlaps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchvision.ops import box_area, box_iou

import data_prep
from data_prep import ImageRecord
from gdino_lib.data.records import class_names, is_crowd
from gdino_lib.evaluation.coco import check_found, detection_records

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class Matches:
    """All boxes found in a data set, and whether they are right. Boxes that lie in a crowd are left out.

    Attributes:
        classes: names.
        confidence: float64 [n]; correct: bool [n]; class_id: int64 [n], index in `classes`; image: int64 [n], number of
            the image.
        objects: int64 [images, classes], how many there are.
    """

    classes: tuple[str, ...]
    confidence: np.ndarray
    correct: np.ndarray
    class_id: np.ndarray
    image: np.ndarray
    objects: np.ndarray


def match_all(dataset: data_prep.Dataset, found: Mapping[str, sv.Detections], iou: float = 0.5) -> Matches:
    """Compare as COCO does at one overlap: by falling score, each box takes the free object of its class that it
    overlaps most, if by `iou` at least. A box counts once, as its best class.

    Args:
        dataset, found: as `average_precision` takes them, with its errors.

    Raises:
        ValueError: results that are not about these images and classes; `iou` outside 0..1.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou: expected a number in 0..1, got {iou}")
    records, classes = detection_records(dataset), class_names(dataset)
    check_found(records, classes, found)
    objects = np.zeros((len(records), len(classes)), dtype=np.int64)
    columns: list[tuple[np.ndarray, ...]] = []
    for number, record in enumerate(records):
        for box in record.boxes:
            objects[number, classes.index(box.label)] += not is_crowd(box)
        result = found[record.file_name]
        if "best" in result.data:
            result = result[result.data["best"]]
        if len(result):
            correct, ignored = _match(record, result, classes, iou)
            rest = ~ignored
            image = np.full(rest.sum(), number, dtype=np.int64)
            columns.append((result.confidence[rest], correct[rest], result.class_id[rest], image))
    types = (np.float64, np.bool_, np.int64, np.int64)
    joined = [
        np.concatenate([np.zeros(0, kind), *(column[place] for column in columns)]).astype(kind)
        for place, kind in enumerate(types)
    ]
    return Matches(classes, *joined, objects)


def _match(
    record: ImageRecord, result: sv.Detections, classes: tuple[str, ...], iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """(right, to be left out), bool [n] each."""
    correct, ignored = np.zeros(len(result), bool), np.zeros(len(result), bool)
    for class_id in np.unique(result.class_id):
        boxes = [box for box in record.boxes if box.label == classes[class_id]]
        if not boxes:
            continue
        own = np.flatnonzero(result.class_id == class_id)
        own = own[np.argsort(-result.confidence[own], kind="stable")]
        predicted = torch.as_tensor(result.xyxy[own], dtype=torch.float64)
        truth = torch.tensor([box.xyxy for box in boxes], dtype=torch.float64)
        crowd = np.array([is_crowd(box) for box in boxes])
        overlap = box_iou(predicted, truth).numpy()  # (n, objects)
        # a box lies in a crowd by the share of its own area that does: intersection = overlap / (1 + overlap) * both areas
        both = (box_area(predicted)[:, None] + box_area(truth)).numpy()
        within = overlap / (1 + overlap) * both / np.maximum(box_area(predicted).numpy()[:, None], 1e-9)
        free = ~crowd
        for place, row in zip(own, range(len(own)), strict=True):
            candidates = np.where(free, overlap[row], -1)
            best = int(candidates.argmax())
            if candidates[best] >= iou:
                free[best] = False
                correct[place] = True
            else:
                ignored[place] = bool((within[row, crowd] >= iou).any())
    return correct, ignored
