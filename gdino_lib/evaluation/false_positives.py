"""False positives: boxes for phrases that name nothing in the image."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import data_prep
from data_prep import ImageRecord
from gdino_lib.data.records import class_names
from gdino_lib.evaluation.detect_all import detect_records, detection_records
from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.evaluation.over_detection import THRESHOLDS
from gdino_lib.prompts import word_pieces

if TYPE_CHECKING:
    from gdino_lib.detect.detector import Detector


@dataclass(frozen=True)
class AbsentCount:
    """Number of boxes with a score of at least `threshold` for phrases that name nothing in the image; all are wrong.

    Attributes:
        images: number of images; phrases: number of absent phrases, summed over the images.
        boxes: number of boxes; images_with_boxes: number of images with at least one box.
        by_phrase: number of boxes by phrase, the largest first; phrases without boxes are left out.
    """

    threshold: float
    images: int
    phrases: int
    boxes: int
    images_with_boxes: int
    by_phrase: dict[str, int]

    @property
    def boxes_per_image(self) -> float:
        """The mean number of boxes per image."""
        return self.boxes / self.images

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return asdict(self) | {"boxes_per_image": self.boxes_per_image}


def ask_for_absent(
    detector: Detector,
    dataset: data_prep.Dataset,
    images: Path | str,
    *,
    names: Sequence[str] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    most: int = 20,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> tuple[AbsentCount, ...]:
    """Look in each image only for things that it does not show, and count the boxes.

    Args:
        names: the names to choose from; None: the classes of `dataset`. A name with the same tokens as a label of the
            image does not count as absent.
        most: the largest number of names per image; they are drawn by `seed`.

    Returns:
        One count for each threshold, over the images that lack at least one of the names.

    Raises:
        ImageError: an image that cannot be used.
        ValueError: every image shows all of the names.
    """
    records, prompts = [], {}
    for record in detection_records(dataset):
        absent = absent_names(record, class_names(dataset) if names is None else names)
        if absent:
            rng = random.Random(f"{seed}/{record.file_name}")
            records.append(record)
            prompts[record.file_name] = sorted(rng.sample(absent, min(most, len(absent))))
    if not records:
        raise ValueError("every image shows all classes; expected names that some image does not show: pass `names`")
    scores: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for record, result in detect_records(
        detector,
        records,
        images,
        prompts,
        title="absent names",
        batch_size=batch_size,
        progress=progress,
        box_threshold=0.0,
        text_threshold=min(thresholds),
    ):
        scores.append(FoundBoxes.of(result, f"boxes found in {record.file_name!r}").confidence)
        labels.append(np.asarray(result.data["class_name"]))
    asked = sum(map(len, prompts.values()))
    return tuple(_count_absent(float(threshold), scores, labels, asked) for threshold in thresholds)


def absent_names(record: ImageRecord, names: Sequence[str]) -> list[str]:
    """The names whose tokens differ from those of all labels of the record."""
    shown = {word_pieces(box.label) for box in record.boxes}
    return [name for name in names if word_pieces(name) not in shown]


def _count_absent(threshold: float, scores: list[np.ndarray], labels: list[np.ndarray], asked: int) -> AbsentCount:
    shown = [score >= threshold for score in scores]
    by_phrase = Counter(str(name) for own, rest in zip(labels, shown, strict=True) for name in own[rest])
    counts = [int(rest.sum()) for rest in shown]
    ranked = dict(sorted(by_phrase.items(), key=lambda item: (-item[1], item[0])))
    return AbsentCount(threshold, len(scores), asked, sum(counts), sum(map(bool, counts)), ranked)
