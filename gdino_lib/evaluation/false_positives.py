"""Boxes too many: more boxes than objects, and boxes for phrases that name nothing in the image."""

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
from gdino_lib.evaluation.coco import detection_records, progress_bar, read_ahead
from gdino_lib.evaluation.matching import Matches
from gdino_lib.prompts import word_pieces

if TYPE_CHECKING:
    from gdino_lib.detect.detector import Detector

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class BoxCount:
    """Boxes against objects when boxes of at least `threshold` are shown.

    Attributes:
        boxes, objects: in all images.
        correct: boxes that are right, one an object at most.
        images_with_more: images with more boxes than objects.
    """

    threshold: float
    boxes: int
    objects: int
    correct: int
    images_with_more: int

    @property
    def ratio(self) -> float | None:
        """Boxes per object, above 1 for over-detection; None without objects."""
        return self.boxes / self.objects if self.objects else None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return asdict(self) | {"ratio": self.ratio}


def count_boxes(matches: Matches, thresholds: Sequence[float] = THRESHOLDS) -> tuple[BoxCount, ...]:
    """Boxes and objects at each threshold."""
    objects = matches.objects.sum(1)  # (images)
    counts = []
    for threshold in thresholds:
        shown = matches.confidence >= threshold
        boxes = np.bincount(matches.image[shown], minlength=len(objects))
        correct = int(matches.correct[shown].sum())
        more = int((boxes > objects).sum())
        counts.append(BoxCount(float(threshold), int(boxes.sum()), int(objects.sum()), correct, more))
    return tuple(counts)


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
    records, prompts = [], []
    for record in detection_records(dataset):
        absent = absent_names(record, class_names(dataset) if names is None else names)
        if absent:
            rng = random.Random(f"{seed}/{record.file_name}")
            records.append(record)
            prompts.append(sorted(rng.sample(absent, min(most, len(absent)))))
    if not records:
        raise ValueError("every image shows all classes; expected names that some image does not show: pass `names`")
    scores: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    remaining = iter(prompts)
    with progress_bar(len(records), "asking for what is absent", progress) as bar:
        for part, pictures in read_ahead(records, images, batch_size):
            own = [next(remaining) for _ in part]
            lowest = min(thresholds)
            for result in detector(pictures, own, box_threshold=0.0, text_threshold=lowest):
                scores.append(result.confidence)
                labels.append(result.data["class_name"])
            bar.update(len(part))
    asked = sum(map(len, prompts))
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
