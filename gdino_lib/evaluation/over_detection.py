"""Over-detection: more boxes than objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gdino_lib.evaluation.matching import Matches

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)  # at which boxes are counted


@dataclass(frozen=True)
class BoxCount:
    """Number of boxes and of objects when boxes with a score of at least `threshold` are shown.

    Attributes:
        boxes, objects: numbers over all images.
        correct: number of boxes that are right, at most one per object.
        images_with_more: number of images with more boxes than objects.
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
    """Count boxes and objects at each threshold."""
    objects = matches.objects.sum(1)  # (images)
    counts = []
    for threshold in thresholds:
        shown = matches.confidence >= threshold
        boxes = np.bincount(matches.image[shown], minlength=len(objects))
        correct = int(matches.correct[shown].sum())
        more = int((boxes > objects).sum())
        counts.append(BoxCount(float(threshold), int(boxes.sum()), int(objects.sum()), correct, more))
    return tuple(counts)
