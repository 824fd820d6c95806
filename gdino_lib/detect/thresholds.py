"""The score above which a box is kept, for each phrase; saved beside a model's weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gdino_lib.companion import require_data_prep
from gdino_lib.prompts import word_pieces

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class Thresholds:
    """The score above which a box is kept, for each class; saved beside the model's weights.

    Attributes:
        default: for classes that have none of their own.
        classes: {name: threshold}; a phrase finds its own by its word pieces: "with_mask" is "With mask", and "cat." is "cat".
        f1: what each class reached with its threshold where it was chosen.
    """

    default: float
    classes: Mapping[str, float]
    f1: Mapping[str, float]

    def of(self, phrases: Sequence[str]) -> list[float]:
        """The threshold of each phrase."""
        own = {word_pieces(name): value for name, value in self.classes.items()}
        return [own.get(word_pieces(phrase), self.default) for phrase in phrases]

    def keep(self, found: sv.Detections) -> sv.Detections:
        """Those boxes whose score reaches the threshold of their class, by `data["class_name"]`.

        Give the detector thresholds of 0, so that it leaves the choice to these.
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
        """Write JSON; `thresholds_path` says where it belongs. Nothing half-written ever stands there."""
        require_data_prep()  # detecting does without it
        from data_prep.atomic import write_json

        write_json(path, self.to_json())

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
    """Where the thresholds of a model's weights stand.

    That is `thresholds.json` in its folder, or beside its file (`best.safetensors` -> `best.thresholds.json`).
    """
    path = Path(model)
    return path / "thresholds.json" if path.is_dir() else path.with_suffix(".thresholds.json")
