"""Label Studio: a JSON list of tasks, as "Export > JSON" gives it; boxes as percent of the image's width and height.

Of the annotations of a task, the first that was not cancelled counts; without one, the first prediction. Each result gives the
smallest upright box around it: a rectangle (`rotation` turns it clockwise about its upper left corner), polygon or ellipse. The
corners of polygons and turned rectangles are kept as `segmentation` in `Box.extra`. Brushes and key points have no box and are
faults, and so is a result of an image that was turned in the editor (`image_rotation`). A result with several labels is a box for
each of them. Coordinates are rounded to 1e-6 pixels.

The file name is the last part of the task's `image` address, such as "1a2b3c4d-a.jpg" for an uploaded file, or the path after
"?d=" for local files. Other fields of a result are kept in `Box.extra`, other fields of the task's `data` in `ImageRecord.extra`,
both under their own names. Label Studio's own fields of tasks and annotations, such as `created_at`, are not kept, and neither
are the ids of results.

Source: https://labelstud.io/guide/task_format and /guide/export.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from data_prep.atomic import atomic_file
from data_prep.findings import LEFT_OUT, Faults, Finding
from data_prep.formats.fields import (
    joined,
    located,
    lost_categories,
    plain_file_name,
    take,
    take_objects,
    take_whole,
    without,
)
from data_prep.formats.json_text import encode, parse_list, read_text
from data_prep.formats.polygons import (
    SEGMENTATION,
    Point,
    check_share,
    hull,
    lost_fields,
    pixels,
    polygon_of,
    segmentation,
    turned,
)
from data_prep.pictures import upright_size
from data_prep.records import Box, Dataset, ImageRecord, base_name

SIZE = ("original_width", "original_height")
OWN_OF_RESULT = ("id", "type", "value", "from_name", "to_name", *SIZE, "image_rotation")
OWN_OF_DATA = ("image", "width", "height")
LABELS = {
    "rectanglelabels": ("x", "y", "width", "height"),
    "polygonlabels": (),
    "ellipselabels": ("x", "y", "radiusX", "radiusY"),
}
"""{type of a result that has a box: its numbers, in percent}."""


def read(path: Path | str, found: list[Finding] | None = None, images: Path | None = None) -> Dataset:
    """Read an export.

    Args:
        path: the .json file.
        found: list to which faults are added. Only the task or the result with the fault is left out. Without a list, the first
            fault is raised.
        images: folder of the images. It gives the size of images without results, which only files of ours state.

    Returns:
        A data set with its images in the order of the tasks, and its categories in alphabetical order.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is not a JSON list. Or `found` is None, and a task has no image or a result has no box. The message
            begins with the file and names the task.
    """
    path = Path(path)
    faults = Faults(path, found)
    tasks = parse_list(read_text(path), path, faults)
    records: list[ImageRecord] = []
    for number, task in enumerate(tasks, start=1):
        place = f"task {task.get('id', number)}" if isinstance(task, dict) else f"task number {number}"
        with faults.costing("annotation unreadable", place):
            if not isinstance(task, dict):
                raise ValueError(f"expected an object, got {task!r:.40}")
            records.append(_read_task(task, place, images, faults))
    return Dataset(tuple(records), tuple(sorted({box.label for record in records for box in record.boxes})))


def write(dataset: Dataset, path: Path | str) -> None:
    """Write tasks with annotations, which Label Studio imports into a project with an `Image` named "image".

    The address of each image is its file name, for local files below Label Studio's document root. The labelling configuration
    needs `RectangleLabels` named "label", and `PolygonLabels` of that name if there are polygons. A box with one polygon becomes
    a polygon, any other box a rectangle.

    Raises:
        ValueError: an extra field has a name that Label Studio itself uses, or JSON cannot represent its value.
        OSError: `path` cannot be written; an existing file stays as it is.
    """
    with located(path):
        tasks = [_task(record, number) for number, record in enumerate(dataset.images, start=1)]
        data = encode(tasks)
    with atomic_file(path, "wb") as file:
        file.write(data)


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that Label Studio has no place for, as `csv_table.left_out` counts them; see `polygons.lost_fields`."""
    return lost_fields(dataset, OWN_OF_DATA, OWN_OF_RESULT) | lost_categories(dataset)


