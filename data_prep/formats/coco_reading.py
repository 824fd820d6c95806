"""Read COCO files: link images, annotations and categories by their ids, and leave out only what has a fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from data_prep.findings import Faults, Finding
from data_prep.formats.fields import Mend, four_numbers, located, plain_file_name, take, take_whole, without
from data_prep.formats.json_text import parse, read_text
from data_prep.records import Box, Dataset, ImageRecord, as_whole_number, parse_flag, parse_number

Id = int | str
FileName: TypeAlias = Callable[[Mapping[str, Any], Mend], str]
"""Gives the file name of an image object."""

ORIGINAL_BBOX = "coco_bbox"
"""Field of `Box.extra` for the file's [x, y, width, height], if they cannot be computed exactly from the corners."""


def read(path: Path | str, found: list[Finding] | None = None, file_name: FileName | None = None) -> Dataset:
    """Read a COCO file.

    `images` is required; `annotations` and `categories` may be missing (COCO's own test sets have no annotations). Ids are
    integers or texts, and each id occurs once among the images, the annotations or the categories. Ids need not be
    contiguous, and `write` adds missing ids.

    Args:
        path: the file.
        found: list to which faults are added. Only the image, annotation or field with a fault is left out. Values that break
            the rules but can only mean one thing are mended: sizes and ids such as 640.0 or "640", paths such as
            "images\\\\a.jpg", `coco_url` instead of `file_name`, a category that only groups others. Without a list, the first
            fault is raised.
        file_name: gives the file name of an image object; None: its `file_name`, or the last part of its `coco_url`.

    Returns:
        A data set with xyxy boxes in pixels; images and categories are in the order of the file.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is not JSON with a list of `images`. Or `found` is None, and there is a fault: an id or the name of
            a category is used twice, an annotation refers to an image or a category that does not exist, or an annotation has
            no `bbox` (because it has only a caption or keypoints). The message names the file and the id.
    """
    path = Path(path)
    faults = Faults(path, found)
    root = parse(read_text(path), path, faults=faults)
    with located(path):
        lists = _lists(root)
    images, unclear_images = _one_per_id("image", "file_name", _objects("images", lists["images"], faults), faults)
    annotations, _ = _one_per_id("annotation", "", _objects("annotations", lists["annotations"], faults), faults)
    given, unclear_names = _one_per_id("category", "name", _objects("categories", lists["categories"], faults), faults)
    categories, name_of = _read_categories(given, annotations, faults)

    boxes_of: dict[Id, list[Box]] = {image["id"]: [] for image in images if "id" in image}
    boxes_of = {key: boxes for key, boxes in boxes_of.items() if key not in unclear_images}
    name_of = {key: name for key, name in name_of.items() if key not in unclear_names}
    for position, annotation in enumerate(annotations):
        place = _place("annotation", annotation, position)
        with faults.costing("object unreadable", place):
            boxes = _lookup(boxes_of, annotation, "image_id", faults.mender(place))
            boxes.append(_read_box(annotation, name_of, place, faults))
    records = []
    for position, image in enumerate(images):
        place = _place("image", image, position)
        with faults.costing("annotation unreadable", place):
            boxes = boxes_of.get(image["id"], ()) if "id" in image else ()
            records.append(_read_image(image, boxes, place, faults, file_name or _file_name))

    names = [category["name"] for category in categories]
    extra = without(root, "images", "annotations", "categories")
    if categories != plain_categories(names):
        extra["categories"] = categories
    return Dataset(tuple(records), tuple(names), extra)


