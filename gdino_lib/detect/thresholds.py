"""Thresholds per class, chosen on validation data and saved beside a model's weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdino_lib.companion import require_data_prep
from gdino_lib.messages import shown
from gdino_lib.prompts import word_pieces

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class Thresholds:
    """The score that a box must reach to be kept, for each class.

    Attributes:
        default: threshold of classes that have none of their own, in 0..1.
        classes: {name: threshold in 0..1}. Names are compared by their word pieces, so "with_mask" equals "With mask", and
            "cat." equals "cat".
        f1: {name: F1 score in 0..1} that each class reached with its threshold on the validation data.
    """

    default: float
    classes: Mapping[str, float]
    f1: Mapping[str, float]

    def of(self, phrases: Sequence[str]) -> list[float]:
        """The threshold of each phrase."""
        own = {word_pieces(name): value for name, value in self.classes.items()}
        return [own.get(word_pieces(phrase), self.default) for phrase in phrases]

    def keep(self, found: sv.Detections) -> sv.Detections:
        """The boxes whose score reaches the threshold of their class, which is `data["class_name"]`.

        Detect with thresholds of 0, so that the detector does not remove boxes that these thresholds keep.

        Raises:
            ValueError: detections without a confidence or without `data["class_name"]`.
        """
        limits = np.array(self.of(list(map(str, found.data.get("class_name", ())))), dtype=np.float64)
        if not len(found):
            return found
        if len(limits) != len(found) or found.confidence is None:
            raise ValueError("expected detections with a confidence and data['class_name'], as a Detector gives them")
        # supervision's type of an index does not tell a mask, which gives detections, from a name, which gives data
        return found[found.confidence.astype(np.float64) >= limits]  # pyright: ignore[reportReturnType]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        return {"default": self.default, "classes": dict(self.classes), "f1": dict(self.f1)}

    def save(self, path: Path | str) -> None:
        """Write the thresholds as JSON, whole or not at all; `thresholds_path` gives the path that belongs to a model."""
        require_data_prep()  # detecting does not need it
        from data_prep.atomic import write_json

        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Thresholds:
        """Read thresholds that `save` wrote.

        Raises:
            FileNotFoundError: there is no file at `path`.
            ValueError: the file holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected thresholds as JSON")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            result = cls(values["default"], values["classes"], values.get("f1", {}))
            numbers = [result.default, *result.classes.values(), *result.f1.values()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: expected default, classes and f1 as JSON, got {type(error).__name__}") from None
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
                raise ValueError(f"{path}: expected thresholds and F1 scores in 0..1, got {shown(number)}")
        return result


def thresholds_path(model: str | os.PathLike[str]) -> Path:
    """The path of the thresholds that belong to a model's weights.

    For a folder it is `thresholds.json` in the folder; for a file, a file beside it (`best.safetensors` ->
    `best.thresholds.json`).
    """
    path = Path(model)
    return path / "thresholds.json" if path.is_dir() else path.with_suffix(".thresholds.json")
