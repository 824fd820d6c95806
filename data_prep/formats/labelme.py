"""labelme: a folder with one JSON file per image; a shape is a list of points in pixels.

Each shape gives the smallest upright box around it. Of a shape other than a rectangle, the corners are kept as `segmentation` in
`Box.extra`; a circle is a center and a point on its edge, and has no corners. Lines and single points have no box and are faults.
The other fields of a shape are kept in `Box.extra`, those of the file in `ImageRecord.extra`, both under their own names; only
the picture itself, `imageData`, and `version` are not kept.

Source: https://github.com/wkentaro/labelme, `labelme/_label_file.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.atomic import write_json
from data_prep.findings import Faults, Finding
from data_prep.formats.fields import joined, lost_categories, plain_file_name, take, take_whole, without
from data_prep.formats.file_per_image import annotation_files, write_files
from data_prep.formats.json_text import parse, read_text
from data_prep.formats.polygons import SEGMENTATION, Point, hull, lost_fields, pixels, polygon_of, segmentation
from data_prep.records import Box, Dataset, ImageRecord, base_name, check_file_name

OWN_OF_IMAGE = ("version", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth")
OWN_OF_BOX = ("label", "points", "shape_type")
EMPTY: dict[str, Any] = {"flags": {}, "group_id": None, "description": "", "mask": None}
"""The values that labelme writes where the user has said nothing; they are not kept."""


def read(folder: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read the .json files of a folder and its sub-folders.

    The record of `sub/a.json` names an image in `sub/`, whatever folder its `imagePath` has.

    Args:
        folder: the folder.
        found: list to which faults are added. Only the file or the shape with a fault is left out. Without a list, the first
            fault is raised.

    Returns:
        A data set with its images in the order of the files' names, and its categories in alphabetical order.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no .json file.
        ValueError: `found` is None, and a file is no labelme file, or a shape has no box. The message begins with the file.
    """
    records: list[ImageRecord] = []
    for name, faults in annotation_files(folder, ".json", found):
        with faults.costing("annotation unreadable"):
            document = parse(read_text(faults.path), faults.path, faults=faults)
            records.append(_read_image(document, PurePosixPath(check_file_name(name)).parent, faults))
    return Dataset(tuple(records), tuple(sorted({box.label for record in records for box in record.boxes})))


def write(dataset: Dataset, folder: Path | str, overwrite: bool = False) -> None:
    """Write one JSON file per image into a new folder; `sub/a.jpg` becomes `sub/a.json`.

    A box with one polygon becomes a polygon, any other box a rectangle. labelme opens the files once the images lie beside them.
    A hidden file, `data_prep.atomic.MANIFEST`, lists the files for a later `overwrite`.

    Raises:
        ValueError: two images share a stem, or an extra field has a name that labelme itself uses.
        FileExistsError: `folder` is not empty and `overwrite` is False, or it holds a file that no call wrote.
    """
    write_files(dataset, folder, ".json", overwrite, lambda record, path: write_json(path, _document(record)))


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that labelme has no place for, as `csv_table.left_out` counts them; see `polygons.lost_fields`."""
    return lost_fields(dataset, OWN_OF_IMAGE, OWN_OF_BOX) | lost_categories(dataset)


def _read_image(document: Mapping[str, Any], folder: PurePosixPath, faults: Faults) -> ImageRecord:
    mend = faults.mender("")
    width, height = (take_whole(document, name, mend) for name in ("imageWidth", "imageHeight"))
    name = plain_file_name(base_name(take(document, "imagePath", str)), mend)
    boxes = []
    for number, shape in enumerate(take(document, "shapes", list), start=1):
        try:
            if not isinstance(shape, dict):
                raise ValueError(f"expected an object, got {shape!r:.40}")
            boxes.append(_read_shape(shape))
        except (ValueError, OverflowError) as error:
            faults.add("object unreadable", f"shape {number}: {error}", object=number)
    return ImageRecord(str(folder / name), width, height, tuple(boxes), extra=_kept(document, OWN_OF_IMAGE))


def _read_shape(shape: Mapping[str, Any]) -> Box:
    label, kind = take(shape, "label", str).strip(), shape.get("shape_type")
    kind = "polygon" if kind is None else kind  # as in files of labelme before 3.0
    points = [_point(point) for point in take(shape, "points", list)]
    extra = _kept(shape, OWN_OF_BOX)
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist(points[0], edge)
        return Box(label, *(pixels(value) for value in (x - radius, y - radius, x + radius, y + radius)), extra=extra)
    fewest = (
        {"rectangle": 2, "mask": 2, "polygon": 3, "oriented_rectangle": 4}.get(kind) if isinstance(kind, str) else None
    )
    if fewest is None:
        raise ValueError(f"expected a rectangle, polygon, oriented_rectangle, mask or circle, got {kind!r:.40}")
    if len(points) < fewest:
        raise ValueError(f"expected at least {fewest} points of a {kind}, got {len(points)}")
    more = {} if kind in ("rectangle", "mask") else segmentation(points)
    return Box(label, *hull(points), joined(more, extra))


def _point(value: Any) -> Point:
    if isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value):
        return value[0], value[1]
    raise ValueError(f"expected a point [x, y], got {value!r:.40}")


def _kept(item: Mapping[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: value
        for name, value in without(item, *own).items()
        if name not in EMPTY or value not in (EMPTY[name], None)
    }


def _document(record: ImageRecord) -> dict[str, Any]:
    own = {"version": "5.5.0", "shapes": [_shape(box) for box in record.boxes]}
    own |= {"imagePath": PurePosixPath(record.file_name).name, "imageData": None}
    return joined(own | {"imageHeight": record.height, "imageWidth": record.width}, {"flags": {}, **record.extra})


def _shape(box: Box) -> dict[str, Any]:
    polygon = polygon_of(box)
    points = [[box.x1, box.y1], [box.x2, box.y2]] if polygon is None else [list(point) for point in polygon]
    own = {"label": box.label, "points": points, "shape_type": "rectangle" if polygon is None else "polygon"}
    return joined(own, EMPTY | without(box.extra, SEGMENTATION))
