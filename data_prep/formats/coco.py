"""COCO: one JSON file with `images`, `annotations` and `categories`, tied by ids; boxes as [x, y, width, height].

COCO is open: any object may have more fields than the format knows. All of them are kept in `extra`, under their own names:

- a field of an annotation (`id`, `area`, `iscrowd`, `segmentation`, `score`...) in `Box.extra`,
- a field of an image (`id`, `license`, `coco_url`...) in `ImageRecord.extra`; its `caption` is `ImageRecord.caption`,
- a field of the file (`info`, `licenses`...) in `Dataset.extra`; and `categories` there too, if they say more than names
  (further fields, or other ids than 1, 2, ...).

So file -> `read` -> `write` -> file gives equal JSON, up to two things: annotations are grouped by image (images, and the
annotations of each, stay in their order), and fields that COCO requires are added where they were missing (see `write`).

The other way round, a box of integers keeps its coordinates. Of floats, x2 comes back as x1 + (x2 - x1), and y2 likewise, which
may differ in the last bit: often there is no float width that leads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeGuard

from data_prep.atomic import atomic_file
from data_prep.formats.fields import check_unique, four_numbers, joined, located, take, take_objects, without
from data_prep.formats.json_text import encode, parse, read_text
from data_prep.records import Box, Dataset, ImageRecord, Number

Id = int | str

ORIGINAL_BBOX = "coco_bbox"
"""Name in `Box.extra` of the file's [x, y, width, height], where the floats of the corners do not lead back to it."""


def read(path: Path | str) -> Dataset:
    """Read a COCO file.

    `images` is required; `annotations` and `categories` may be missing (COCO's own test sets have no annotations). Ids are
    integers or texts, each unique among its kind; they need not be contiguous, and one that is missing is made by `write`.

    Returns:
        A data set with xyxy boxes in pixels, images and categories in the order of the file.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is no such JSON, an id or a category's name is used twice, an annotation names an image or a
            category that is not there, or has no `bbox` (captions, keypoints alone); with file and id.
    """
    path = Path(path)
    root = parse(read_text(path), path)
    with located(path):
        if {"phrases", "films", "failed"} <= root.keys():
            raise ValueError("this is gdino detect's own JSON; detections.coco.json beside it is the COCO file")
        images = take_objects(root, "images")
        annotations = take_objects(root, "annotations") if "annotations" in root else []
        categories = take_objects(root, "categories") if "categories" in root else []
        names = _category_names(categories)
        for kind, items in (("image", images), ("annotation", annotations), ("category", categories)):
            _check_ids(kind, items)

        name_of = {category["id"]: name for category, name in zip(categories, names, strict=True) if "id" in category}
        boxes_of: dict[Id, list[Box]] = {image["id"]: [] for image in images if "id" in image}
        for position, annotation in enumerate(annotations):
            with located(_place("annotation", annotation, position)):
                _lookup(boxes_of, annotation, "image_id").append(_read_box(annotation, name_of))
        records = []
        for position, image in enumerate(images):
            with located(_place("image", image, position)):
                records.append(_read_image(image, boxes_of[image["id"]] if "id" in image else ()))
    extra = without(root, "images", "annotations", "categories")
    if categories != _plain_categories(names):
        extra["categories"] = categories
    return Dataset(tuple(records), tuple(names), extra)


def write(dataset: Dataset, path: Path | str) -> None:
    """Write a COCO file that the COCO tools load, whatever format the data set was read from.

    Everything in `extra` becomes a field under its name. What COCO requires and `extra` lacks is added: ids (1, 2, ... past
    those in use), `area` (width * height of the box), `iscrowd` (0). `categories` are those of the data set, then labels that
    it does not list, sorted; those in `dataset.extra["categories"]` keep their ids and fields. What `extra` holds is written
    as it is: `area` and `segmentation` of a box that was clipped since are still the old ones. The same data set gives the
    same bytes.

    Raises:
        ValueError: an id or a category is used twice, or a name in `extra` is one that COCO itself writes.
        OSError: the folder of `path` does not exist, or the disk is full or not writable.
    """
    with located(path):
        data = encode(_document(dataset))
    with atomic_file(path, "wb") as file:
        file.write(data)


def _read_image(image: Mapping[str, Any], boxes: Sequence[Box]) -> ImageRecord:
    return ImageRecord(
        file_name=take(image, "file_name", str),
        width=take(image, "width", int),
        height=take(image, "height", int),
        boxes=tuple(boxes),
        caption=take(image, "caption", str) if "caption" in image else None,
        extra=without(image, "file_name", "width", "height", "caption"),
    )


