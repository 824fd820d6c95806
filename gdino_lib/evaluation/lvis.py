"""LVIS's average precision, for a data set whose images are annotated for some of the classes only.

The definition is that of the data set's own package, `lvis`: of the boxes found, the 300 with the best scores of each image
count. A box of a class that the image neither shows nor is known not to show is left out. Where a class is not annotated
exhaustively, a box without an object is not wrong. Apart from that the measure is COCO's.

`lvis` 0.5.3 itself fails with NumPy 1.24 and later (`np.float`). faster-coco-eval gives the same figures on made-up data, and
depends on NumPy alone. Several papers report "fixed AP" (arXiv 2102.01066) on LVIS minival, which keeps 10,000 boxes of each
class and is another measure.

Source: Gupta, Dollar, Girshick: LVIS, arXiv 1908.03195; https://github.com/lvis-dataset/lvis-api.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

import data_prep
from data_prep import ImageRecord
from data_prep.formats.lvis import FREQUENCIES, NEGATIVE, NOT_EXHAUSTIVE
from gdino_lib.data.records import class_names
from gdino_lib.evaluation.class_prompts import MAX_PAIRS
from gdino_lib.evaluation.coco import MeanPrecision, as_annotation, count_objects, mean_measured, mean_precision
from gdino_lib.evaluation.detect_all import detection_records
from gdino_lib.evaluation.found_boxes import FoundBoxes, check_found

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class LvisPrecision(MeanPrecision):
    """LVIS's measures.

    Attributes:
        ap_rare, ap_common, ap_frequent: mean over the classes with this frequency, 0..1; None if they have no objects.
    """

    ap_rare: float | None
    ap_common: float | None
    ap_frequent: float | None


def words_of(name: str) -> str:
    """The words to ask for a category: "bow_(decorative_ribbons)" is "bow".

    The explanation in parentheses goes, and underscores become spaces, as in GLIP's evaluation on LVIS.
    """
    words = " ".join(re.sub(r"\(.*?\)", " ", name).replace("_", " ").split())
    return words or name


def lvis_precision(dataset: data_prep.Dataset, found: Mapping[str, sv.Detections]) -> LvisPrecision:
    """Compute LVIS's average precision with faster-coco-eval.

    Args:
        dataset: the ground truth, as `data_prep.formats.lvis.read` gives it; boxes are repaired as by `data_prep.audit`.
        found: the boxes found, by file name, as `ClassPrompts.find` returns them.

    Raises:
        ValueError: as `gdino_lib.evaluation.coco.average_precision`, or a data set without LVIS's lists of classes.
        ModuleNotFoundError: faster-coco-eval is not installed.
    """
    if find_spec("faster_coco_eval") is None:
        raise ModuleNotFoundError("LVIS needs faster-coco-eval, which is not installed: pip install 'gdino_lib[train]'")
    records, classes = detection_records(dataset), class_names(dataset)
    boxes = check_found(records, classes, found)
    objects = count_objects(records, classes)
    categories = {category["name"]: category for category in dataset.extra.get("categories", ())}
    if missing := [name for name in classes if name not in categories]:
        raise ValueError(f"expected LVIS's categories, got none for the class {missing[0]!r}")

    precision = _precision(records, [categories[name] for name in classes], boxes)
    frequencies = np.array([categories[name]["frequency"] for name in classes])
    ap_rare, ap_common, ap_frequent = (mean_measured(precision[:, :, frequencies == each, 0]) for each in FREQUENCIES)
    shared = vars(mean_precision(precision, objects, len(records)))
    return LvisPrecision(**shared, ap_rare=ap_rare, ap_common=ap_common, ap_frequent=ap_frequent)


def _precision(
    records: Sequence[ImageRecord], categories: Sequence[Mapping[str, Any]], found: Sequence[FoundBoxes]
) -> np.ndarray:
    """Precision of 10 overlaps, 101 recalls, the classes, and areas (all, small, medium, large); -1: not measured."""
    from faster_coco_eval import COCO, COCOeval_faster

    own_id = {category["id"]: number for number, category in enumerate(categories, start=1)}
    number_of = {category["name"]: number for number, category in enumerate(categories, start=1)}
    truth = {
        "images": [
            {
                "id": number,
                "width": record.width,
                "height": record.height,
                NEGATIVE: [own_id[key] for key in record.extra[NEGATIVE]],
                NOT_EXHAUSTIVE: [own_id[key] for key in record.extra[NOT_EXHAUSTIVE]],
            }
            for number, record in enumerate(records, start=1)
        ],
        "annotations": [
            as_annotation(number, number_of[box.label], box.xyxy, box.extra.get("area"))
            for number, record in enumerate(records, start=1)
            for box in record.boxes
        ],
        "categories": [
            {"id": number, "name": category["name"], "frequency": category["frequency"]}
            for number, category in enumerate(categories, start=1)
        ],
    }
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    results = []
    for number, boxes in enumerate(found, start=1):
        best = np.argsort(-boxes.confidence, kind="stable")[:MAX_PAIRS]
        columns = (boxes.xyxy[best].tolist(), boxes.confidence[best], boxes.class_id[best])
        for xyxy, score, class_id in zip(*columns, strict=True):
            results.append(as_annotation(number, int(class_id) + 1, xyxy) | {"score": float(score)})
    coco = COCO(truth)
    evaluation = COCOeval_faster(coco, coco.loadRes(results), "bbox", lvis_style=True)
    evaluation.params.maxDets = [MAX_PAIRS]  # no other limit per class
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]
