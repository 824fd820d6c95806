"""Read one Pascal VOC file; a fault costs only the object or the field that it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from data_prep.findings import Faults
from data_prep.formats.voc_xml import parse, values
from data_prep.records import Box, ImageRecord, as_whole_number, base_name, check_file_name, parse_number

CORNERS = ("xmin", "ymin", "xmax", "ymax")
OWN_OF_IMAGE = ("filename", "size", "object")
OWN_OF_BOX = ("name", "bndbox")


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of one XML file, before its image is known.

    Attributes:
        filename: the text of `<filename>`; "" if there is none.
        size: (width, height); None if there is none.
        boxes: the boxes of all objects that can be read.
        numbers: for each box, the number of its object in the file, counted from 1.
        extra: all other fields of the file.
    """

    filename: str
    size: tuple[int, int] | None
    boxes: tuple[Box, ...]
    numbers: tuple[int, ...]
    extra: Mapping[str, Any]


def read_contents(path: Path, faults: Faults) -> Contents:
    """Read one annotation file without looking for its image.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the whole file cannot be used, or `faults` is strict and a part of the file cannot be used.
    """
    try:
        root = parse(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"not readable: {error.strerror}") from None

    def note(detail: str) -> None:
        faults.add("detail unreadable", detail)

    boxes, numbers = [], []
    for number, element in enumerate(root.iterfind("object"), start=1):
        try:
            boxes.append(_box(element, number, faults))
            numbers.append(number)
        except ValueError as error:
            if faults.is_mine(error):
                raise
            faults.add("object unreadable", f"object {number}: {error}", object=number)
    size, more = None, {}
    sizes = root.findall("size")
    if len(sizes) > 1:
        note("<size> occurs more than once in <annotation>")
    elif sizes:
        size = _size(sizes[0], faults)
        more = values(sizes[0], ("width", "height"), note)
    names = root.findall("filename")
    if len(names) > 1:
        note("<filename> occurs more than once in <annotation>")
    name = (names[0].text or "").strip() if len(names) == 1 else ""
    extra = values(root, OWN_OF_IMAGE, note) | ({"size": more} if more else {})
    return Contents(name, size, tuple(boxes), tuple(numbers), extra)


def record_of(contents: Contents, folder: PurePosixPath, faults: Faults) -> ImageRecord:
    """Make a record from the contents of a file alone, without its image.

    Args:
        contents: the contents of the file.
        folder: the sub-folder that the file is in, relative to the folder of annotations. The image is taken to be in the
            sub-folder of the same name.
        faults: receives a fault if `<filename>` has another path.

    Raises:
        ValueError: there is no size or no `<filename>`, or `faults` is strict and there is a fault.
    """
    if contents.size is None:
        raise ValueError("no <size> with a width and a height")
    name = base_name(contents.filename)
    inside = check_file_name(f"{folder}/{name}" if name and folder != PurePosixPath() else name)
    note_path(contents.filename, inside, faults)
    if PurePosixPath(name).stem != faults.path.stem:
        detail = f"<filename> {name} is taken as the name of the image, because no folder of images was given"
        faults.add("file name differs", detail, action="kept")
    return ImageRecord(inside, *contents.size, contents.boxes, extra=contents.extra)


def note_path(stated: str, name: str, faults: Faults) -> None:
    """Note a fault if `<filename>` holds a path, and it is not the path of the image in its folder.

    Args:
        stated: the text of `<filename>`.
        name: path of the image, relative to the folder of images.
        faults: receives the fault.

    Raises:
        ValueError: there is a fault, and `faults` is strict.
    """
    if base_name(stated) == stated:
        return
    if str(PurePosixPath(stated)) not in (name, PurePosixPath(name).name):
        try:
            check_file_name(stated)
            problem = f"expected the name of an image, got the path {stated!r}"
        except ValueError as error:
            problem = str(error)
        faults.mend(f"<filename>: {problem}", name)


def _size(element: Element, faults: Faults) -> tuple[int, int] | None:
    texts = [element.findtext(side) or "0" for side in ("width", "height")]
    try:
        width, height = (parse_number(text) for text in texts)
    except ValueError as error:
        faults.add("detail unreadable", f"<size>: {error}")
        return None
    whole = as_whole_number(width), as_whole_number(height)
    if None in whole:
        faults.add("detail unreadable", f"<size>: expected whole numbers of pixels, got {' x '.join(texts)}")
        return None
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _box(element: Element, number: int, faults: Faults) -> Box:
    names, boxes = element.findall("name"), element.findall("bndbox")
    if not names or not boxes:
        raise ValueError("expected a <name> and a <bndbox>")
    for found in (names, boxes):
        if len(found) > 1:
            raise ValueError(f"<{found[0].tag}> occurs more than once in <object>")
    tags = [child.tag for child in boxes[0]]
    corners = []
    for corner in CORNERS:
        if tags.count(corner) != 1:
            raise ValueError(f"<bndbox> has {'more than one' if corner in tags else 'no'} <{corner}>")
        try:
            corners.append(parse_number(boxes[0][tags.index(corner)].text or ""))
        except ValueError as error:
            raise ValueError(f"<{corner}>: {error}") from None

    def note(detail: str) -> None:
        faults.add("detail unreadable", f"object {number}: {detail}", object=number)

    extra = values(element, OWN_OF_BOX, note)
    if (len(tags) > len(CORNERS) or boxes[0].attrib) and (more := values(boxes[0], CORNERS, note)):
        extra["bndbox"] = more
    return Box((names[0].text or "").strip(), *corners, extra=extra)
