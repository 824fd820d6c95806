"""The options that decide which boxes a detection keeps, with the check of their ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.messages import shown

Score: TypeAlias = Literal["mean", "max"]


def _is_share(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return 0 <= float(value) <= 1
    except OverflowError:  # a whole number that exceeds the range of float
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


SHARE = {"fits": _is_share, "expected": "a number in 0..1"}
COUNT = {"fits": _is_count, "expected": "a whole number of at least 1"}
SCORE = {"fits": get_args(Score).__contains__, "expected": f"one of {', '.join(get_args(Score))}"}


@dataclass(frozen=True)
class DetectOptions:
    """The options of a call of `gdino_lib.Detector`, checked. The detector's docstring explains each of them.

    Raises:
        TypeError: `thresholds` is no `gdino_lib.detect.thresholds.Thresholds`.
        ValueError: a threshold or overlap that is no number in 0..1, a `top_k` that is no whole number of at least 1, or an
            unknown `score`.
    """

    box_threshold: float = field(default=0.35, metadata=SHARE)
    text_threshold: float = field(default=0.25, metadata=SHARE)
    nms_iou: float | None = field(default=None, metadata=SHARE)
    top_k: int | None = field(default=None, metadata=COUNT)
    score: Score = field(default="mean", metadata=SCORE)
    thresholds: Thresholds | None = None
    every_phrase: bool = False

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            missing = value is None and option.default is None
            if option.metadata and not missing and not option.metadata["fits"](value):
                raise ValueError(f"{option.name}: expected {option.metadata['expected']}, got {shown(value)}")
        if self.thresholds is not None and not isinstance(self.thresholds, Thresholds):
            raise TypeError(
                f"thresholds: expected Thresholds of gdino_lib.detect.thresholds, got {type(self.thresholds).__name__}"
            )

    def thresholds_of(self, names: Sequence[str | None]) -> tuple[float, float | np.ndarray]:
        """(the score that a box's best token must reach, the score that its phrase must reach).

        Args:
            names: of each of P phrases; None for a negative, which takes boxes away whatever its score.

        Returns:
            The second is one number, or float32 [P] with `thresholds` or negatives. With `thresholds`, the first is 0.
        """
        if self.thresholds is None and None not in names:
            return self.box_threshold, self.text_threshold
        wanted = [name for name in names if name is not None]
        own = [self.text_threshold] * len(wanted) if self.thresholds is None else self.thresholds.of(wanted)
        limits = iter(own)
        by_phrase = [0.0 if name is None else next(limits) for name in names]
        box_threshold = self.box_threshold if self.thresholds is None else 0.0
        return box_threshold, np.array(by_phrase, dtype=np.float32)
