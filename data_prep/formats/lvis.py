"""LVIS: COCO's JSON for a federated data set, in which an image is annotated for some of the classes only.

An image says in `neg_category_ids` which classes it certainly does not show, and in `not_exhaustive_category_ids` for which
classes only some of its objects have a box. A category has a `frequency` by the number of training images that show it: "r"
(rare, up to 10), "c" (common, up to 100) or "f" (frequent). Images are those of COCO 2017; `coco_url` names the file.

Source: Gupta, Dollar, Girshick: LVIS, arXiv 1908.03195, and the files of https://www.lvisdataset.org.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from data_prep.findings import Finding
from data_prep.formats import coco
from data_prep.formats.fields import Mend, located, plain_file_name, take
from data_prep.records import Dataset

FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent."""
NEGATIVE = "neg_category_ids"
"""Name in `ImageRecord.extra` of the ids of the classes that the image does not show."""
NOT_EXHAUSTIVE = "not_exhaustive_category_ids"
"""Name in `ImageRecord.extra` of the ids of the classes of which the image may show objects without a box."""


def read(path: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read an LVIS file, such as `lvis_v1_val.json`.

    Args:
        path: the file.
        found: list to which faults of COCO's fields are added, as by `coco.read`. Faults of LVIS's own fields are always raised.

    Returns:
        A data set as `coco.read` gives it. The file names have their folder, as in "val2017/000000397133.jpg", because the
        validation set has images of two folders. `extra["categories"]` has the ids and frequencies of the categories.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is no COCO file, an image lacks `coco_url` or one of its two lists, or a category its frequency.
    """
    path = Path(path)
    dataset = coco.read(path, found, _file_name)
    with located(path):
        categories = dataset.extra.get("categories")
        if not categories:
            raise ValueError("expected LVIS's categories with a 'frequency', got none")
        for category in categories:
            if category.get("frequency") not in FREQUENCIES:
                given = repr(category.get("frequency"))
                raise ValueError(f"category {category['name']!r}: expected 'frequency' to be r, c or f, got {given}")
        known = {category["id"] for category in categories if "id" in category}
        for record in dataset.images:
            for name in (NEGATIVE, NOT_EXHAUSTIVE):
                with located(f"image {record.file_name!r}"):
                    if unknown := [key for key in take(record.extra, name, list) if key not in known]:
                        raise ValueError(f"expected {name!r} to be category ids of the file, got {unknown[0]!r}")
    return dataset


def write(dataset: Dataset, path: Path | str) -> None:
    """Write an LVIS file from a data set of any format.

    Fields that LVIS requires are added if `extra` lacks them. An image without the two lists is taken as labelled for every
    class: it certainly does not show the classes of which it has no box. A category without a `frequency` gets it by the number
    of images that have a box of it. `coco_url` is the file name with the escapes of an address; more than one folder of the
    name becomes one part, because LVIS's tools use the last two parts of the address alone.

    Raises:
        ValueError: there is no category, or as `coco.write`.
        OSError: as `coco.write`.
    """
    if not dataset.class_counts:
        raise ValueError("LVIS needs categories, got a data set without any")
    shown = Counter(label for image in dataset.images for label in {box.label for box in image.boxes})
    described = {each["name"]: each for each in coco.categories_of(dataset)}
    categories = []
    for name, category in described.items():
        frequency = "r" if shown[name] <= 10 else "c" if shown[name] <= 100 else "f"
        categories.append(category | {"frequency": _sound_frequency(category) or frequency})
    images = []
    for image in dataset.images:
        labels = {box.label for box in image.boxes}
        absent = [each["id"] for name, each in described.items() if name not in labels]
        added = {NEGATIVE: absent, NOT_EXHAUSTIVE: [], "coco_url": _address(image.file_name)}
        images.append(replace(image, extra={**added, **image.extra}))
    coco.write(Dataset(tuple(images), tuple(described), {**dataset.extra, "categories": categories}), path)


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that LVIS has no place for, as `csv_table.left_out` counts them.

    They are those of COCO; LVIS's own lists where they are no category ids of the data set; and a `coco_url` that does not end
    in the file name, as of LVIS's images by `read`.
    """
    lost = Counter(coco.left_out(dataset))
    known = [each["id"] for each in coco.categories_of(dataset)] if dataset.class_counts else []
    for image in dataset.images:
        lost.update(
            name
            for name in (NEGATIVE, NOT_EXHAUSTIVE)
            if name in image.extra
            and not (isinstance(ids := image.extra[name], list) and all(key in known for key in ids))
        )
        if "coco_url" in image.extra and not _names(image.extra["coco_url"], image.file_name):
            lost["coco_url"] += 1
    return dict(lost)


def is_lvis(path: Path) -> bool:
    """True if a file of JSON has LVIS's list of absent classes; the file is searched, not parsed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(f'"{NEGATIVE}"'.encode()) >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _sound_frequency(category: Mapping[str, Any]) -> str | None:
    return category.get("frequency") if category.get("frequency") in FREQUENCIES else None


def _names(address: object, file_name: str) -> bool:
    return isinstance(address, str) and _file_name({"coco_url": address}, lambda *_: None) == file_name


def _file_name(image: Mapping[str, Any], mend: Mend) -> str:
    """The folder and the name at the end of `coco_url`."""
    parts = urlsplit(take(image, "coco_url", str)).path.split("/")
    return plain_file_name(unquote("/".join(parts[-2:])), mend)


def _address(file_name: str) -> str:
    """An address from which `_file_name` gets the file name back."""
    return "/".join(quote(part, safe="") for part in file_name.rsplit("/", 1))
