"""Convert boxes from the frame that they were drawn in to the frame of the image, if the sizes determine how.

The frame of an image is its width and height after the EXIF rotation. Boxes may have been drawn in another frame: before the
image was resized, or before it was rotated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from data_prep.arguments import counted
from data_prep.formats.fields import without
from data_prep.pictures import Picture
from data_prep.records import Box, ImageRecord, Number

Size = tuple[int, int]
TOLERANCE = 1  # pixels by which a box may extend beyond its frame and still fit
PIXEL_FIELDS = ("area", "bndbox", "coco_bbox", "keypoints", "part", "polygon", "segmentation")
"""Fields of `Box.extra` in pixels; they are removed from boxes that are scaled or turned."""


class Fitted(NamedTuple):
    """The boxes of a record in the frame of its image, and the finding about the conversion.

    Attributes:
        boxes: boxes in pixels of the upright image; None if the sizes do not determine the conversion.
        kind, action: kind and action of the finding; "" if there is none.
        detail: how the boxes were converted, or why they cannot be.
    """

    boxes: tuple[Box, ...] | None
    kind: str = ""
    action: str = ""
    detail: str = ""


def fit(boxes: tuple[Box, ...], stated: Size | None, picture: Picture) -> Fitted:
    """Convert boxes to the frame of the upright image.

    - The stated size is the size of the image: the boxes are kept. The frame is uncertain if EXIF asks for a quarter turn and
      the image is square, or if the boxes fit only the stored image.
    - The stated size has the proportions of the image: the image was resized after it was annotated, and the boxes are
      scaled.
    - The stated size has the proportions of the stored image, and EXIF asks for a quarter turn: the boxes were drawn before
      the rotation, and are turned.
    - Any other size: the image was cropped or rotated in an unknown way. If there are no boxes, only the size is corrected.

    A box that fits the image but not the stated size shows that the stated size is wrong; the frame is then unknown. A
    missing size is taken from the image if all boxes fit into the image.

    Args:
        boxes: boxes in absolute pixels of the frame of the stated size.
        stated: (width, height) in the annotation; None if it has no size.
        picture: properties of the pixels.
    """
    is_turned = picture.orientation >= 5
    if not boxes:
        return Fitted(boxes) if stated == picture.size else Fitted(boxes, "size mismatch", "corrected")
    if stated is None:
        return _fit_without_size(boxes, picture)
    if stated == picture.size:
        if is_turned and ((_fits(boxes, picture.stored_size) and not _fits(boxes, stated)) or stated[0] == stated[1]):
            why = "the boxes may have been drawn before or after the EXIF rotation"
            return Fitted(None, "orientation uncertain", "", f"{why}: save the image upright, and check the boxes")
        if picture.orientation > 1 and not is_turned:
            what = {2: "mirrored", 3: "upside down", 4: "mirrored"}[picture.orientation]
            detail = f"the image is stored {what}; the boxes are taken to be in the frame of the upright image"
            return Fitted(boxes, "orientation uncertain", "kept", detail)
        return Fitted(boxes)

    as_upright = _is_scaled(stated, picture.size)
    as_stored = is_turned and _is_scaled(stated, picture.stored_size)
    outside = [box for box in boxes if not _fits([box], stated) and _fits([box], picture.size)]
    if as_upright == as_stored or outside:
        why = "the boxes do not fit the stated size" if outside else "it is unknown how the image was changed"
        return Fitted(None, "size mismatch", "", f"{why}: correct the size and the boxes")
    if as_upright:
        return Fitted(_scaled(boxes, stated, picture.size), "size mismatch", "scaled", _change_text(boxes, "scaled"))
    scaled = _scaled(boxes, stated, picture.stored_size)
    turned = tuple(_turned(box, picture) for box in scaled)
    return Fitted(turned, "size mismatch", "turned", _change_text(boxes, "turned by the EXIF rotation"))


def fit_record(record: ImageRecord, picture: Picture) -> tuple[ImageRecord | None, Fitted]:
    """Apply `fit` to a record; the record in the result is None if it cannot be used."""
    fitted = fit(record.boxes, (record.width, record.height), picture)
    if fitted.boxes is None:
        return None, fitted
    return replace(record, width=picture.width, height=picture.height, boxes=fitted.boxes), fitted


def _fit_without_size(boxes: tuple[Box, ...], picture: Picture) -> Fitted:
    fits_upright, fits_stored = _fits(boxes, picture.size), _fits(boxes, picture.stored_size)
    if picture.orientation >= 5 and fits_stored and not fits_upright:
        turned = tuple(_turned(box, picture) for box in boxes)
        return Fitted(turned, "size mismatch", "turned", _change_text(boxes, "turned by the EXIF rotation"))
    if not fits_upright or (picture.orientation >= 5 and fits_stored):
        why = "the size of the image in which the boxes were drawn is unknown: add it to the annotation"
        return Fitted(None, "size mismatch", "", why)
    return Fitted(boxes, "size mismatch", "corrected")


def _fits(boxes: Iterable[Box], size: Size) -> bool:
    """True if no box extends beyond a frame of this size by more than `TOLERANCE`."""
    width, height = size
    return all(
        min(box.x1, box.x2) >= -TOLERANCE and max(box.x1, box.x2) <= width + TOLERANCE
        and min(box.y1, box.y2) >= -TOLERANCE and max(box.y1, box.y2) <= height + TOLERANCE
        for box in boxes
    )  # fmt: skip


def _is_scaled(stated: Size, size: Size) -> bool:
    """True if `size` is `stated` times some factor, with each side rounded to a whole pixel."""
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
    """`value * numerator / denominator`; an integer if `value` is an integer and the result is whole."""
    product = value * numerator
    return product // denominator if isinstance(product, int) and not product % denominator else product / denominator


def _turned(box: Box, picture: Picture) -> Box:
    """Apply the quarter turn of EXIF to a box in the frame of the stored image."""
    width, height = picture.stored_size
    x1, y1, x2, y2 = box.xyxy
    corners = {
        5: (y1, x1, y2, x2),  # the axes change places
        6: (height - y2, x1, height - y1, x2),  # clockwise
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),  # anticlockwise
    }[picture.orientation]
    return Box(box.label, *corners, extra=without(box.extra, *PIXEL_FIELDS))


def _change_text(boxes: tuple[Box, ...], what: str) -> str:
    lost = sorted({name for box in boxes for name in box.extra if name in PIXEL_FIELDS})
    text = f"{counted(len(boxes), 'box', 'boxes')} {what}"
    return f"{text}, without {', '.join(lost)}" if lost else text
