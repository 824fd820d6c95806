"""LVIS: COCO's JSON for a federated data set, in which an image is annotated for some of the classes only.

An image says in `neg_category_ids` which classes it certainly does not show, and in `not_exhaustive_category_ids` for which
classes only some of its objects have a box. A category has a `frequency` by the number of training images that show it: "r"
(rare, up to 10), "c" (common, up to 100) or "f" (frequent). Images are those of COCO 2017; `coco_url` names the file.

Source: Gupta, Dollar, Girshick: LVIS, arXiv 1908.03195, and the files of https://www.lvisdataset.org.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_prep.formats import coco
from data_prep.formats.fields import Mend, located, plain_file_name, take
from data_prep.records import Dataset

FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent."""
NEGATIVE = "neg_category_ids"
"""Name in `ImageRecord.extra` of the ids of the classes that the image does not show."""
NOT_EXHAUSTIVE = "not_exhaustive_category_ids"
"""Name in `ImageRecord.extra` of the ids of the classes of which the image may show objects without a box."""


def read(path: Path | str) -> Dataset:
    """Read an LVIS file, such as `lvis_v1_val.json`.

    Returns:
        A data set as `coco.read` gives it. The file names have their folder, as in "val2017/000000397133.jpg", because the
        validation set has images of two folders. `extra["categories"]` has the ids and frequencies of the categories.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is no COCO file, an image lacks `coco_url` or one of its two lists, or a category its frequency.
    """
    path = Path(path)
    dataset = coco.read(path, file_name=_file_name)
    with located(path):
        categories = dataset.extra.get("categories")
        if not categories:
            raise ValueError("expected LVIS's categories with a 'frequency', got none")
        for category in categories:
            if category.get("frequency") not in FREQUENCIES:
                given = repr(category.get("frequency"))
                raise ValueError(f"category {category['name']!r}: expected 'frequency' to be r, c or f, got {given}")
        known = {category["id"] for category in categories}
        for record in dataset.images:
            for name in (NEGATIVE, NOT_EXHAUSTIVE):
                with located(f"image {record.file_name!r}"):
                    if unknown := [key for key in take(record.extra, name, list) if key not in known]:
                        raise ValueError(f"expected {name!r} to be category ids of the file, got {unknown[0]!r}")
    return dataset


def _file_name(image: Mapping[str, Any], mend: Mend) -> str:
    """The folder and the name at the end of `coco_url`."""
    parts = urlsplit(take(image, "coco_url", str)).path.split("/")
    return plain_file_name("/".join(parts[-2:]), mend)
