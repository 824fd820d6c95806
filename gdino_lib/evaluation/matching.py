"""Match boxes to objects: each object is found at most once, by the box with the best score of those that overlap it."""

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
from gdino_lib.evaluation.detect_all import detection_records
from gdino_lib.evaluation.found_boxes import FoundBoxes, check_found

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class Matches:
    """All boxes found in a data set, and whether they are right. Boxes that lie in a crowd are left out.

    Attributes:
        classes: names of the classes.
        confidence: float64 [n]; correct: bool [n]; class_id: int64 [n], index in `classes`; image: int64 [n], number of
            the image.
        objects: int64 [images, classes], number of objects without crowds.
    """

    classes: tuple[str, ...]
    confidence: np.ndarray
    correct: np.ndarray
    class_id: np.ndarray
    image: np.ndarray
    objects: np.ndarray


def match_all(dataset: data_prep.Dataset, found: Mapping[str, sv.Detections], iou: float = 0.5) -> Matches:
    """Match boxes to objects as COCO does at one IoU threshold.

    In order of falling score, each box is matched to the object of its class that it overlaps most. Objects that are matched
    already are left out, and the IoU must be at least `iou`. Each box counts once, with its best class.

    Args:
        dataset, found: as for `average_precision`.
        iou: the threshold, above 0 and at most 1.

    Raises:
        ValueError: as for `average_precision`, or `iou` out of its range.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou: expected a number in 0..1, got {iou}")
    records, classes = detection_records(dataset), class_names(dataset)
    checked = check_found(records, classes, found)
    objects = np.zeros((len(records), len(classes)), dtype=np.int64)
    confidence, correct, class_id, image = [], [], [], []  # an array for each image
    for number, (record, boxes) in enumerate(zip(records, checked, strict=True)):
        for box in record.boxes:
            objects[number, classes.index(box.label)] += not is_crowd(box)
        best = found[record.file_name].data.get("best")
        if best is not None:
            boxes = boxes.only(np.asarray(best))
        right, ignored = _match(record, boxes, classes, iou)
        kept = boxes.only(~ignored)
        confidence.append(kept.confidence)
        correct.append(right[~ignored])
        class_id.append(kept.class_id)
        image.append(np.full(len(kept.xyxy), number))
    return Matches(
        classes,
        confidence=_join(confidence, np.float64),
        correct=_join(correct, np.bool_),
        class_id=_join(class_id, np.int64),
        image=_join(image, np.int64),
        objects=objects,
    )


def _join(arrays: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)


def _match(
    record: ImageRecord, found: FoundBoxes, classes: tuple[str, ...], iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes that are right, boxes to leave out because they lie in a crowd), bool [n] each."""
    correct, ignored = np.zeros(len(found.xyxy), bool), np.zeros(len(found.xyxy), bool)
    for class_id in np.unique(found.class_id):
        boxes = [box for box in record.boxes if box.label == classes[class_id]]
        if not boxes:
            continue
        own = np.flatnonzero(found.class_id == class_id)
        own = own[np.argsort(-found.confidence[own], kind="stable")]
        predicted = torch.as_tensor(found.xyxy[own], dtype=torch.float64)
        truth = torch.tensor([box.xyxy for box in boxes], dtype=torch.float64)
        crowd = np.array([is_crowd(box) for box in boxes])
        overlap = box_iou(predicted, truth).numpy()  # (n, objects)
        # for a crowd, the share of the box's own area inside it counts, not the IoU;
        # intersection = IoU / (1 + IoU) * (sum of both areas)
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
