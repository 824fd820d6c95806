"""Detect in a whole data set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import data_prep
from data_prep import ImageRecord
from data_prep.audit import repair
from gdino_lib.data.records import check_distinct, class_names, open_image

if TYPE_CHECKING:
    import supervision as sv

    from gdino_lib.detect.detector import Detector

MAX_PAIRS = 300  # of a box and a class that are evaluated per image, as in the official evaluation


def detect_all(
    detector: Detector,
    dataset: data_prep.Dataset,
    images: Path | str,
    *,
    phrases: Sequence[str] | None = None,
    negatives: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, sv.Detections]:
    """Ask every detection record for all classes, and keep the 300 surest pairs of a box and a class, however unsure.

    So a box counts once for each class that it may be, as in the official evaluation. A user sees its best class alone,
    which `data["best"]` tells: `match_all` and all that builds upon it go by that.

    Args:
        images: folder that the file names are relative to.
        phrases: the classes; None: those of `dataset`. For a part of a data set: those of the whole.
        negatives: ask an image for its own classes and so many others, drawn by `seed` and file name; None: for all. With
            hundreds of classes that is faster, and easier: there is less to mistake a thing for.
        batch_size: images read ahead and given to the detector at once.

    Returns:
        For each file name the boxes found; `class_id` is the index in `phrases`.

    Raises:
        ImageError: an image that cannot be used, named.
        ValueError: no classes, or two that are the same words to the model; two records for one image.
    """
    records = detection_records(dataset)
    names = list(class_names(dataset) if phrases is None else phrases)
    check_distinct(names)  # the detector would report both as the first
    phrases_of = None
    if negatives is not None:
        phrases_of = {record.file_name: _own_and_some_others(record, names, negatives, seed) for record in records}
    found: dict[str, sv.Detections] = {}
    for record, result in detect_records(
        detector,
        records,
        images,
        names if phrases_of is None else phrases_of,
        title="detecting",
        batch_size=batch_size,
        progress=progress,
        box_threshold=0.0,
        text_threshold=0.0,
        top_k=MAX_PAIRS,
        every_phrase=True,
    ):
        if phrases_of is not None and len(result):
            result.class_id = np.array([names.index(name) for name in result.data["class_name"]])
        found[record.file_name] = result
    return found


def detection_records(dataset: data_prep.Dataset) -> list[ImageRecord]:
    """The records without a caption, repaired.

    Raises:
        ValueError: two of them for one image.
    """
    records = [repair(record)[0] for record in dataset.images if record.caption is None]
    seen: set[str] = set()
    for record in records:
        if record.file_name in seen:
            raise ValueError(f"two records for the image {record.file_name!r}; expected one with all its boxes")
        seen.add(record.file_name)
    return records


def detect_records(
    detector: Detector,
    records: Sequence[ImageRecord],
    images: Path | str,
    phrases: list[str] | dict[str, list[str]],
    *,
    title: str,
    batch_size: int,
    progress: bool,
    **options: Any,
) -> Iterator[tuple[ImageRecord, sv.Detections]]:
    """Ask each record's image for phrases, and give the record with the boxes found.

    Args:
        images: folder that the file names are relative to.
        phrases: for all images, or {file name: phrases for this image}.
        title: of the progress bar.
        batch_size: images read ahead and given to the detector at once.
        options: of the detector.

    Raises:
        ImageError: an image that cannot be used.
    """
    with progress_bar(len(records), title, progress) as bar:
        for part, pictures in read_ahead(records, images, batch_size):
            asked = phrases if isinstance(phrases, list) else [phrases[record.file_name] for record in part]
            results = detector(pictures, asked, **options)
            assert isinstance(results, list)  # a detector answers a list of images with a list
            yield from zip(part, results, strict=True)
            bar.update(len(part))


def read_ahead(
    records: Sequence[ImageRecord], images: Path | str, batch_size: int
) -> Iterator[tuple[Sequence[ImageRecord], list[Image.Image]]]:
    """Groups of records with their images; the next group is read while the caller works on this one.

    Raises:
        ImageError: an image that cannot be used.
    """
    parts = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    with ThreadPoolExecutor(4) as pool:  # Pillow lets go of the interpreter's lock while it decodes
        coming = None
        for number, part in enumerate(parts):
            reading = coming or _submit(pool, part, images)
            coming = _submit(pool, parts[number + 1], images) if number + 1 < len(parts) else None
            yield part, [image.result() for image in reading]


def progress_bar(total: int, title: str, progress: bool) -> tqdm:
    """A bar of images, on a terminal and after a second."""
    return tqdm(total=total, desc=title, unit=" images", delay=1, disable=None if progress else True)


def _own_and_some_others(record: ImageRecord, names: Sequence[str], negatives: int, seed: int) -> list[str]:
    """The record's own classes and some others, at least one of all, in an order that says nothing."""
    own = {box.label for box in record.boxes}
    others = [name for name in names if name not in own]
    drawn = random.Random(f"{seed}/{record.file_name}").sample(
        others, min(negatives if own else max(negatives, 1), len(others))
    )
    return sorted([*own, *drawn])


def _submit(pool: ThreadPoolExecutor, part: Sequence[ImageRecord], images: Path | str) -> list[Future[Image.Image]]:
    return [pool.submit(open_image, record, images) for record in part]
