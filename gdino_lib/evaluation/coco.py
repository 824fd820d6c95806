"""COCO-style average precision of the boxes found in a data set.

Images are identified by their file names and classes by their names. Ids 1, 2, ... are made only for pycocotools, so ids
that do not match cannot give a precision of 0. Results for other images or classes raise an error.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

import data_prep
from data_prep import ImageRecord
from gdino_lib.data.records import class_names, is_crowd
from gdino_lib.evaluation.detect_all import detection_records
from gdino_lib.evaluation.found_boxes import FoundBoxes, check_found

if TYPE_CHECKING:
    import supervision as sv

MAX_DETECTIONS = (1, 10, 100)  # per image and class, as in COCO


@dataclass(frozen=True)
class ClassPrecision:
    """Average precision of one class.

    Attributes:
        name: name of the class.
        objects: number of objects, without crowds.
        ap, ap50: in 0..1; None without objects.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class MeanPrecision:
    """COCO's precision, in 0..1, as means over all classes that have objects; None if there is no object of that size.

    Attributes:
        ap: mean over the IoU thresholds 0.50, 0.55, ..., 0.95; ap50, ap75: at an IoU of 0.50 and of 0.75.
        ap_small, ap_medium, ap_large: for objects with an area below 32 x 32 pixels, below 96 x 96 pixels, and larger.
        images, objects: number of images and of objects; crowds are not counted.
        classes: one entry per class, in the order of `class_names`, including classes without objects.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    images: int
    objects: int
    classes: tuple[ClassPrecision, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return own | {"classes": [vars(entry) for entry in self.classes]}


@dataclass(frozen=True)
class AveragePrecision(MeanPrecision):
    """COCO's measures.

    Attributes:
        recall: mean over the IoU thresholds of the greatest recall with 100 boxes per image and class, 0..1.
    """

    recall: float

    @property
    def without_objects(self) -> tuple[str, ...]:
        """The names of the classes without objects, for which no precision can be computed."""
        return tuple(entry.name for entry in self.classes if not entry.objects)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return super().to_json() | {"without_objects": list(self.without_objects)}


def average_precision(dataset: data_prep.Dataset, found: Mapping[str, sv.Detections]) -> AveragePrecision:
    """Compute COCO's average precision with pycocotools.

    Args:
        dataset: the ground truth. Only detection records (records without a caption) are used; their boxes are repaired
            as by `data_prep.audit`.
        found: the boxes found, by file name, as `detect_all` returns them.

    Raises:
        ValueError: an image without result or a result without image; a class id out of range, or one that does not agree
            with `data["class_name"]`; boxes without a score, not finite, or outside their image; no objects.
        ModuleNotFoundError: pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise ModuleNotFoundError(
            "average precision needs pycocotools, which is not installed: pip install 'gdino_lib[train]'"
        )
    records, classes = detection_records(dataset), class_names(dataset)
    boxes = check_found(records, classes, found)
    objects = count_objects(records, classes)
    evaluation = _evaluate(records, classes, boxes)
    precision = evaluation.eval["precision"][..., -1]  # with 100 boxes
    return AveragePrecision(**vars(mean_precision(precision, objects, len(records))), recall=float(evaluation.stats[8]))


def count_objects(records: Sequence[ImageRecord], classes: Sequence[str]) -> dict[str, int]:
    """{class: its number of objects}, without crowds.

    Raises:
        ValueError: there is no object.
    """
    counts = dict.fromkeys(classes, 0)
    for record in records:
        for box in record.boxes:
            counts[box.label] += not is_crowd(box)
    if not any(counts.values()):
        raise ValueError(f"no objects in {len(records)} images; expected at least one to measure precision by")
    return counts


def mean_precision(precision: np.ndarray, objects: Mapping[str, int], images: int) -> MeanPrecision:
    """The means that COCO reports.

    Args:
        precision: float [10, 101, classes, 4], by IoU threshold, recall, class and area (all, small, medium, large); -1
            where there is nothing to measure.
        objects: {class: its number of objects}, in the order of the classes.
        images: number of images.
    """
    whole, *by_area = (precision[..., area] for area in range(4))
    small, medium, large = map(mean_measured, by_area)
    return MeanPrecision(
        ap=mean_measured(whole) or 0.0,
        ap50=mean_measured(whole[0]) or 0.0,
        ap75=mean_measured(whole[5]) or 0.0,
        ap_small=small,
        ap_medium=medium,
        ap_large=large,
        images=images,
        objects=sum(objects.values()),
        classes=tuple(
            ClassPrecision(name, count, mean_measured(whole[:, :, column]), mean_measured(whole[0, :, column]))
            for column, (name, count) in enumerate(objects.items())
        ),
    )


def mean_measured(values: np.ndarray) -> float | None:
    """The mean of the values that were measured, which are not -1; None if there is no such value."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


def _evaluate(records: Sequence[ImageRecord], classes: Sequence[str], found: Sequence[FoundBoxes]) -> Any:
    """A COCOeval of these boxes that has run, so that its `stats` and `eval` are filled."""
    from pycocotools.cocoeval import COCOeval

    number_of = {name: number for number, name in enumerate(classes, start=1)}
    truth = [
        as_annotation(number, number_of[box.label], box.xyxy, box.extra.get("area"), is_crowd(box))
        for number, record in enumerate(records, start=1)
        for box in record.boxes
    ]
    results = [
        as_annotation(number, int(class_id) + 1, xyxy) | {"score": float(score)}
        for number, boxes in enumerate(found, start=1)
        for xyxy, score, class_id in zip(boxes.xyxy.tolist(), boxes.confidence, boxes.class_id, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(records, classes, truth), _coco(records, classes, results), "bbox")
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def as_annotation(
    image: int, category: int, xyxy: Sequence[float], area: Any = None, crowd: bool = False
) -> dict[str, Any]:
    """A box as COCO's packages take it, without an id."""
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    measured = isinstance(area, int | float) and area > 0  # COCO gives the area inside the object's outline
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(area) if measured else (x2 - x1) * (y2 - y1),
        "iscrowd": int(crowd),
    }


def _coco(records: Sequence[ImageRecord], classes: Sequence[str], annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    dataset: Any = {
        "images": [{"id": n, "width": r.width, "height": r.height} for n, r in enumerate(records, start=1)],
        # ids begin at 1, because pycocotools treats a match with object 0 as no match
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
    }
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
