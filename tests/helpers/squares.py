"""Coloured squares, and records that contain them."""

from collections.abc import Iterable
from typing import Any

import data_prep
from data_prep import Box, ImageRecord
from gdino_lib.data.transforms import EvaluationTransform, TrainingTransform

COLOURS = {"red square": (220, 30, 30), "green square": (30, 200, 40), "blue_square": (40, 60, 230)}

SQUARES = {"red square": (5, 5, 30, 30), "green square": (40, 10, 70, 40), "blue_square": (60, 45, 95, 75)}
TRAIN, EVALUATION = TrainingTransform(64, 128), EvaluationTransform(64, 128)


def box(label: str, *xyxy: float, **extra: Any) -> Box:
    """A box in a picture of 100 x 80 pixels."""
    return Box(label, *(xyxy or (10, 10, 40, 40)), extra=extra)


def with_images(records: Iterable[ImageRecord], **changes: Any) -> data_prep.Dataset:
    """A data set with these records."""
    return data_prep.Dataset(tuple(records), changes.get("categories", ()))
