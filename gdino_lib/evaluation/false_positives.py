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
    """Boxes for phrases that name nothing in the image, of at least `threshold`: each is wrong.

    Attributes:
        images: how many were asked; phrases: how often an absent phrase was asked for.
        boxes: found; images_with_boxes: images in which there was any.
        by_phrase: boxes for each phrase that got any, most first.
    """

    threshold: float
    images: int
    phrases: int
    boxes: int
    images_with_boxes: int
    by_phrase: dict[str, int]

    @property
    def boxes_per_image(self) -> float:
        """Their mean number."""
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
    """Ask each image only for what it does not show.

    Args:
        names: what to choose from; None: the classes of `dataset`. A name that tokenises like one of an image's own
            labels is not absent there.
        most: at most so many names an image, drawn by `seed`.

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
        title="asking for what is absent",
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
    """Those of `names` that are the same words as no label of the record."""
    shown = {word_pieces(box.label) for box in record.boxes}
    return [name for name in names if word_pieces(name) not in shown]


def _count_absent(threshold: float, scores: list[np.ndarray], labels: list[np.ndarray], asked: int) -> AbsentCount:
    shown = [score >= threshold for score in scores]
    by_phrase = Counter(str(name) for own, rest in zip(labels, shown, strict=True) for name in own[rest])
    counts = [int(rest.sum()) for rest in shown]
    ranked = dict(sorted(by_phrase.items(), key=lambda item: (-item[1], item[0])))
    return AbsentCount(threshold, len(scores), asked, sum(counts), sum(map(bool, counts)), ranked)
