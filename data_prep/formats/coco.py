"""COCO: one JSON file with `images`, `annotations` and `categories`, linked by ids; boxes as [x, y, width, height].

Every object of a COCO file may have further fields. All of them are kept in `extra`, under their own names:

- fields of an annotation (`id`, `area`, `iscrowd`, `segmentation`, `score`...) in `Box.extra`,
- fields of an image (`id`, `license`, `coco_url`...) in `ImageRecord.extra`; its `caption` is `ImageRecord.caption`,
- fields of the file (`info`, `licenses`...) in `Dataset.extra`; `categories` is among them if the categories have further
  fields, or other ids than 1, 2, ...

A file that is read and written again thus gives equal JSON, with two exceptions. Annotations are grouped by image; the images,
and the annotations of one image, keep their order. Missing fields that COCO requires are added (see `write`).

A data set that is written and read again keeps integer coordinates. With float coordinates, x2 becomes x1 + (x2 - x1), and y2
likewise. The last bit may differ, because for many pairs of floats no float width gives exactly x2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from data_prep.atomic import atomic_file
from data_prep.formats.coco_reading import ORIGINAL_BBOX, Id, is_id, read
from data_prep.formats.fields import check_unique, four_numbers, joined, located, take, take_objects, without
from data_prep.formats.json_text import encode
from data_prep.records import Box, Dataset, ImageRecord, Number, parse_flag, parse_number

__all__ = ["ORIGINAL_BBOX", "categories_of", "left_out", "read", "write"]


def write(dataset: Dataset, path: Path | str) -> None:
    """Write a COCO file that the COCO tools can load, from a data set of any format.

    Each entry of `extra` becomes a field under its name. Fields that COCO requires are added if `extra` lacks them: ids (1, 2,
    ... without those in use), `area` (width * height of the box), `iscrowd` (0). The categories of the file are those of the
    data set, then other labels in alphabetical order; categories in `dataset.extra["categories"]` keep their ids and fields.
    Values in `extra` are written unchanged, so a clipped box still has its old `area` and `segmentation`; only texts in `area`
    and `iscrowd`, as they come from XML, become numbers. The same data set gives the same bytes.

    Raises:
        ValueError: an id or a category is used twice, or `extra` has a field with a name that COCO itself writes.
        OSError: the folder of `path` does not exist, or the disk is full or not writable.
    """
    with located(path):
        data = encode(_document(dataset))
    with atomic_file(path, "wb") as file:
        file.write(data)


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that COCO has no place for, as `csv_table.left_out` counts them.

    They are fields with names that COCO itself uses, and values of `id`, `area` and `iscrowd` that COCO's tools cannot use.
    """
    lost = Counter(name for name in dataset.extra if name in ("images", "annotations"))
    for image in dataset.images:
        lost.update(name for name in ("file_name", "width", "height", "caption") if name in image.extra)
        for box in image.boxes:
            lost.update(name for name in ("image_id", "category_id", "bbox") if name in box.extra)
            lost.update(name for name, is_sound in SOUND.items() if name in box.extra and not is_sound(box.extra[name]))
        if "id" in image.extra and not is_id(image.extra["id"]):
            lost["id"] += 1
    return dict(lost)


def _document(dataset: Dataset) -> dict[str, Any]:
    categories = categories_of(dataset)
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
    extra = required | without(box.extra, "id", ORIGINAL_BBOX)
    if isinstance(extra["area"], str):  # in XML of other programs, numbers are texts
        extra["area"] = parse_number(extra["area"])
    if isinstance(extra["iscrowd"], str):
        extra["iscrowd"] = int(parse_flag(extra["iscrowd"]))
    return joined(own, extra)


def _is_number(value: object) -> bool:
    try:
        return isinstance(parse_number(value) if isinstance(value, str) else value, (int, float))
    except ValueError:
        return False


def _is_flag(value: object) -> bool:
    try:
        return parse_flag(value) in (True, False)
    except ValueError:
        return False


SOUND = {"id": is_id, "area": _is_number, "iscrowd": _is_flag}
"""{field that COCO's tools compute with: check of its value}."""


def _bbox(box: Box) -> list[Number]:
    """[x, y, width, height] of a box; if the box has not moved since it was read, the numbers of the file."""
    if ORIGINAL_BBOX in box.extra:
        x, y, width, height = original = four_numbers(box.extra[ORIGINAL_BBOX])
        if (x, y, x + width, y + height) == box.xyxy:
            return original
    return [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]


def categories_of(dataset: Dataset) -> list[dict[str, Any]]:
    """The categories that `write` writes, with their ids.

    Raises:
        ValueError: a name or an id is used twice.
    """
    check_unique(dataset.categories, "category")
    described = take_objects(dataset.extra, "categories") if "categories" in dataset.extra else []
    fields_of = dict(zip(_category_names(described), described, strict=True))
    categories = [fields_of.get(name, {"name": name}) for name in dataset.class_counts]
    ids = _fill_ids("category", categories)
    return [{**category, "id": category_id} for category, category_id in zip(categories, ids, strict=True)]


def _category_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    names: list[str] = []
    for position, category in enumerate(categories):
        with located(f"category number {position + 1}"):
            name = take(category, "name", str)
            if not name.strip():
                raise ValueError(f"expected a name, got {name!r}")
            names.append(name)
    check_unique(names, "category name")
    return names


def _check_ids(kind: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ids that are neither integers nor texts, and repeated ids; missing ids are allowed."""
    for position, item in enumerate(items):
        if "id" in item and not is_id(item["id"]):
            raise ValueError(f"{kind} number {position + 1}: expected an integer or text as id, got {item['id']!r}")
    check_unique((item["id"] for item in items if "id" in item), f"{kind} id")


def _fill_ids(kind: str, items: Sequence[Mapping[str, Any]]) -> list[Id]:
    """The ids of `items`; an item without an id gets the next of 1, 2, ... that is not in use."""
    _check_ids(kind, items)
    taken = {item["id"] for item in items if "id" in item}
    unused = (number for number in count(1) if number not in taken)
    return [item["id"] if "id" in item else next(unused) for item in items]
