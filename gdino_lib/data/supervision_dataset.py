"""`supervision.DetectionDataset` from our records, and our records from it.

Only the class is supervision's; all files are read and written by `data_prep.formats`. The readers and writers of
supervision 0.31 are not used: they stop at the first fault instead of leaving out one line, keep box coordinates in float32 and no
further fields, and write each image under the last part of its name, which refuses equal names in two sub-folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from data_prep.formats.fields import check_unique, located, without
from data_prep.pictures import image_path, upright_size
from data_prep.records import Box, Dataset, ImageRecord

CROWD = "iscrowd"


def to_supervision(dataset: Dataset, images: Path | str) -> sv.DetectionDataset:
    """A `DetectionDataset` with the boxes of a data set; the images are loaded when they are asked for.

    Coordinates become float32. `iscrowd` is kept as int64 in `Detections.data`, if any box of the data set has it; no other
    field of `extra` and no caption has a place.

    Args:
        dataset: the data set, with one record per image.
        images: folder that the file names are relative to.

    Raises:
        ValueError: two records have the same image.
    """
    check_unique((record.file_name for record in dataset.images), "image")
    classes = list(dataset.class_counts)
    index = {name: number for number, name in enumerate(classes)}
    has_crowds = any(CROWD in box.extra for record in dataset.images for box in record.boxes)
    annotations: dict[str, sv.Detections] = {}
    for record in dataset.images:
        boxes = record.boxes
        data: dict[str, Any] = {}
        if has_crowds:
            data[CROWD] = np.array([int(box.extra.get(CROWD, 0)) for box in boxes], dtype=np.int64)
        annotations[str(image_path(images, record.file_name))] = sv.Detections(
            xyxy=np.array([box.xyxy for box in boxes], dtype=np.float32).reshape(-1, 4),
            class_id=np.array([index[box.label] for box in boxes], dtype=np.int64),
            data=data,
        )
    return sv.DetectionDataset(classes=classes, images=list(annotations), annotations=annotations)


def from_supervision(dataset: sv.DetectionDataset, images: Path | str) -> Dataset:
    """The records of a `DetectionDataset`.

    `confidence` becomes `score` in `Box.extra`, and each value of `Detections.data` is kept there under its name if it is a
    number, a text or a truth value. Masks and tracker ids are not kept.

    Args:
        dataset: a data set whose image paths exist, because their sizes are read from the files.
        images: folder that the file names become relative to.

    Raises:
        ValueError: an image is not inside `images` or cannot be read, or a box has no class.
    """
    records = []
    for path in dataset.image_paths:
        with located(path):
            try:
                name = Path(path).absolute().relative_to(Path(images).absolute()).as_posix()
            except ValueError:
                raise ValueError(f"expected an image inside {images}") from None
            found = dataset.annotations[path]
            boxes = tuple(_box(found, number, dataset.classes) for number in range(len(found)))
            records.append(ImageRecord(name, *upright_size(Path(path)), boxes))
    return Dataset(tuple(records), tuple(dataset.classes))


def _box(found: sv.Detections, number: int, classes: list[str]) -> Box:
    if found.class_id is None:
        raise ValueError(f"expected a class for each box, got none for box {number + 1}")
    extra: dict[str, Any] = {}
    for name, values in without(found.data, "class_name").items():
        value = values[number].item() if isinstance(values[number], np.generic) else values[number]
        if isinstance(value, (str, int, float)):
            extra[name] = value
    if found.confidence is not None:
        extra["score"] = float(found.confidence[number])
    x1, y1, x2, y2 = (float(value) for value in found.xyxy[number])
    return Box(classes[int(found.class_id[number])], x1, y1, x2, y2, extra)
