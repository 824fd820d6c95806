"""The types that all readers return and all writers take: a box, an image with its boxes, a data set."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

Number = int | float
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_ .-]*")
MAX_PIXEL = 10**9  # larger than any image; the limit also refuses infinity, NaN and numbers with digits too many


@dataclass(frozen=True, slots=True)
class Box:
    """One labelled rectangle, in absolute pixels of its image.

    Attributes:
        label: class name, or the phrase that the box grounds.
        x1, y1: left and top edge; x2, y2: right and bottom edge. Unit: pixels from the upper left corner of the image.
            Integers stay integers. A box may have no area or extend beyond its image until `data_prep.audit` repairs it.
        extra: further fields of the format (VOC's `difficult`, COCO's `segmentation`), by their names in the format. The
            values are JSON values.

    Raises:
        ValueError: the absolute value of a coordinate is not below `MAX_PIXEL`, or the label is empty or has control
            characters.
    """

    label: str
    x1: Number
    y1: Number
    x2: Number
    y2: Number
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label.strip() or not _is_plain(self.label):
            raise ValueError(f"a box needs a label of one line of text, got {self.label!r}")
        for name in ("x1", "y1", "x2", "y2"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MAX_PIXEL:
                raise ValueError(
                    f"{name} of a box must be a number of pixels below {MAX_PIXEL:.0e}, got {str(value)[:40]}"
                )

    @property
    def xyxy(self) -> tuple[Number, Number, Number, Number]:
        """(x1, y1, x2, y2)."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def is_degenerate(self) -> bool:
        """True if the box has no area: its right edge is not right of its left edge, or its bottom not below its top."""
        return self.x2 <= self.x1 or self.y2 <= self.y1

    def is_inside(self, width: int, height: int) -> bool:
        """True if the box is inside an image of `width` x `height` pixels; its edges may touch the border."""
        return all(0 <= x <= width for x in (self.x1, self.x2)) and all(0 <= y <= height for y in (self.y1, self.y2))

    def clipped(self, width: int, height: int) -> Box:
        """The part of the box inside an image of `width` x `height` pixels; degenerate if no part is inside."""
        if self.is_inside(width, height):
            return self
        x1, x2 = (min(max(x, 0), width) for x in (self.x1, self.x2))
        y1, y2 = (min(max(y, 0), height) for y in (self.y1, self.y2))
        return replace(self, x1=x1, y1=y1, x2=x2, y2=y2)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its annotations.

    Attributes:
        file_name: path relative to the image folder, "/" between folders, without "..". "./a.jpg" becomes "a.jpg".
        width, height: size in pixels.
        boxes: boxes in the order of the source.
        caption: the sentence whose phrases the boxes ground (ODVG grounding lines); None for detection data.
        extra: further fields of the format, by their names in the format.

    Raises:
        ValueError: the file name leads out of its folder, or the size is not a positive integer.
    """

    file_name: str
    width: int
    height: int
    boxes: tuple[Box, ...] = ()
    caption: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "file_name", check_file_name(self.file_name))
        for name in ("width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name} of {self.file_name!r} must be a positive integer of pixels, got {value!r}")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images in a fixed order, with their class names.

    Attributes:
        images: the records; several may share a `file_name` (one image with several captions).
        categories: class names in the order of their indices, including classes without boxes. Empty for grounding data.
        extra: fields of the format about the whole data set (COCO's `info` and `licenses`).
    """

    images: tuple[ImageRecord, ...] = ()
    categories: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of boxes of each class: `categories` in their order, zeros included, then other labels alphabetically."""
        counts = Counter(box.label for image in self.images for box in image.boxes)
        others = sorted(set(counts) - set(self.categories))
        return {name: counts[name] for name in (*self.categories, *others)}


def check_file_name(name: str) -> str:
    """Refuse a file name that leads out of its folder.

    Returns:
        The name as `ImageRecord` stores it: without "./" and doubled "/".

    Raises:
        ValueError: the name is empty or absolute, or has "..", a backslash, a drive letter or a control character.
    """
    if isinstance(name, str) and PLAIN_NAME.fullmatch(name):
        return name  # most names end here, which is faster than the checks below
    path = PurePosixPath(name) if isinstance(name, str) else None
    if path is None or not path.name or not _is_plain(name):
        raise ValueError(f"a file name of one line of text is needed, got {name!r}")
    if path.is_absolute() or ".." in path.parts or "\\" in name or name[1:2] == ":":
        raise ValueError(
            f"the file name {name!r} leaves its folder; expected a path inside it, with '/' between folders"
        )
    return str(path)


def picture_key(name: str, ignore_case: bool = False) -> str:
    """A key that is equal for all spellings of one image's name: "./a.jpg" and "a.jpg", "é" as one code point or as two.

    Args:
        name: path relative to the image folder.
        ignore_case: "a.jpg" and "A.JPG" are one file on the file system.
    """
    key = name if PLAIN_NAME.fullmatch(name) else unicodedata.normalize("NFC", str(PurePosixPath(name)))
    return key.casefold() if ignore_case else key


def _is_plain(text: str) -> bool:
    """True for text without control characters, line breaks and unpaired surrogates."""
    return text.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def parse_number(text: str) -> Number:
    """Parse a finite number; digits alone give an int: "79" -> 79, "79.0" -> 79.0.

    Raises:
        ValueError: any other text, such as "nan", "inf" and "1e400".
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?", text):
        number = float(text)
        if math.isfinite(number):
            return number
    raise ValueError(f"expected a number, got {text[:40]!r}")


def parse_flag(value: object) -> bool:
    """Parse a flag such as COCO's `iscrowd`: a number, a truth value, or text as in XML.

    Returns:
        True for true, 1, "1" and "true"; False for false, 0, "0", "false", "" and None.

    Raises:
        ValueError: any other value.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in ("1", "1.0", "true"):
        return True
    if text in ("", "0", "0.0", "false"):
        return False
    raise ValueError(f"expected a flag, 0 or 1, got {value!r:.40}")


def as_whole_number(value: object) -> int | None:
    """The integer that `value` stands for, such as 640, 640.0, "640" or "640.0"; None if it is no whole number."""
    try:
        number = parse_number(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        return None
    return int(number) if number == int(number) else None


def base_name(path: str) -> str:
    """The last part of a Windows or POSIX path: "a.jpg" for "C:\\images\\a.jpg" and for "/images/a.jpg"."""
    return path if PLAIN_NAME.fullmatch(path) else PureWindowsPath(path).name
