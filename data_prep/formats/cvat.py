"""CVAT: one XML file, "CVAT for images 1.1" or "CVAT for video 1.1"; boxes as corners in pixels.

Each shape gives the smallest upright box around it: a box (`rotation` turns it clockwise about its centre), polygon, ellipse or
mask. The corners of polygons and turned boxes are kept as `segmentation` in `Box.extra`. Polylines, points, cuboids, skeletons and
tags have no box and are faults.

The frames of a video are images with the names that CVAT gives them, such as "frame_000012.PNG". A frame that a track names only
as `outside` has a record without this track's box; a frame that no track names has no record.

Fields of a shape in `Box.extra`: `occluded`, `z_order` and `group_id` as integers, `source`, `track_id` for a track, and
`attributes`, an object of texts. The `subset` of an image is in `ImageRecord.extra`.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # builds and writes only; reading goes through defusedxml
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from data_prep.atomic import atomic_file
from data_prep.findings import Faults, Finding
from data_prep.formats.fields import check_unique, located, plain_file_name, without
from data_prep.formats.polygons import SEGMENTATION, Point, hull, pixels, polygon_of, segmentation, turned
from data_prep.formats.voc_xml import NOT_XML, parse, text_of
from data_prep.records import Box, Dataset, ImageRecord, Number, parse_flag, parse_number

SHAPES = ("box", "polygon", "ellipse", "mask")
"""The shapes that have a box."""
OTHER_SHAPES = ("polyline", "points", "cuboid", "skeleton", "tag")
NUMBERS = {"occluded": 0, "z_order": 0, "group_id": 0, "track_id": None}
"""{field of a shape that is an integer: the value that is not kept}."""
MOST_FRAMES = 10**7


def read(path: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read a CVAT file.

    Args:
        path: the .xml file.
        found: list to which faults are added. Only the image or the shape with the fault is left out. Without a list, the first
            fault is raised.

    Returns:
        A data set with its images in the order of the file, or its frames in their order; categories are in the order of the
        file's labels, then other labels in alphabetical order.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is not XML of CVAT, or has entities or a document type. Or `found` is None, and an image has no size
            or a shape has no box. The message begins with the file.
    """
    path = Path(path)
    faults = Faults(path, found)
    with located(path):
        root = parse(path, "annotations")
    records = [_read_image(image, number, faults) for number, image in enumerate(root.iterfind("image"), start=1)]
    records += _read_tracks(root, faults)
    names = [label.findtext("name", "").strip() for label in root.iterfind("meta//labels/label")]
    images = tuple(record for record in records if record is not None)
    dataset = Dataset(images, tuple(dict.fromkeys(name for name in names if name)))
    return Dataset(images, tuple(dataset.class_counts))


