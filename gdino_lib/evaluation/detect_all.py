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
from gdino_lib.data.records import check_distinct, check_single, class_names, open_image
from gdino_lib.evaluation.class_prompts import EVERY_PAIR, ClassPrompts

if TYPE_CHECKING:
    import supervision as sv

    from gdino_lib.detect.detector import Detector


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
    """Look for all classes in each detection record's image, and keep the 300 pairs of box and class with the best scores.

    There is no score threshold, and a box counts once for each class, as in the official evaluation. A user sees a box with
    its best class only; `data["best"]` marks these pairs. `match_all`, and every measure computed from it, uses only them.

    Args:
        images: folder that the file names are relative to.
        phrases: the classes; None: the classes of `dataset`. For a part of a data set, pass the classes of the whole.
        negatives: look in each image only for its own classes and this many others, drawn by `seed` and file name; None:
            for all classes. With hundreds of classes this is faster. It is also easier for the detector, because an object
            can be mistaken for fewer classes.
        batch_size: number of images that are read ahead and given to the detector at once.

    Returns:
        The boxes found, by file name; `class_id` is the index in `phrases`.

    Raises:
        ImageError: an image that cannot be used; the message names it.
        ValueError: no classes, or two classes that are the same words to the model; two records for one image.
    """
    records = detection_records(dataset)
    names = list(class_names(dataset) if phrases is None else phrases)
    check_distinct(names)  # the detector would report two such classes under the first name
    found: dict[str, sv.Detections] = {}
    if negatives is None:
        prompts = ClassPrompts.build(names)
        with progress_bar(len(records), "detecting", progress) as bar:
            for part, pictures in read_ahead(records, images, batch_size):
                for record, result in zip(part, prompts.find(detector, pictures), strict=True):
                    found[record.file_name] = result
                bar.update(len(part))
        return found
    phrases_of = {record.file_name: _own_and_some_others(record, names, negatives, seed) for record in records}
    reading = {"title": "detecting", "batch_size": batch_size, "progress": progress}
    for record, result in detect_records(detector, records, images, phrases_of, **reading, **EVERY_PAIR):
        if len(result):
            result.class_id = np.array([names.index(name) for name in result.data["class_name"]])
        found[record.file_name] = result
    return found


def detection_records(dataset: data_prep.Dataset) -> list[ImageRecord]:
    """The records without a caption, repaired.

    Raises:
        ValueError: two records for one image.
    """
    check_single(dataset)
    return [repair(record)[0] for record in dataset.images if record.caption is None]


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
    """Look for phrases in each record's image, and yield the record with the boxes found.

    Args:
        images: folder that the file names are relative to.
        phrases: for all images, or {file name: phrases for this image}.
        title: of the progress bar.
        batch_size: number of images that are read ahead and given to the detector at once.
        options: keyword arguments for the detector.

    Raises:
        ImageError: an image that cannot be used.
    """
    with progress_bar(len(records), title, progress) as bar:
        for part, pictures in read_ahead(records, images, batch_size):
            asked = phrases if isinstance(phrases, list) else [phrases[record.file_name] for record in part]
            results = detector(pictures, asked, **options)
            assert isinstance(results, list)  # for a list of images, a detector returns a list
            yield from zip(part, results, strict=True)
            bar.update(len(part))


def read_ahead(
    records: Sequence[ImageRecord], images: Path | str, batch_size: int
) -> Iterator[tuple[Sequence[ImageRecord], list[Image.Image]]]:
    """Yield groups of records with their images; the next group is read while the caller works on this one.

    Raises:
        ImageError: an image that cannot be used.
    """
    parts = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    with ThreadPoolExecutor(4) as pool:  # Pillow releases the GIL while it decodes
        coming = None
        for number, part in enumerate(parts):
            reading = coming or _submit(pool, part, images)
            coming = _submit(pool, parts[number + 1], images) if number + 1 < len(parts) else None
            yield part, [image.result() for image in reading]


def progress_bar(total: int, title: str, progress: bool, done: int = 0) -> tqdm:
    """A progress bar that counts images, `done` of them already; it is shown on a terminal only, after one second."""
    return tqdm(total=total, initial=done, desc=title, unit=" images", delay=1, disable=None if progress else True)


def _own_and_some_others(record: ImageRecord, names: Sequence[str], negatives: int, seed: int) -> list[str]:
    """The record's own classes and some others, together at least one; sorted, so that the order gives nothing away."""
    own = {box.label for box in record.boxes}
    others = [name for name in names if name not in own]
    drawn = random.Random(f"{seed}/{record.file_name}").sample(
        others, min(negatives if own else max(negatives, 1), len(others))
    )
    return sorted([*own, *drawn])


def _submit(pool: ThreadPoolExecutor, part: Sequence[ImageRecord], images: Path | str) -> list[Future[Image.Image]]:
    return [pool.submit(open_image, record, images) for record in part]
