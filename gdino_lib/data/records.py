"""What a data set needs to know of records: their classes, their objects, their images."""

from __future__ import annotations

import hashlib
import os
import warnings
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
        # a loader's worker hands its whole traceback over as the message: the reason is its last line
        super().__init__(message.strip().splitlines()[-1].rpartition("ImageError: ")[2])


def class_names(records: data_prep.Dataset) -> tuple[str, ...]:
    """The detection classes: the categories in their order, then further labels of detection records, sorted."""
    used = {box.label for record in records.images if record.caption is None for box in record.boxes}
    return (*records.categories, *sorted(used - set(records.categories)))


def check_distinct(classes: Iterable[str]) -> None:
    """Refuse classes that are one to the model, such as "Cat" and "cat", "with_mask" and "with mask".

    Raises:
        ValueError: naming the two.
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
        ValueError: `iscrowd` is no flag, see `data_prep.records.parse_flag`.
    """
    return parse_flag(box.extra.get("iscrowd"))


def phrases_merged(record: ImageRecord) -> ImageRecord:
    """A grounding record in which phrases that tokenise alike are spelled alike, as the first of them."""
    if record.caption is None:
        return record
    first: dict[tuple[int, ...], str] = {}
    boxes = [replace(box, label=first.setdefault(word_pieces(box.label), box.label)) for box in record.boxes]
    return replace(record, boxes=tuple(boxes))


def check_single(dataset: data_prep.Dataset) -> None:
    """Refuse two detection records for one image: what one of them shows would be absent by the other.

    Raises:
        ValueError: naming the image.
    """
    _, seconds = first_records(dataset)
    if seconds:
        raise ValueError(f"two records for the image {seconds[0].file!r}; expected one with all its boxes")


def warn_of_crowded_images(records: Iterable[ImageRecord], queries: int) -> None:
    """Warn of images with more boxes than a model has queries: it can't learn or find all of them."""
    crowded = [record for record in records if len(single_objects(record)) > queries]
    if crowded:
        warnings.warn(
            f"{len(crowded)} images have more boxes than the model has queries ({queries}), so some boxes are never learnt; "
            f"the first is {crowded[0].file_name!r} with {len(single_objects(crowded[0]))}",
            stacklevel=3,
        )


def check_files(records: Sequence[ImageRecord], images: Path) -> None:
    """See that the images are there.

    Raises:
        FileNotFoundError: the folder or an image is not.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder, expected the images")
    missing = [name for name in dict.fromkeys(r.file_name for r in records) if not image_path(images, name).is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"'{images / missing[0]}': no such file, expected an image{others}")


def pictures_digest(records: Sequence[ImageRecord], images: Path) -> str:
    """SHA-256 over the bytes of all pictures, in the order of the records: other pixels, another digest.

    Neither size nor time of a file tells whether its pixels are the same, so that each file is read whole: once a run, on
    as many threads as there are cores, and without decoding, which is what makes reading pictures slow.

    Raises:
        ImageError: a file that cannot be read.
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
    """The record's image, upright, RGB, of the size that its boxes were drawn in.

    Raises:
        ImageError: it is missing, cannot be decoded, or has another size; named, in one line.
    """
    path = image_path(images, record.file_name)
    try:
        image = read_image(path)
    except (OSError, ValueError) as error:
        raise ImageError(str(error)) from None
    if image.size != (record.width, record.height):
        raise ImageError(
            f"'{path}': its boxes were drawn in {record.width} x {record.height} pixels, "
            f"the upright image has {image.width} x {image.height}; mend the size and the boxes"
        )
    return image
