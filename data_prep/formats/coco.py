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

__all__ = ["ORIGINAL_BBOX", "left_out", "read", "write"]


def write(dataset: Dataset, path: Path | str) -> None:
    """Write a COCO file that the COCO tools load, whatever format the data set was read from.

    Everything in `extra` becomes a field under its name. What COCO requires and `extra` lacks is added: ids (1, 2, ... past
    those in use), `area` (width * height of the box), `iscrowd` (0). `categories` are those of the data set, then labels that
    it does not list, sorted; those in `dataset.extra["categories"]` keep their ids and fields. What `extra` holds is written
    as it is: `area` and `segmentation` of a box that was clipped since are still the old ones; `area` and `iscrowd` that are
    texts, as in XML, become numbers. The same data set gives the same bytes.

    Raises:
        ValueError: an id or a category is used twice, or a name in `extra` is one that COCO itself writes.
        OSError: the folder of `path` does not exist, or the disk is full or not writable.
    """
    with located(path):
        data = encode(_document(dataset))
    with atomic_file(path, "wb") as file:
        file.write(data)


def left_out(dataset: Dataset) -> dict[str, int]:
    """What COCO has no place for, as `csv_table.left_out` tells it: fields under names of its own that say something else."""
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
    extra = required | without(box.extra, "id", ORIGINAL_BBOX)
    if isinstance(extra["area"], str):  # as other programs' XML has all numbers
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
"""The fields that COCO's tools compute with, and what their values must be."""


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
    """Ids may be missing; those that are there must be integers or texts, each once."""
    for position, item in enumerate(items):
        if "id" in item and not is_id(item["id"]):
            raise ValueError(f"{kind} number {position + 1}: expected an integer or text as id, got {item['id']!r}")
    check_unique((item["id"] for item in items if "id" in item), f"{kind} id")


def _fill_ids(kind: str, items: Sequence[Mapping[str, Any]]) -> list[Id]:
    """The ids of `items`, with 1, 2, ... for those that have none."""
    _check_ids(kind, items)
    taken = {item["id"] for item in items if "id" in item}
    unused = (number for number in count(1) if number not in taken)
    return [item["id"] if "id" in item else next(unused) for item in items]
