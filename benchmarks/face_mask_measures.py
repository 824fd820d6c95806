"""The measures of `face_masks.py`: precision, over-detection, duplicates and calibration on face masks, and what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
import torch
from torchvision.ops import box_iou

from data_prep import Dataset
from data_prep.atomic import write_json
from gdino_lib.data.records import class_names
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.postprocess import phrase_wise_nms
from gdino_lib.evaluation.calibration import calibrate
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all, detection_records
from gdino_lib.evaluation.matching import match_all
from gdino_lib.evaluation.over_detection import count_boxes
from gdino_lib.nano import pictograms
from gdino_lib.nano.scenes import write_scenes
from gdino_lib.weights.files import read_json

PARTS = ("val", "test")
THRESHOLD = 0.35  # at which boxes are shown: the detector's default
OVERLAP = 0.3  # IoU threshold of phrase-wise NMS: the article's
SCENES, ABSENT = 300, 8  # pictogram scenes; absent names in their prompts
EVERY = 5  # epochs from one measurement of the old data to the next

Found = dict[str, sv.Detections]


class Old:
    """What the model knew before: VOC's 20 names in photographs, and pictograms."""

    def __init__(self, voc: Dataset, images: Path, scenes: Path) -> None:
        self.voc, self.images, self.scenes = voc, images, scenes
        self._drawn: Dataset | None = None

    def measure(self, detector: Detector) -> dict[str, Any]:
        """AP50 and AP on both, at the short side of the detector's model."""
        if self._drawn is None:
            things = pictograms.seen()
            self._drawn = write_scenes(self.scenes, SCENES, things=things, seed="forgotten", overwrite=True)
        kinds = {"voc07": (self.voc, self.images, None), "pictograms": (self._drawn, self.scenes / "images", ABSENT)}
        figures = {}
        for kind, (records, images, negatives) in kinds.items():
            measured = average_precision(records, detect_all(detector, records, images, negatives=negatives))
            figures[kind] = {"ap": measured.ap, "ap50": measured.ap50}
        return figures


class Curves:
    """A callback of the trainer: the figures of each epoch, a file for each.

    Args:
        folder: of the files.
        parts: {name of a part: its records, their pictures}.
        old: measured after every fifth epoch.
    """

    def __init__(self, folder: Path, parts: Mapping[str, tuple[Dataset, Path]], old: Old) -> None:
        self.folder, self.parts, self.old = folder, parts, old

    def on_epoch_end(self, epoch: int, detector: Detector) -> None:
        """See `gdino_lib.training.callbacks.Callback`."""
        file = self.folder / f"{epoch:03}.json"
        if file.is_file():
            return
        figures: dict[str, Any] = {"epoch": epoch}
        figures |= {part: figures_of_part(detector, *data) for part, data in self.parts.items()}
        if epoch % EVERY == 0:
            figures["old"] = self.old.measure(detector)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, figures)

    def figures(self) -> list[Any]:
        """The figures of all epochs."""
        return [read_json(file) for file in sorted(self.folder.glob("*.json"))]


def figures_of_part(detector: Detector, records: Dataset, images: Path) -> dict[str, Any]:
    """All figures of a detector on a part.

    Returns:
        "ap", "ap50": COCO's; "by_class": {class: AP50}; "score_of_matched": mean confidence of the boxes that are right,
        whatever it is; "boxes_per_face", "wrong_per_image", "recall" at `THRESHOLD`; "duplicates_per_image": boxes at
        `THRESHOLD` on a face that a surer box with the same name has; "suppressed": the same four counts after phrase-wise
        NMS; "calibration_error": expected calibration error of the boxes with a confidence of at least 0.05.
    """
    found = detect_all(detector, records, images)
    measured = average_precision(records, found)
    matches = match_all(records, found)
    return {
        "ap": measured.ap,
        "ap50": measured.ap50,
        "by_class": {each.name: each.ap50 for each in measured.classes},
        "score_of_matched": float(matches.confidence[matches.correct].mean()) if matches.correct.any() else None,
        **counted(records, found),
        "suppressed": counted(records, suppressed(found)),
        "calibration_error": calibrate(matches).error,
    }


def counted(records: Dataset, found: Found) -> dict[str, float]:
    """Boxes a face, wrong boxes an image, recall, and duplicates an image, at `THRESHOLD`."""
    (count,) = count_boxes(match_all(records, found), [THRESHOLD])
    images = len(records.images)
    return {
        "boxes_per_face": count.boxes / count.objects,
        "wrong_per_image": (count.boxes - count.correct) / images,
        "recall": count.correct / count.objects,
        "duplicates_per_image": duplicates(records, found) / images,
    }


def duplicates(records: Dataset, found: Found) -> int:
    """Boxes at `THRESHOLD` that overlap an object of their class which a surer box was matched to.

    Overlap means an IoU of at least 0.5, and each box counts with its best class.
    """
    classes, count = class_names(records), 0
    for record in detection_records(records):
        boxes = found[record.file_name]
        boxes = boxes[boxes.data["best"] & (boxes.confidence >= THRESHOLD)] if len(boxes) else boxes
        for number in np.unique(boxes.class_id) if len(boxes) else ():
            own = torch.from_numpy(boxes.xyxy[boxes.class_id == number])  # by falling confidence
            truth = torch.tensor([box.xyxy for box in record.boxes if box.label == classes[number]]).reshape(-1, 4)
            overlap = box_iou(own.double(), truth.double()).numpy()
            taken = np.zeros(len(truth), bool)
            for row in overlap:
                free = np.where(taken, 0, row)
                if len(row) and free.max() >= 0.5:
                    taken[free.argmax()] = True
                elif len(row) and row.max() >= 0.5:
                    count += 1
    return count


def suppressed(found: Found) -> Found:
    """The boxes that phrase-wise NMS keeps among those with their best class."""
    kept = {}
    for name, boxes in found.items():
        best = boxes[boxes.data["best"]] if len(boxes) else boxes
        if len(best):
            columns = (torch.from_numpy(np.asarray(c)) for c in (best.xyxy, best.confidence, best.class_id))
            best = best[phrase_wise_nms(*columns, OVERLAP).numpy()]
        kept[name] = best
    return kept
