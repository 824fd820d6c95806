"""All measures of one detector on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data_prep
from gdino_lib.data.records import class_names, single_objects
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.evaluation.calibration import Calibration, calibrate, choose_thresholds
from gdino_lib.evaluation.coco import AveragePrecision, average_precision
from gdino_lib.evaluation.detect_all import detect_all, detection_records
from gdino_lib.evaluation.false_positives import AbsentCount, absent_names, ask_for_absent
from gdino_lib.evaluation.matching import match_all
from gdino_lib.evaluation.over_detection import THRESHOLDS, BoxCount, count_boxes
from gdino_lib.evaluation.referring import ReferringAccuracy, grounding_records, referring_accuracy

if TYPE_CHECKING:
    from gdino_lib.detect.detector import Detector


@dataclass(frozen=True)
class Evaluation:
    """The measures of `evaluate`; a measure is None or empty if the data set has no records for it.

    Attributes:
        precision, counts, calibration, thresholds: from the detection records.
        absent: boxes for classes that an image does not show; empty if every image shows all classes.
        referring: from the grounding records.
    """

    precision: AveragePrecision | None
    counts: tuple[BoxCount, ...]
    calibration: Calibration | None
    thresholds: Thresholds | None
    absent: tuple[AbsentCount, ...]
    referring: ReferringAccuracy | None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""

        def plain(value: Any) -> Any:
            if isinstance(value, tuple):
                return [entry.to_json() for entry in value]
            return None if value is None else value.to_json()

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}


def evaluate(
    detector: Detector,
    dataset: data_prep.Dataset,
    images: Path | str,
    *,
    absent: Sequence[str] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    batch_size: int = 16,
    progress: bool = True,
) -> Evaluation:
    """Compute every measure that the data set has records for. The class thresholds are chosen on this data set itself.

    Args:
        dataset: detection records, grounding records (records with a caption), or both.
        images: folder that the file names are relative to.
        absent: names for `ask_for_absent`; None: the classes of `dataset`; an empty list skips this measure.
        thresholds: the score thresholds at which boxes are counted.

    Raises:
        ImageError: an image that cannot be used; the message names it.
        ValueError: no record has a box.
    """
    records, captions = detection_records(dataset), grounding_records(dataset)
    has_objects = any(single_objects(record) for record in records)
    if not has_objects and not captions:
        raise ValueError(f"none of {len(dataset.images)} records has a box; expected at least one box to measure by")
    precision = calibration = chosen = referring = None
    counts: tuple[BoxCount, ...] = ()
    absent_counts: tuple[AbsentCount, ...] = ()
    if has_objects:
        found = detect_all(detector, dataset, images, batch_size=batch_size, progress=progress)
        matches = match_all(dataset, found)
        precision = average_precision(dataset, found)
        counts, calibration, chosen = count_boxes(matches, thresholds), calibrate(matches), choose_thresholds(matches)
        names = class_names(dataset) if absent is None else absent
        if any(absent_names(record, names) for record in records):
            absent_counts = ask_for_absent(
                detector,
                dataset,
                images,
                names=names,
                thresholds=thresholds,
                batch_size=batch_size,
                progress=progress,
            )
    if captions:
        referring = referring_accuracy(detector, dataset, images, progress=progress)
    return Evaluation(precision, counts, calibration, chosen, absent_counts, referring)
