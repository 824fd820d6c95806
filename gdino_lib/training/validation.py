"""The validation of a run: its data, and the measurement on one process or many."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object

import data_prep
from gdino_lib.data.records import check_distinct, check_files, class_names, pictures_digest, single_objects
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.evaluation.calibration import choose_thresholds
from gdino_lib.evaluation.coco import AveragePrecision, average_precision
from gdino_lib.evaluation.detect_all import detect_all, detection_records
from gdino_lib.evaluation.matching import match_all


class Validation(NamedTuple):
    """The data that a run is validated on.

    Attributes:
        records: detection records.
        images: folder that their file names are relative to.
        negatives: number of absent classes in the prompt of an image, see `detect_all`; None: all of them.
    """

    records: data_prep.Dataset
    images: Path | str
    negatives: int | None = None

    def check(self) -> None:
        """Check before training for faults that would stop the first validation, an epoch later.

        Raises:
            ValueError: nothing to measure precision by, or two classes that are the same words.
            FileNotFoundError: an image is missing.
        """
        records = detection_records(self.records)
        if not any(single_objects(record) for record in records):
            raise ValueError(
                f"validation: none of {len(records)} records with classes has a box to measure precision by"
            )
        check_distinct(class_names(self.records))
        check_files(records, Path(self.images))

    @property
    def fingerprint(self) -> str:
        """A digest of the records and `negatives`. It does not cover `images`: the folder may have moved."""
        return hashlib.sha256(repr((self.records, self.negatives)).encode()).hexdigest()

    @property
    def pictures_digest(self) -> str:
        """See `gdino_lib.data.records.pictures_digest`."""
        return pictures_digest(detection_records(self.records), Path(self.images))


def measure(
    detector: Detector, validation: Validation, accelerator: Accelerator, progress: bool
) -> tuple[AveragePrecision, Thresholds]:
    """AP of a detector, and the best thresholds; each process detects in its share of the images."""
    records, images, negatives = validation
    share = replace(records, images=records.images[accelerator.process_index :: accelerator.num_processes])
    found = detect_all(detector, share, images, phrases=class_names(records), negatives=negatives, progress=progress)
    found = {name: boxes for part in gather_object([found]) for name, boxes in part.items()}
    return average_precision(records, found), choose_thresholds(match_all(records, found))