def _read_box(annotation: Mapping[str, Any], name_of: Mapping[Id, str]) -> Box:
    if ORIGINAL_BBOX in annotation:
        raise ValueError(f"the extra field {ORIGINAL_BBOX!r} has a name that data_prep itself uses; rename or drop it")
    x, y, width, height = four_numbers(annotation.get("bbox"))
    x2, y2 = x + width, y + height
    extra = without(annotation, "image_id", "category_id", "bbox")
    # repr tells 2 from 2.0, which == does not: integers shall come back as integers
    if repr([x2 - x, y2 - y]) != repr([width, height]):
        extra[ORIGINAL_BBOX] = annotation["bbox"]
    return Box(_lookup(name_of, annotation, "category_id"), x, y, x2, y2, extra)


def _document(dataset: Dataset) -> dict[str, Any]:
    categories = _write_categories(dataset)
    id_of = {category["name"]: category["id"] for category in categories}
    image_ids = _fill_ids("image", [image.extra for image in dataset.images])
    box_ids = iter(_fill_ids("annotation", [box.extra for image in dataset.images for box in image.boxes]))

    images, annotations = [], []
    for image, image_id in zip(dataset.images, image_ids, strict=True):
        with located(f"image {image.file_name!r}"):
            images.append(_write_image(image, image_id))
            for box in image.boxes:
                fields = {"id": next(box_ids), "image_id": image_id, "category_id": id_of[box.label]}
                annotations.append(_write_box(box, fields))
    own = {"images": images, "annotations": annotations, "categories": categories}
    return joined(own, without(dataset.extra, "categories"))


def _write_image(image: ImageRecord, image_id: Id) -> dict[str, Any]:
    own = {"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height}
    fields = joined({**own, "caption": image.caption}, without(image.extra, "id"))
    return without(fields, "caption") if image.caption is None else fields


def _write_box(box: Box, fields: Mapping[str, Any]) -> dict[str, Any]:
    bbox = _bbox(box)
    own = {**fields, "bbox": bbox}
    required = {"area": bbox[2] * bbox[3], "iscrowd": 0}
    return joined(own, required | without(box.extra, "id", ORIGINAL_BBOX))


def _bbox(box: Box) -> list[Number]:
    """[x, y, width, height], as the file had it if the box still stands where it stood there."""
    if ORIGINAL_BBOX in box.extra:
        x, y, width, height = original = four_numbers(box.extra[ORIGINAL_BBOX])
        if (x, y, x + width, y + height) == box.xyxy:
            return original
    return [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]


def _write_categories(dataset: Dataset) -> list[dict[str, Any]]:
    check_unique(dataset.categories, "category")
    described = take_objects(dataset.extra, "categories") if "categories" in dataset.extra else []
    fields_of = dict(zip(_category_names(described), described, strict=True))
    categories = [fields_of.get(name, {"name": name}) for name in dataset.class_counts]
    ids = _fill_ids("category", categories)
    return [{**category, "id": category_id} for category, category_id in zip(categories, ids, strict=True)]


def _plain_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """What `write` makes of names alone."""
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def _category_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    names: list[str] = []
    for position, category in enumerate(categories):
        with located(_place("category", category, position)):
            name = take(category, "name", str)
            if not name.strip():
                raise ValueError(f"expected a name, got {name!r}")
            names.append(name)
    check_unique(names, "category name")
    return names


def _check_ids(kind: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Ids may be missing; those that are there must be integers or texts, each once."""
    for position, item in enumerate(items):
        if "id" in item and not _is_id(item["id"]):
            raise ValueError(f"{kind} number {position + 1}: expected an integer or text as id, got {item['id']!r}")
    check_unique((item["id"] for item in items if "id" in item), f"{kind} id")


def _is_id(value: object) -> TypeGuard[Id]:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _fill_ids(kind: str, items: Sequence[Mapping[str, Any]]) -> list[Id]:
    """The ids of `items`, with 1, 2, ... for those that have none."""
    _check_ids(kind, items)
    taken = {item["id"] for item in items if "id" in item}
    unused = (number for number in count(1) if number not in taken)
    return [item["id"] if "id" in item else next(unused) for item in items]


def _lookup(values: Mapping[Id, Any], annotation: Mapping[str, Any], name: str) -> Any:
    key = annotation.get(name)
    if not _is_id(key) or key not in values:
        kind = name.removesuffix("_id")
        raise ValueError(f"expected {name!r} to be one of the file's {len(values)} {kind} ids, got {key!r}")
    return values[key]


def _place(kind: str, item: Mapping[str, Any], position: int) -> str:
    return f"{kind} {item['id']!r}" if "id" in item else f"{kind} number {position + 1}"