def _lists(root: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The three lists of a COCO file; those that may be missing are empty then.

    Raises:
        ValueError: the file has no list of images, or is the `detections.json` of `gdino detect`.
    """
    if {"phrases", "films", "failed"} <= root.keys():
        raise ValueError("expected COCO, got the detections.json of gdino detect; use detections.coco.json beside it")
    names = ("images", "annotations", "categories")
    return {name: take(root, name, list) if name in root or name == "images" else [] for name in names}


def plain_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """The categories that `write` makes from names alone."""
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def is_id(value: object) -> TypeGuard[Id]:
    """True for an integer or a text."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _objects(name: str, values: list[Any], faults: Faults) -> list[dict[str, Any]]:
    kind = "object unreadable" if name == "annotations" else "annotation unreadable"
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            faults.add(kind, f"expected {name}[{index}] to be an object, got {value!r:.40}")
    return [value for value in values if isinstance(value, dict)]


def _one_per_id(
    kind: str, name: str, items: Iterable[dict[str, Any]], faults: Faults
) -> tuple[list[dict[str, Any]], set[Id]]:
    """Make ids integers or texts that occur only once.

    Args:
        kind: the kind of the items, for messages.
        name: a field. If two items share an id and the value of this field, the second item is left out as a repetition. ""
            if no such field exists.
        items: the images, annotations or categories of the file.
        faults: receives the faults.

    Returns:
        (the items, without the id where it was used before; ids of different items, which are ambiguous).
    """
    kept: list[dict[str, Any]] = []
    first: dict[Id, dict[str, Any]] = {}
    unclear: set[Id] = set()
    for position, item in enumerate(items):
        if "id" in item:
            item = _with_sound_id(kind, item, position, faults)
        if item.get("id") in first:
            item_id = item["id"]
            faults.add("detail unreadable", f"expected each {kind} id once, got more than once: {item_id!r}")
            if name and item.get(name) == first[item_id].get(name):
                continue
            if name:
                unclear.add(item_id)
            item = without(item, "id")
        elif "id" in item:
            first[item["id"]] = item
        kept.append(item)
    return kept, unclear


def _with_sound_id(kind: str, item: dict[str, Any], position: int, faults: Faults) -> dict[str, Any]:
    value = item["id"]
    if is_id(value):
        return item
    problem = f"{kind} number {position + 1}: expected an integer or text as id, got {value!r:.40}"
    number = as_whole_number(value)
    if number is None:
        faults.add("detail unreadable", problem)
        return without(item, "id")
    faults.mend(problem, number)
    return item | {"id": number}


def _read_categories(
    given: list[dict[str, Any]], annotations: Iterable[Mapping[str, Any]], faults: Faults
) -> tuple[list[dict[str, Any]], dict[Id, str]]:
    """Check the names of the categories.

    Returns:
        (the categories, each name once; {id: name} for all ids of the file, also those of left out categories).
    """
    used = {_spelling(annotation.get("category_id")) for annotation in annotations}
    named: list[dict[str, Any]] = []
    for position, category in enumerate(given):
        with faults.costing("detail unreadable", _place("category", category, position)):
            if not take(category, "name", str).strip():
                raise ValueError(f"expected a name, got {category['name']!r}")
            named.append(category)
    name_of = {category["id"]: category["name"] for category in named if "id" in category}
    in_use = [category for category in named if _spelling(category.get("id")) in used]
    unused = [category for category in named if _spelling(category.get("id")) not in used]
    groups = Counter(str(category.get("supercategory")) for category in named)
    chosen: dict[str, dict[str, Any]] = {}
    for category in in_use + unused:  # of two categories with one name, keep the one that is in use
        name = category["name"]
        members = groups[name] - (category.get("supercategory") == name)
        if name in chosen:
            faults.mend(f"expected each category name once, got more than once: {name!r}", chosen[name].get("id"))
        elif members and _spelling(category.get("id")) not in used:  # Roboflow's files begin with such a category
            faults.mend(f"category {name!r} has no box and only groups other categories", "no category")
        else:
            chosen[name] = category
    return [category for category in named if chosen.get(category["name"]) is category], name_of


def _spelling(value: object) -> str:
    """A key that is equal for the ids 3, 3.0 and "3"."""
    number = as_whole_number(value)
    return str(value if number is None else number)


def _read_image(
    image: Mapping[str, Any], boxes: Sequence[Box], place: str, faults: Faults, file_name: FileName
) -> ImageRecord:
    mend = faults.mender(place)
    caption = None
    if "caption" in image:
        with faults.costing("detail unreadable", place):
            caption = take(image, "caption", str)
    return ImageRecord(
        file_name=file_name(image, mend),
        width=take_whole(image, "width", mend),
        height=take_whole(image, "height", mend),
        boxes=tuple(boxes),
        caption=caption,
        extra=without(image, "file_name", "width", "height", "caption"),
    )


def _file_name(image: Mapping[str, Any], mend: Mend) -> str:
    address = image.get("coco_url")
    if "file_name" not in image and isinstance(address, str):  # as in LVIS
        name = address.partition("?")[0].rpartition("/")[2]
        mend("expected 'file_name', got only 'coco_url'", name)
        return plain_file_name(name, mend)
    return plain_file_name(take(image, "file_name", str), mend)


def _read_box(annotation: Mapping[str, Any], name_of: Mapping[Id, str], place: str, faults: Faults) -> Box:
    mend = faults.mender(place)
    x, y, width, height = bbox = four_numbers(annotation.get("bbox"), mend)
    x2, y2 = x + width, y + height
    extra = without(annotation, "image_id", "category_id", "bbox")
    if ORIGINAL_BBOX in extra:
        del extra[ORIGINAL_BBOX]
        detail = f"the extra field {ORIGINAL_BBOX!r} has a name that data_prep itself uses; rename or drop it"
        faults.add("detail unreadable", f"{place}: {detail}")
    # repr distinguishes 2 from 2.0, so that integers are written as integers again
    if repr([x2 - x, y2 - y]) != repr([width, height]):
        extra[ORIGINAL_BBOX] = bbox
    for name, read_text_as in (("iscrowd", parse_flag), ("area", parse_number)):
        if isinstance(extra.get(name), str):
            text = extra.pop(name)
            with faults.costing("detail unreadable", place):
                value = int(number) if isinstance(number := read_text_as(text), bool) else number
                mend(f"expected {name!r} to be a number, got {text!r:.40}", value)
                extra[name] = value
    return Box(_lookup(name_of, annotation, "category_id", mend), x, y, x2, y2, extra)


def _lookup(values: Mapping[Id, Any], annotation: Mapping[str, Any], name: str, mend: Mend) -> Any:
    key = annotation.get(name)
    if is_id(key) and key in values:
        return values[key]
    problem = (
        f"expected {name!r} to be one of {len(values)} {name.removesuffix('_id')} ids of the file, got {key!r:.40}"
    )
    number = as_whole_number(key)
    spellings: tuple[Id, ...] = () if number is None else (number, str(number))
    for other in spellings:
        if other in values:
            mend(problem, other)
            return values[other]
    raise ValueError(problem)


def _place(kind: str, item: Mapping[str, Any], position: int) -> str:
    return f"{kind} {item['id']!r}" if "id" in item else f"{kind} number {position + 1}"
