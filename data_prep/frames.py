"""The frame that boxes were drawn in, and the image's own: one is made the other, or nothing is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from data_prep.formats.fields import without
from data_prep.pictures import Picture
from data_prep.records import Box, ImageRecord, Number

Size = tuple[int, int]
TOLERANCE = 1  # pixels that a box may leave its frame by and still belong to it
PIXEL_FIELDS = ("area", "bndbox", "coco_bbox", "keypoints", "part", "polygon", "segmentation")
"""Fields of `Box.extra` in pixels, which a box that is scaled or turned loses."""


class Fitted(NamedTuple):
    """A record in the frame of its image.

    Attributes:
        boxes: in pixels of the upright image; None where nothing tells how to bring them there.
        kind, action: of the finding; "" where there is nothing to say.
        detail: what was done to the boxes, or why nothing can be.
    """

    boxes: tuple[Box, ...] | None
    kind: str = ""
    action: str = ""
    detail: str = ""


def fit(boxes: tuple[Box, ...], stated: Size | None, picture: Picture) -> Fitted:
    """Bring boxes into the frame of the upright image.

    - The stated size is the image's: nothing to do. Where EXIF turns the pixels by a quarter and both frames have one
      size, nothing tells which of them the boxes are in.
    - It has the image's proportions: the image was scaled after it was annotated; the boxes are scaled as well.
    - It has those of the pixels as they lie in the file, and EXIF turns them by a quarter: the boxes were drawn before the
      turn, and are turned as well.
    - It is another one: the image was cropped, or turned, in an unknown way. Without boxes the size alone is corrected.

    Boxes that lie in the image and not in the frame of the stated size show that this size is wrong, and then nothing tells
    what they mean. A missing size is taken from the image if all boxes fit into it.

    Args:
        boxes: in absolute pixels of the frame of the stated size.
        stated: (width, height) by the annotation; None where it has none.
        picture: what the pixels say.
    """
    is_turned = picture.orientation >= 5
    if not boxes:
        return Fitted(boxes) if stated == picture.size else Fitted(boxes, "size mismatch", "corrected")
    if stated is None:
        return _fit_without_size(boxes, picture)
    if stated == picture.size:
        if is_turned and ((_fits(boxes, picture.stored_size) and not _fits(boxes, stated)) or stated[0] == stated[1]):
            why = "nothing tells whether its boxes were drawn before or after the turn that EXIF asks for"
            return Fitted(None, "orientation uncertain", "", f"{why}: save the image upright, and check the boxes")
        if picture.orientation > 1 and not is_turned:
            what = {2: "mirrored", 3: "upside down", 4: "mirrored"}[picture.orientation]
            detail = f"stored {what}; the boxes are taken to be those of the upright image"
            return Fitted(boxes, "orientation uncertain", "kept", detail)
        return Fitted(boxes)

    as_upright = _is_scaled(stated, picture.size)
    as_stored = is_turned and _is_scaled(stated, picture.stored_size)
    outside = [box for box in boxes if not _fits([box], stated) and _fits([box], picture.size)]
    if as_upright == as_stored or outside:
        why = "the boxes do not fit the size given" if outside else "nothing tells what was done to the image"
        return Fitted(None, "size mismatch", "", f"{why}: correct the size and the boxes")
    if as_upright:
        return Fitted(_scaled(boxes, stated, picture.size), "size mismatch", "scaled", _said(boxes, "scaled as well"))
    scaled = _scaled(boxes, stated, picture.stored_size)
    turned = tuple(_turned(box, picture) for box in scaled)
    return Fitted(turned, "size mismatch", "turned", _said(boxes, "turned as EXIF turns the pixels"))


def fit_record(record: ImageRecord, picture: Picture) -> tuple[ImageRecord | None, Fitted]:
    """`fit` for a record; None in its place where it cannot be used."""
    fitted = fit(record.boxes, (record.width, record.height), picture)
    if fitted.boxes is None:
        return None, fitted
    return replace(record, width=picture.width, height=picture.height, boxes=fitted.boxes), fitted


def _fit_without_size(boxes: tuple[Box, ...], picture: Picture) -> Fitted:
    fits_upright, fits_stored = _fits(boxes, picture.size), _fits(boxes, picture.stored_size)
    if picture.orientation >= 5 and fits_stored and not fits_upright:
        turned = tuple(_turned(box, picture) for box in boxes)
        return Fitted(turned, "size mismatch", "turned", _said(boxes, "turned as EXIF turns the pixels"))
    if not fits_upright or (picture.orientation >= 5 and fits_stored):
        return Fitted(None, "size mismatch", "", "nothing tells the size that the boxes were drawn in: state it")
    return Fitted(boxes, "size mismatch", "corrected")


def _fits(boxes: Iterable[Box], size: Size) -> bool:
    """True when no box leaves a frame of this size by more than `TOLERANCE`."""
    width, height = size
    return all(
        min(box.x1, box.x2) >= -TOLERANCE and max(box.x1, box.x2) <= width + TOLERANCE
        and min(box.y1, box.y2) >= -TOLERANCE and max(box.y1, box.y2) <= height + TOLERANCE
        for box in boxes
    )  # fmt: skip


def _is_scaled(stated: Size, size: Size) -> bool:
    """True when some factor leads from `stated` to `size`, each side rounded to a whole pixel."""
    (w, h), (width, height) = stated, size
    return abs(width * h - height * w) < w + h  # |width / w - height / h| < 1 / w + 1 / h


def _scaled(boxes: tuple[Box, ...], stated: Size, size: Size) -> tuple[Box, ...]:
    if stated == size:
        return boxes
    return tuple(
        replace(
            box,
            x1=_times(box.x1, size[0], stated[0]),
            y1=_times(box.y1, size[1], stated[1]),
            x2=_times(box.x2, size[0], stated[0]),
            y2=_times(box.y2, size[1], stated[1]),
            extra=without(box.extra, *PIXEL_FIELDS),
        )
        for box in boxes
    )


def _times(value: Number, numerator: int, denominator: int) -> Number:
    """`value` times a fraction, an integer where both are."""
    product = value * numerator
    return product // denominator if isinstance(product, int) and not product % denominator else product / denominator


def _turned(box: Box, picture: Picture) -> Box:
    """A box of the pixels as they lie in the file, where EXIF's turn by a quarter brings it."""
    width, height = picture.stored_size
    x1, y1, x2, y2 = box.xyxy
    corners = {
        5: (y1, x1, y2, x2),  # the axes change places
        6: (height - y2, x1, height - y1, x2),  # clockwise
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),  # anticlockwise
    }[picture.orientation]
    return Box(box.label, *corners, extra=without(box.extra, *PIXEL_FIELDS))


def _said(boxes: tuple[Box, ...], what: str) -> str:
    lost = sorted({name for box in boxes for name in box.extra if name in PIXEL_FIELDS})
    number = f"{len(boxes)} box{'es' if len(boxes) > 1 else ''} {what}"
    return f"{number}, without {', '.join(lost)}" if lost else number
