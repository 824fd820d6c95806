"""What a data set reads from records: their classes, their single objects and their images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import data_prep
from data_prep import ImageRecord
from data_prep.audit import first_records
from data_prep.pictures import image_path
from data_prep.records import Box, parse_flag
from gdino_lib.images import read_image
from gdino_lib.messages import one_line
from gdino_lib.prompts import word_pieces
from gdino_lib.weights.files import file_digest


class ImageError(ValueError):
    """An image that is missing, cannot be decoded, or has another size than its boxes were drawn in; one line."""

    def __init__(self, message: str) -> None:
        # a loader's worker passes its whole traceback as the message; the last line has the reason
        super().__init__(message.strip().splitlines()[-1].rpartition("ImageError: ")[2])


def class_names(records: data_prep.Dataset) -> tuple[str, ...]:
    """The detection classes: the categories in their order, then further labels of detection records, sorted."""
    used = {box.label for record in records.images if record.caption is None for box in record.boxes}
    return (*records.categories, *sorted(used - set(records.categories)))


def check_distinct(classes: Iterable[str]) -> None:
    """Refuse two classes that the model cannot tell apart, such as "Cat" and "cat", or "with_mask" and "with mask".

    Raises:
        ValueError: two classes tokenise alike; the message names both.
    """
    first: dict[tuple[int, ...], str] = {}
    for name in classes:
        twin = first.setdefault(word_pieces(name), name)
        if twin != name:
            raise ValueError(f"the classes {twin!r} and {name!r} are the same words to the model; rename or join them")


def single_objects(record: ImageRecord) -> list[Box]:
    """The boxes of single objects: all but crowds."""
    return [box for box in record.boxes if not is_crowd(box)]


def is_crowd(box: Box) -> bool:
    """True for COCO's boxes around many objects at once.

    Raises:
        ValueError: `iscrowd` is not a flag, see `data_prep.records.parse_flag`.
    """
    return parse_flag(box.extra.get("iscrowd"))


def phrases_merged(record: ImageRecord) -> ImageRecord:
    """The same record; in a grounding record, phrases that tokenise alike get the spelling of the first of them."""
    if record.caption is None:
        return record
    first: dict[tuple[int, ...], str] = {}
    boxes = [replace(box, label=first.setdefault(word_pieces(box.label), box.label)) for box in record.boxes]
    return replace(record, boxes=tuple(boxes))


def check_single(dataset: data_prep.Dataset) -> None:
    """Refuse two detection records for one image: a class that only one of them has would count as absent in the other.

    Raises:
        ValueError: an image has two; the message names it.
    """
    _, seconds = first_records(dataset)
    if seconds:
        raise ValueError(f"two records for the image {seconds[0].file!r}; expected one with all its boxes")


def crowded_images(records: Iterable[ImageRecord], queries: int) -> str | None:
    """A message on the images with more boxes than a model has queries; None if there are none.

    A model finds at most one box per query, so it can learn only some boxes of such an image.
    """
    counts = [(len(single_objects(record)), record.file_name) for record in records]
    crowded = [entry for entry in counts if entry[0] > queries]
    if not crowded:
        return None
    most, name = max(crowded)
    text = (
        f"{len(crowded)} images have more boxes than the model has queries ({queries}), so some boxes are never learned"
    )
    return f"{text}: {name} has {most}"


def check_files(records: Sequence[ImageRecord], images: Path) -> None:
    """Check that the folder of images and all images exist.

    Raises:
        FileNotFoundError: the folder or an image is missing.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder, expected the images")
    missing = [name for name in dict.fromkeys(r.file_name for r in records) if not image_path(images, name).is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"'{images / missing[0]}': no such file, expected an image{others}")


def pictures_digest(records: Sequence[ImageRecord], images: Path) -> str:
    """SHA-256 of the bytes of all pictures, in the order of the records, as hexadecimal digits.

    Neither the size nor the time of a file tells whether its pixels have changed, so every file is read whole. That happens
    once per run, on as many threads as there are cores. Nothing is decoded, which would take most of the time.

    Raises:
        ImageError: a file cannot be read.
    """
    paths = [image_path(images, name) for name in dict.fromkeys(record.file_name for record in records)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for each in tqdm(
                pool.map(file_digest, paths), "reading", len(paths), unit=" images", delay=2, leave=False, disable=None
            ):
                digest.update(each)
        except OSError as error:
            raise ImageError(one_line(error)) from None
    return digest.hexdigest()


def open_image(record: ImageRecord, images: Path | str) -> Image.Image:
    """The record's image, upright and in RGB, of the size that its boxes were drawn in.

    Raises:
        ImageError: the image is missing, cannot be decoded, or has another size; one line with its path.
    """
    path = image_path(images, record.file_name)
    try:
        image = read_image(path)
    except (OSError, ValueError) as error:
        raise ImageError(str(error)) from None
    if image.size != (record.width, record.height):
        raise ImageError(
            f"'{path}': its boxes were drawn in {record.width} x {record.height} pixels, "
            f"the upright image has {image.width} x {image.height}; correct the size and the boxes"
        )
    return image
