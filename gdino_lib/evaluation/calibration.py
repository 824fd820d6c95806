"""How far a score can be trusted, and the score above which a box is kept, per class.

Both compare scores with how often boxes of that score are right: choose thresholds on validation data, never on those that
the result is reported on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.atomic import atomic_file
from gdino_lib.evaluation.matching import Matches

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class Bin:
    """The boxes whose scores lie in `low` <= score < `high` (the last bin includes 1).

    Attributes:
        boxes: how many.
        confidence: their mean score; precision: the share of them that is right; None for no boxes.
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
            bins; None for no boxes.
        min_confidence: boxes below it were left out.
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
        bins: how many.
        min_confidence: leave out boxes below it: every image has hundreds of boxes that nobody would show, and they
            would make any detector look honest.

    Raises:
        ValueError: no bins.
    """
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    kept = matches.confidence >= min_confidence
    confidence, correct = matches.confidence[kept], matches.correct[kept]
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    for place in range(bins):
        inside = number == place
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else None
        precision = float(correct[inside].mean()) if count else None
        rows.append(Bin(place / bins, (place + 1) / bins, count, mean, precision))
        if count:
            error += count / len(confidence) * abs(mean - precision)
    return Calibration(error if len(confidence) else None, min_confidence, tuple(rows))


@dataclass(frozen=True)
class Thresholds:
    """The score above which a box is kept, for each class; saved beside the model's weights.

    Attributes:
        default: for classes that have none of their own.
        classes: {name: threshold}.
        f1: what each class reached with its threshold where it was chosen.
    """

    default: float
    classes: Mapping[str, float]
    f1: Mapping[str, float]

    def keep(self, found: sv.Detections) -> sv.Detections:
        """Those boxes whose score reaches the threshold of their class, by `data["class_name"]`.

        Give the detector thresholds of 0, so that it leaves the choice to these.
        """
        names = found.data.get("class_name", ())
        limits = np.array([self.classes.get(str(name), self.default) for name in names], dtype=np.float64)
        if not len(found):
            return found
        if len(limits) != len(found) or found.confidence is None:
            raise ValueError("expected detections with a confidence and data['class_name'], as a Detector gives them")
        return found[found.confidence.astype(np.float64) >= limits]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return {"default": self.default, "classes": dict(self.classes), "f1": dict(self.f1)}

    def save(self, path: Path | str) -> None:
        """Write JSON; `thresholds_path` says where it belongs. Nothing half-written ever stands there."""
        with atomic_file(path) as file:
            json.dump(self.to_json(), file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")

    @classmethod
    def load(cls, path: Path | str) -> Thresholds:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: nothing is there; ValueError: it is something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected thresholds as JSON")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            result = cls(values["default"], values["classes"], values.get("f1", {}))
            numbers = [result.default, *result.classes.values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected default, classes and f1 as JSON, got {type(error).__name__}") from None
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
                raise ValueError(f"{path}: expected thresholds in 0..1, got {number!r}")
        return result


def thresholds_path(model: str | os.PathLike[str]) -> Path:
    """Where the thresholds of a model's weights stand: `thresholds.json` in its folder, or beside its file
    (`best.safetensors` -> `best.thresholds.json`).
    """
    path = Path(model)
    return path / "thresholds.json" if path.is_dir() else path.with_suffix(".thresholds.json")


def choose_thresholds(matches: Matches) -> Thresholds:
    """For each class the score that gives the greatest F1, 2 / (1 / precision + 1 / recall).

    Of several, the highest. Classes without objects, or never found, get the threshold that is best for all boxes
    together.

    Raises:
        ValueError: no object of any class.
    """
    objects = matches.objects.sum(0)
    if not objects.sum():
        raise ValueError("no objects; expected at least one to choose thresholds by")
    default, _ = _best(matches.confidence, matches.correct, int(objects.sum()))
    classes, scores = {}, {}
    for class_id, name in enumerate(matches.classes):
        own = matches.class_id == class_id
        threshold, f1 = _best(matches.confidence[own], matches.correct[own], int(objects[class_id]))
        if f1 > 0:
            classes[name], scores[name] = threshold, f1
    return Thresholds(default, classes, scores)


def _best(confidence: np.ndarray, correct: np.ndarray, objects: int) -> tuple[float, float]:
    """(threshold, F1); (0.5, 0.0) when no box is right."""
    if not correct.any():
        return 0.5, 0.0
    order = np.argsort(-confidence, kind="stable")
    confidence, found = confidence[order], correct[order].cumsum()
    f1 = 2 * found / (np.arange(1, len(order) + 1) + objects)
    last = np.append(confidence[1:] < confidence[:-1], True)  # boxes of one score stay or go together
    best = int(np.where(last, f1, -1).argmax())
    # the float32 score itself, spelled so that reading it back gives the same number
    return float(confidence[best]), float(f1[best])