def write(dataset: Dataset, path: Path | str) -> None:
    """Write a file of "CVAT for images 1.1", which CVAT imports into a task that has the same images.

    A box with one polygon becomes a polygon, any other box a box. Fields that `left_out` counts are dropped.

    Raises:
        ValueError: a name has a character that XML cannot hold, or a category is used twice.
        OSError: `path` cannot be written; an existing file stays as it is.
    """
    path = Path(path)
    with located(path):
        check_unique(dataset.categories, "category")
        tree = ElementTree.ElementTree(_root(dataset))
    ElementTree.indent(tree)
    with atomic_file(path, "wb") as file:
        tree.write(file, encoding="utf-8", xml_declaration=True)


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that CVAT has no place for, as `csv_table.left_out` counts them: all that the module does not name."""
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(name for name, value in image.extra.items() if not _fits_image(name, value))
        lost.update(["caption"] * (image.caption is not None))
        for box in image.boxes:
            lost.update(name for name, value in box.extra.items() if not _fits_box(name, value, box))
    return dict(lost)


def _read_image(image: Element, number: int, faults: Faults) -> ImageRecord | None:
    place = f"image {number}"
    with faults.costing("annotation unreadable", place):
        name = plain_file_name(image.get("name", ""), faults.mender(place))
        extra = {"subset": image.get("subset")} if image.get("subset") else {}
        boxes = []
        for position, shape in enumerate(image, start=1):
            with faults.costing("object unreadable", f"{place}, shape {position}"):
                boxes.append(_read_shape(shape, shape.get("label", "")))
        return ImageRecord(name, _whole(image, "width"), _whole(image, "height"), tuple(boxes), extra=extra)
    return None


def _read_tracks(root: Element, faults: Faults) -> list[ImageRecord]:
    """The frames of a video."""
    tracks = root.findall("track")
    if not tracks:
        return []
    size = root.find("meta//original_size")
    with located(faults.path):
        if size is None:
            raise ValueError("expected <original_size> with the size of the video, got none")
        texts = {side: size.findtext(side, "") for side in ("width", "height")}
        width, height = (_whole(Element("original_size", texts), side) for side in texts)
    boxes_of: dict[int, list[Box]] = {}
    for position, track in enumerate(tracks, start=1):
        for shape in track:
            place = f"track {track.get('id', position)}, frame {shape.get('frame', '')[:20]}"
            with faults.costing("object unreadable", place):
                frame = _whole(shape, "frame")
                if not 0 <= frame <= MOST_FRAMES:
                    raise ValueError(f"expected 'frame' to be in 0..{MOST_FRAMES}, got {frame}")
                boxes = boxes_of.setdefault(frame, [])
                if not parse_flag(shape.get("outside")):
                    box = _read_shape(shape, track.get("label", ""))
                    more = {"track_id": _whole(track, "id")} if "id" in track.attrib else {}
                    boxes.append(Box(box.label, *box.xyxy, {**box.extra, **more}))
    with located(faults.path):
        return [
            ImageRecord(f"frame_{frame:06d}.PNG", width, height, tuple(boxes))
            for frame, boxes in sorted(boxes_of.items())
        ]


def _read_shape(shape: Element, label: str) -> Box:
    if shape.tag not in SHAPES:
        hint = "which has no box" if shape.tag in OTHER_SHAPES else "which is unknown"
        raise ValueError(f"expected one of {', '.join(SHAPES)}, got <{shape.tag[:40]}>, {hint}")
    corners, points = _geometry(shape)
    extra: dict[str, Any] = {} if points is None else segmentation(points)
    for name, default in NUMBERS.items():
        if name in shape.attrib and (value := _whole(shape, name)) != default:
            extra[name] = value
    if shape.get("source") not in (None, "", "manual"):
        extra["source"] = shape.get("source")
    if attributes := {each.get("name", ""): (each.text or "").strip() for each in shape.iterfind("attribute")}:
        extra["attributes"] = attributes
    return Box(label.strip(), *corners, extra=extra)


def _geometry(shape: Element) -> tuple[tuple[Number, Number, Number, Number], list[Point] | None]:
    """(box, corners of a polygon or a turned box)."""
    if shape.tag == "polygon":
        points = [_point(text) for text in shape.get("points", "").split(";")]
        if len(points) < 3:
            raise ValueError(f"expected at least three points of a polygon, got {len(points)}")
        return hull(points), points
    if shape.tag == "box":
        x1, y1, x2, y2 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        degrees = parse_number(shape.get("rotation", "0"))
        if not degrees % 360:
            return (x1, y1, x2, y2), None
        points = turned((x1, y1), (x2 - x1, y2 - y1), degrees, ((x1 + x2) / 2, (y1 + y2) / 2))
        return hull(points), points
    if shape.tag == "mask":
        x, y, width, height = _numbers(shape, "left", "top", "width", "height")
        return (x, y, x + width, y + height), None
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return (pixels(x - rx), pixels(y - ry), pixels(x + rx), pixels(y + ry)), None


def _point(text: str) -> Point:
    numbers = text.split(",")
    if len(numbers) != 2:
        raise ValueError(f"expected points as x,y;x,y;..., got {text[:40]!r}")
    return parse_number(numbers[0]), parse_number(numbers[1])


def _numbers(shape: Element, *names: str) -> list[Number]:
    for name in names:
        if name not in shape.attrib:
            raise ValueError(f"expected <{shape.tag}> to have {', '.join(names)}, got no {name!r}")
    return [parse_number(shape.get(name, "")) for name in names]


def _whole(element: Element, name: str) -> int:
    (number,) = _numbers(element, name)
    if number != int(number):
        raise ValueError(f"expected {name!r} to be an integer, got {element.get(name, '')[:40]!r}")
    return int(number)


def _root(dataset: Dataset) -> Element:
    root = Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in dataset.class_counts:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = text_of(name)
    for number, record in enumerate(dataset.images):
        with located(f"image {record.file_name!r}"):
            kept = {name: value for name, value in record.extra.items() if _fits_image(name, value)}
            size = {"width": record.width, "height": record.height}
            image = ElementTree.SubElement(
                root, "image", _texts({"id": number, **kept, "name": record.file_name, **size})
            )
            for box in record.boxes:
                image.append(_shape(box))
    return root


def _shape(box: Box) -> Element:
    kept = {name: value for name, value in box.extra.items() if _fits_box(name, value, box)}
    own = {"label": box.label, "source": "manual", "occluded": 0}
    fields = own | without(kept, SEGMENTATION, "attributes")
    if SEGMENTATION in kept:
        points = ";".join(f"{x},{y}" for x, y in polygon_of(box) or ())
        shape = Element("polygon", _texts({**fields, "points": points}))
    else:
        corners = zip(("xtl", "ytl", "xbr", "ybr"), box.xyxy, strict=True)
        shape = Element("box", _texts({**fields, **dict(corners)}))
    for name, value in kept.get("attributes", {}).items():
        ElementTree.SubElement(shape, "attribute", {"name": name}).text = value
    return shape


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    return {name: text_of(value) for name, value in fields.items()}


def _fits_image(name: str, value: object) -> bool:
    return name == "subset" and _are_texts([value])


def _fits_box(name: str, value: object, box: Box) -> bool:
    if name in NUMBERS:
        return type(value) is int and value != NUMBERS[name] and abs(value) < 10**18
    if name == "attributes":
        return isinstance(value, dict) and bool(value) and _are_texts(value) and _are_texts(value.values(), True)
    if name == SEGMENTATION:
        return polygon_of(box) is not None
    return name == "source" and value != "manual" and _are_texts([value])


def _are_texts(values: Iterable[object], may_be_empty: bool = False) -> bool:
    """True if XML gives each of `values` back unchanged, as an attribute or as a text."""
    return all(
        isinstance(value, str)
        and value == value.strip()
        and (may_be_empty or value)
        and not NOT_XML.search(value)
        and not any(c in value for c in "\t\r\n")
        for value in values
    )