def is_export(path: Path) -> bool:
    """True if a file begins as a JSON list does."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(4096).lstrip().startswith("[")
    except OSError:
        return False


def _read_task(task: Mapping[str, Any], place: str, images: Path | None, faults: Faults) -> ImageRecord:
    data = take(task, "data", dict)
    name = plain_file_name(_file_name(take(data, "image", str)), faults.mender(place))
    results = _results(task, place, name, faults)
    size = _size(data, results, name, images, faults.mender(place))
    boxes: list[Box] = []
    for number, result in enumerate(results, start=1):
        with faults.costing("object unreadable", f"{place}, result {number}"):
            boxes += _read_result(result, size)
    return ImageRecord(name, *size, tuple(boxes), extra=without(data, *OWN_OF_DATA))


def _file_name(address: str) -> str:
    parts = urlsplit(address)
    if local := parse_qs(parts.query).get("d"):
        return local[0].lstrip("/")
    path = unquote(parts.path)
    return base_name(path) if parts.scheme or path.startswith("/") else path


def _results(task: Mapping[str, Any], place: str, name: str, faults: Faults) -> list[dict[str, Any]]:
    """The results of the annotation that counts."""
    given = take_objects(task, "annotations") if task.get("annotations") else []
    given = [each for each in given if not each.get("was_cancelled")]
    for other in given[1:]:
        count = len(other.get("result") or ())
        detail = f"{place}: {name} has {len(given)} annotations; the {count} results of another one are not used"
        faults.add("image annotated twice", detail, action=LEFT_OUT)
    if not given and task.get("predictions"):
        given = take_objects(task, "predictions")
    return take_objects(given[0], "result") if given else []


def _size(
    data: Mapping[str, Any], results: list[dict[str, Any]], name: str, images: Path | None, mend: Any
) -> tuple[int, int]:
    for item, names in ((data, ("width", "height")), *((each, SIZE) for each in results)):
        if all(side in item for side in names):
            return take_whole(item, names[0], mend), take_whole(item, names[1], mend)
    if images is None:
        raise ValueError(f"{name} has no result that states its size; name the folder of images, too")
    return upright_size(images / name)


def _read_result(result: Mapping[str, Any], size: tuple[int, int]) -> list[Box]:
    kind, value = take(result, "type", str), take(result, "value", dict)
    if kind not in LABELS:
        raise ValueError(f"expected one of {', '.join(LABELS)}, got {kind!r:.40}, which has no box")
    labels = take(value, kind, list)
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"expected {kind!r} to be a list of labels, got {labels!r:.40}")
    if result.get("image_rotation"):
        raise ValueError(f"expected an upright image, got 'image_rotation' {result['image_rotation']!r:.20}")
    extra = without(result, *OWN_OF_RESULT)
    width, height = size
    if kind == "polygonlabels":
        corners = [_point(point, size) for point in take(value, "points", list)]
        if len(corners) < 3:
            raise ValueError(f"expected at least three points of a polygon, got {len(corners)}")
        return [Box(label, *hull(corners), joined(segmentation(corners), extra)) for label in labels]
    x, y, dx, dy = (_percent(value, name) for name in LABELS[kind])
    degrees = value.get("rotation") or 0
    if type(degrees) not in (int, float):
        raise ValueError(f"expected 'rotation' to be degrees, got {degrees!r:.40}")
    left, top, right, bottom = (x - dx, y - dy, x + dx, y + dy) if kind == "ellipselabels" else (x, y, x + dx, y + dy)
    left, top, right, bottom = left * width / 100, top * height / 100, right * width / 100, bottom * height / 100
    if not degrees % 360:
        box = pixels(left), pixels(top), pixels(right), pixels(bottom)
        return [Box(label, *box, extra) for label in labels]
    about = ((left + right) / 2, (top + bottom) / 2) if kind == "ellipselabels" else (left, top)
    corners = turned((left, top), (right - left, bottom - top), degrees, about)
    return [Box(label, *hull(corners), joined(segmentation(corners), extra)) for label in labels]


def _point(value: Any, size: tuple[int, int]) -> Point:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"expected a point [x, y] in percent, got {value!r:.40}")
    x, y = (_percent({"points": number}, "points") for number in value)
    return pixels(x * size[0] / 100), pixels(y * size[1] / 100)


def _percent(value: Mapping[str, Any], name: str) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ValueError(f"expected {name!r} to be percent of the image's size, got {number!r:.40}")
    check_share(number, repr(name), 100)
    return number


def _task(record: ImageRecord, number: int) -> dict[str, Any]:
    with located(f"image {record.file_name!r}"):
        address = f"/data/local-files/?d={quote(record.file_name)}"
        data = {"image": address, "width": record.width, "height": record.height}
        results = [_result(box, record, place) for place, box in enumerate(record.boxes, start=1)]
        return {"id": number, "data": joined(data, record.extra), "annotations": [{"result": results}]}


def _result(box: Box, record: ImageRecord, number: int) -> dict[str, Any]:
    polygon = polygon_of(box)
    width, height = record.width / 100, record.height / 100
    if polygon is None:
        kind, value = "rectanglelabels", {"x": box.x1 / width, "y": box.y1 / height, "rotation": 0}
        value |= {"width": (box.x2 - box.x1) / width, "height": (box.y2 - box.y1) / height}
    else:
        kind, value = "polygonlabels", {"points": [[x / width, y / height] for x, y in polygon], "closed": True}
    own = {"type": kind, "value": {**value, kind: [box.label]}, "from_name": "label", "to_name": "image"}
    own |= {"original_width": record.width, "original_height": record.height, "image_rotation": 0}
    return joined({"id": str(number), **own}, without(box.extra, SEGMENTATION))
