"""How well scores are calibrated, and the score threshold of each class.

Both compare scores with how often boxes of that score are right. Choose thresholds on validation data, never on the data
that a result is reported for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.evaluation.matching import Matches


@dataclass(frozen=True)
class Bin:
    """The boxes whose scores lie in `low` <= score < `high` (the last bin includes 1).

    Attributes:
        boxes: number of boxes.
        confidence: mean score of the boxes; precision: share of the boxes that is right; both None without boxes.
    """

    low: float
    high: float
    boxes: int
    confidence: float | None
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram in numbers.

    Attributes:
        error: expected calibration error, the mean absolute difference of confidence and precision over the boxes of all
            bins; None without boxes.
        min_confidence: boxes with a lower score are left out.
        bins: of equal width, from 0 to 1.
    """

    error: float | None
    min_confidence: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return asdict(self) | {"bins": [asdict(entry) for entry in self.bins]}


def calibrate(matches: Matches, bins: int = 10, min_confidence: float = 0.05) -> Calibration:
    """Compare scores with the share of boxes that is right.

    Args:
        bins: number of bins.
        min_confidence: leave out boxes with a lower score. Every image has hundreds of boxes with a score near 0, which
            nobody looks at. With them, any detector would seem well calibrated.

    Raises:
        ValueError: no bins.
    """
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    kept = matches.confidence >= min_confidence
    confidence, correct = matches.confidence[kept], matches.correct[kept]
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    for number in range(bins):
        inside = bin_of == number
        low, high, count = number / bins, (number + 1) / bins, int(inside.sum())
        if not count:
            rows.append(Bin(low, high, 0, None, None))
            continue
        mean, precision = float(confidence[inside].mean()), float(correct[inside].mean())
        rows.append(Bin(low, high, count, mean, precision))
        error += count / len(confidence) * abs(mean - precision)
    return Calibration(error if len(confidence) else None, min_confidence, tuple(rows))


def choose_thresholds(matches: Matches) -> Thresholds:
    """Choose for each class the score threshold with the greatest F1, 2 / (1 / precision + 1 / recall).

    Of several such thresholds, the highest is chosen. A class without objects, or of which no object was found, gets the
    threshold with the greatest F1 for the boxes of all classes together.

    Raises:
        ValueError: no object of any class.
    """
    objects = matches.objects.sum(0)
    if not objects.sum():
        raise ValueError("no objects; expected at least one to choose thresholds by")
    default, _ = _best_threshold(matches.confidence, matches.correct, int(objects.sum()))
    classes, scores = {}, {}
    for class_id, name in enumerate(matches.classes):
        own = matches.class_id == class_id
        threshold, f1 = _best_threshold(matches.confidence[own], matches.correct[own], int(objects[class_id]))
        if f1 > 0:
            classes[name], scores[name] = threshold, f1
    return Thresholds(default, classes, scores)


def _best_threshold(confidence: np.ndarray, correct: np.ndarray, objects: int) -> tuple[float, float]:
    """(threshold, F1); (0.5, 0.0) when no box is right."""
    if not correct.any():
        return 0.5, 0.0
    order = np.argsort(-confidence, kind="stable")
    confidence, found = confidence[order], correct[order].cumsum()
    f1 = 2 * found / (np.arange(1, len(order) + 1) + objects)
    last = np.append(confidence[1:] < confidence[:-1], True)  # a threshold keeps or drops all boxes of one score
    best = int(np.where(last, f1, -1).argmax())
    # the float32 score, unrounded, so that the threshold read from a file still keeps the box that has this score
    return float(confidence[best]), float(f1[best])
