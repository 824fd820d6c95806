"""Boxes found in a data set, checked against its images and classes before anything is measured by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_prep import ImageRecord

if TYPE_CHECKING:
    import supervision as sv

MAX_OVERHANG = 1.0  # pixels by which a box may extend beyond its image; with more, it may belong to another image


class FoundBoxes(NamedTuple):
    """The boxes found in one image: the fields that every measure needs.

    Attributes:
        xyxy: float [n, 4], pixels.
        confidence: float [n].
        class_id: int [n].
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray

    @classmethod
    def of(cls, result: sv.Detections, place: str) -> FoundBoxes:
        """The boxes of a detector's result; an empty result gives empty arrays.

        Args:
            place: where the boxes were found, for messages.

        Raises:
            ValueError: boxes without a class id or a confidence.
        """
        if not len(result):
            return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        if result.class_id is None or result.confidence is None:
            raise ValueError(f"{place}: expected a class_id and a confidence for each box, got none")
        return cls(result.xyxy, result.confidence, result.class_id)

    def only(self, chosen: np.ndarray) -> FoundBoxes:
        """The boxes for which `chosen`, bool [n], is True."""
        return FoundBoxes(self.xyxy[chosen], self.confidence[chosen], self.class_id[chosen])


def check_found(
    records: Sequence[ImageRecord], classes: Sequence[str], found: Mapping[str, sv.Detections]
) -> list[FoundBoxes]:
    """The boxes found in each record's image, after a check that the results belong to these images and classes.

    Raises:
        ValueError: see `gdino_lib.evaluation.coco.average_precision`.
    """
    names = {record.file_name for record in records}
    for what, kind in (
        (names - found.keys(), "images without result"),
        (found.keys() - names, "results without image"),
    ):
        if what:
            raise ValueError(f"{len(what)} {kind}, the first is {min(what)!r}; expected one result for each image")
    checked = [_check_detections(record, classes, found[record.file_name]) for record in records]
    largest = max((float(boxes.xyxy.max()) for boxes in checked if len(boxes.xyxy)), default=None)
    if largest is not None and largest <= 1:
        raise ValueError(f"no box reaches beyond {largest:.3f}; expected xyxy in pixels, not in 0..1")
    return checked


def _check_detections(record: ImageRecord, classes: Sequence[str], result: sv.Detections) -> FoundBoxes:
    place = f"boxes found in {record.file_name!r}"
    boxes = FoundBoxes.of(result, place)
    if not len(result):
        return boxes
    wrong = (boxes.class_id < 0) | (boxes.class_id >= len(classes))
    if wrong.any():
        raise ValueError(f"{place}: expected class ids of 0 to {len(classes) - 1}, got {boxes.class_id[wrong][0]}")
    names = result.data.get("class_name", ())
    for class_id, name in zip(boxes.class_id, names, strict=len(names) > 0):
        if classes[class_id] != name:
            raise ValueError(
                f"{place}: class id {class_id} is {classes[class_id]!r} here and {str(name)!r} in the result"
            )
    if not (np.isfinite(boxes.xyxy).all() and np.isfinite(boxes.confidence).all()):
        raise ValueError(f"{place}: expected finite boxes and scores")
    limits = np.array([record.width, record.height] * 2) + MAX_OVERHANG
    outside = ((boxes.xyxy < -MAX_OVERHANG) | (boxes.xyxy > limits)).any(1)
    if outside.any():
        first = boxes.xyxy[outside][0].round(1).tolist()
        raise ValueError(f"{place}: {first} is outside the image, which has {record.width} x {record.height} pixels")
    return boxes
