"""Polygons and turned rectangles of formats that have more than boxes: the box around them, and the polygon in `Box.extra`.

A reader gives each shape the smallest upright box around it. The corners of the shape are kept as COCO's `segmentation`, a list
with one polygon [x1, y1, x2, y2, ...] in pixels. `polygon_of` returns such a polygon for a writer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeAlias

from data_prep.records import Box, Dataset, Number

Point: TypeAlias = tuple[Number, Number]
SEGMENTATION = "segmentation"
"""Field of `Box.extra` for polygons, as in COCO."""
TOLERANCE = 0.01  # pixels by which a box may differ from the box around its polygon; COCO rounds to two decimals


def pixels(value: float) -> Number:
    """`value` without the rounding errors of a computation: rounded to 1e-6 pixels, and an integer where it is one.

    Raises:
        ValueError: `value` is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    rounded = round(float(value), 6)
    return int(rounded) if rounded.is_integer() else rounded


def check_share(number: Number, name: str, whole: int = 1) -> None:
    """Refuse a coordinate that is certainly no share of an image's size, such as a number of pixels.

    Args:
        number: the coordinate; a box may extend beyond its image, but by no more than twice its size.
        name: what it is, for the message.
        whole: the size of the image in this unit, 1 or 100 percent.

    Raises:
        ValueError: the number is below -2 or above 3 image sizes.
    """
    if not -2 * whole <= number <= 3 * whole:
        raise ValueError(f"expected {name} as a share of the image's size in 0..{whole}, got {number}")


def hull(points: Sequence[Point]) -> tuple[Number, Number, Number, Number]:
    """(x1, y1, x2, y2) of the smallest upright box around `points`.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("expected points, got none")
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def segmentation(points: Iterable[Point]) -> dict[str, Any]:
    """The fields of `Box.extra` for a polygon."""
    return {SEGMENTATION: [[coordinate for point in points for coordinate in point]]}


def polygon_of(box: Box) -> list[Point] | None:
    """The corners of a box's only polygon, in pixels; None without a polygon, or if the box is not the one around it."""
    polygons = box.extra.get(SEGMENTATION)
    if not isinstance(polygons, list) or len(polygons) != 1 or not isinstance(polygons[0], list):
        return None
    numbers = polygons[0]
    if len(numbers) < 6 or len(numbers) % 2 or not all(_is_pixel(number) for number in numbers):
        return None
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    near = zip(hull(points), box.xyxy, strict=True)
    return points if all(abs(given - expected) <= TOLERANCE for given, expected in near) else None


def lost_fields(dataset: Dataset, own_of_image: Collection[str], own_of_box: Collection[str]) -> dict[str, int]:
    """What is lost in a format that keeps every field of an image or a box, but one polygon only; see `csv_table.left_out`.

    It is all of `dataset.extra`, captions, segmentations that are not one polygon, and fields with a name that the format itself
    uses: `own_of_image`, `own_of_box`.
    """
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(name for name in own_of_image if name in image.extra)
        lost.update(["caption"] * (image.caption is not None))
        for box in image.boxes:
            lost.update(name for name in own_of_box if name in box.extra)
            lost.update([SEGMENTATION] * (SEGMENTATION in box.extra and polygon_of(box) is None))
    return dict(lost)


def turned(corner: Point, size: Point, degrees: float, about: Point) -> list[Point]:
    """The four corners of a rectangle that is turned clockwise, in pixels.

    Args:
        corner: the upper left corner before the turn; size: width and height.
        degrees: the angle; about: the point that stays where it is.
    """
    (x, y), (width, height) = corner, size
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x + dx - about[0], y + dy - about[1]) for dx, dy in ((0, 0), (width, 0), (width, height), (0, height))]
    return [
        (pixels(about[0] + dx * cosine - dy * sine), pixels(about[1] + dx * sine + dy * cosine)) for dx, dy in offsets
    ]


def _is_pixel(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
