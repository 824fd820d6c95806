"""YOLO, as Ultralytics, Roboflow and Darknet write it: a `data.yaml`, and one .txt file per image with a line per box.

A line is `class x y width height`: the class index, then the centre and the size of the box as shares of the image's width and
height. A line with a class index and three or more points is a polygon. Its box is the one around it, and the polygon is kept as
`segmentation` in `Box.extra`. A sixth value is the `score`. The keypoints of pose data sets are left out.

An image without a label file has no boxes. The split of each image ("train", "val", "test") is `split` in `ImageRecord.extra`.
The files have no image sizes: these come from the images, upright as the trainers turn them. Coordinates are rounded to 1e-6
pixels; a box may extend beyond its image, until `data_prep.audit` clips it.

Source: https://docs.ultralytics.com/datasets/detect and /datasets/segment.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import yaml
from tqdm import tqdm

from data_prep.atomic import atomic_folder, read_manifest, write_manifest
from data_prep.findings import Faults, Finding
from data_prep.formats.file_per_image import paths_of
from data_prep.formats.json_text import read_text
from data_prep.formats.polygons import SEGMENTATION, Point, check_share, hull, pixels, polygon_of, segmentation
from data_prep.formats.yolo_folders import (
    SPLITS,
    YAML_NAME,
    Listing,
    image_folder,
    label_path,
    label_place,
    read_listing,
    yaml_path,
)
from data_prep.pictures import search, upright_size
from data_prep.records import Box, Dataset, ImageRecord, as_whole_number, parse_number

__all__ = ["SPLIT", "SPLITS", "image_folder", "left_out", "read", "write", "yaml_path"]

SPLIT = "split"
"""Field of `ImageRecord.extra` for the part of the data set that an image belongs to."""


def read(path: Path | str, found: list[Finding] | None = None, images: Path | None = None) -> Dataset:
    """Read all splits of a data set.

    Args:
        path: the .yaml file, or a folder with a `data.yaml`. See `yolo_folders.read_listing` for its dialects.
        found: list to which faults are added. Only the image or the line with the fault is left out. Without a list, the
            first fault is raised.
        images: folder that the file names of the records are relative to; None: see `yolo_folders.read_listing`.

    Returns:
        A data set with the splits one after the other; categories are in the order of the class indices.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is not YAML with `names` and a split, or no image has a label file. Or `found` is None, and an
            image is missing, or a line is no box of a known class. The message begins with the file and the line.
    """
    path = yaml_path(path)
    faults = Faults(path, found)
    listing = read_listing(path, faults, images)
    labels = [label_path(image) for _, image in listing.files]
    if labels and not any(label.is_file() for label in labels):
        raise ValueError(f"{path}: none of {len(labels)} images has a label file; expected {labels[0]} for the first")
    records = []
    rows = zip(listing.files, labels, strict=True)
    for (split, image), label in tqdm(rows, total=len(labels), desc="reading", unit=" files", delay=1, disable=None):
        record = None
        with faults.costing("file without image"):
            name = Path(os.path.relpath(image, listing.images)).as_posix()
            record = ImageRecord(name, *upright_size(image), extra={SPLIT: split})
        if record is not None:
            boxes = _read_labels(label, record, listing, faults)
            records += [] if boxes is None else [replace(record, boxes=boxes)]
    _note_rest(listing.folders, set(labels), faults)
    return Dataset(tuple(records), tuple(listing.names.values()))


def write(dataset: Dataset, folder: Path | str, overwrite: bool = False) -> None:
    """Write `data.yaml`, a .txt list for each split, and `labels/` into a new folder. Put the images into its `images/`.

    `sub/a.jpg` has its boxes in `labels/sub/a.txt`, and is expected at `images/sub/a.jpg`. The split of an image is its
    `extra["split"]`, or "train". Lines are polygons if every box of the data set has one polygon, else boxes, because the
    trainers read a file with both kinds wrongly. A hidden file, `data_prep.atomic.MANIFEST`, lists the files for a later
    `overwrite`.

    Raises:
        ValueError: two images share a stem, or there is no class.
        FileExistsError: `folder` is not empty and `overwrite` is False, or it holds a file that no call wrote.
    """
    names = list(dataset.class_counts)
    if not names:
        raise ValueError("YOLO needs class names, got a data set without any")
    index = {name: number for number, name in enumerate(names)}
    with_polygons = _has_polygons(dataset)
    lists: dict[str, list[str]] = defaultdict(list)
    paths_of(dataset, ".txt")  # refuses images that share a stem
    with atomic_folder(folder, overwrite, read_manifest(folder)) as aside:
        for record in dataset.images:
            image = PurePosixPath("images") / record.file_name
            lists[record.extra[SPLIT] if _has_split(record) else SPLITS[0]].append(f"./{image}\n")
            label = aside / label_place(Path(image))
            label.parent.mkdir(parents=True, exist_ok=True)
            lines = [_line(box, index[box.label], record, with_polygons) for box in record.boxes]
            label.write_text("".join(lines), encoding="utf-8", newline="\n")
        splits = [split for split in SPLITS if lists[split]] or [SPLITS[0]]
        for split in splits:
            (aside / f"{split}.txt").write_text("".join(lists[split]), encoding="utf-8", newline="\n")
        document = {split: f"{split}.txt" for split in splits} | {"nc": len(names), "names": dict(enumerate(names))}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        (aside / YAML_NAME).write_text(text, encoding="utf-8", newline="\n")
        write_manifest(aside)


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that YOLO has no place for, as `csv_table.left_out` counts them: all but `split` and polygons."""
    with_polygons = _has_polygons(dataset)
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(name for name in image.extra if name != SPLIT or not _has_split(image))
        lost.update(name for box in image.boxes for name in box.extra if name != SEGMENTATION or not with_polygons)
        if image.caption is not None:
            lost["caption"] += 1
    return dict(lost)


def _has_split(image: ImageRecord) -> bool:
    return image.extra.get(SPLIT) in SPLITS


def _has_polygons(dataset: Dataset) -> bool:
    boxes = [box for image in dataset.images for box in image.boxes]
    return bool(boxes) and all(polygon_of(box) is not None for box in boxes)


def _read_labels(path: Path, image: ImageRecord, listing: Listing, faults: Faults) -> tuple[Box, ...] | None:
    """The boxes of an image; None if its label file cannot be read at all, which does not mean that it has no boxes."""
    if not path.is_file():
        return ()
    own = Faults(path, faults.found, Path(os.path.relpath(path, faults.path.parent)).as_posix(), faults.strict)
    with own.costing("annotation unreadable"):
        boxes = []
        for line, text in enumerate(read_text(path).splitlines(), start=1):
            if text.strip():
                with own.costing("object unreadable", line=line):
                    boxes.append(_read_line(text.split(), image, listing, own, line))
        return tuple(boxes)
    return None


def _read_line(values: Sequence[str], image: ImageRecord, listing: Listing, faults: Faults, line: int) -> Box:
    index = as_whole_number(values[0])
    if index is None or index not in listing.names:
        raise ValueError(f"expected a class index of {_known(listing.names)}, got {values[0][:40]!r}")
    if not values[0].isdecimal():
        faults.mend(f"expected a class index, got {values[0][:40]!r}", index, line)
    if listing.keypoints and len(values) == 5 + listing.keypoints:
        values = values[:5]
    if len(values) < 5 or (len(values) > 6 and not len(values) % 2):
        raise ValueError(f"expected a class index with 4 numbers, or with three or more points, got {len(values) - 1}")
    numbers = [parse_number(value) for value in values[1:]]
    shares = numbers[:4] if len(values) <= 6 else numbers
    for number in shares:
        check_share(number, "each coordinate")
    label, extra = listing.names[index], {}
    if len(values) > 6:
        points: list[Point] = [
            (pixels(x * image.width), pixels(y * image.height)) for x, y in zip(shares[::2], shares[1::2], strict=True)
        ]
        return Box(label, *hull(points), segmentation(points))
    if len(values) == 6:
        extra["score"] = numbers[4]
    x, y, width, height = shares
    x1, x2 = (pixels((x + side * width / 2) * image.width) for side in (-1, 1))
    y1, y2 = (pixels((y + side * height / 2) * image.height) for side in (-1, 1))
    return Box(label, x1, y1, x2, y2, extra)


def _known(names: Mapping[int, str]) -> str:
    return f"{min(names)} to {max(names)}" if len(names) > 1 else str(min(names))


def _line(box: Box, index: int, image: ImageRecord, with_polygons: bool) -> str:
    points = polygon_of(box) if with_polygons else None
    if points is None:
        x1, y1, x2, y2 = box.xyxy
        shares = [(x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height]
        shares += [(x2 - x1) / image.width, (y2 - y1) / image.height]
    else:
        shares = [share for x, y in points for share in (x / image.width, y / image.height)]
    return f"{index} {' '.join(repr(float(share)) for share in shares)}\n"


def _note_rest(folders: Sequence[Path], labels: set[Path], faults: Faults) -> None:
    """Add a fault for each label file of the image folders that belongs to no image."""
    for folder in folders:
        place = label_place(folder / "a.jpg").parent
        if place == folder or not place.is_dir():
            continue
        for name in search(place, frozenset({".txt"}), frozenset({".cache", ".npy"})).names:
            if place / name not in labels and Path(name).name != "classes.txt":  # labelImg's list of classes
                file = Path(os.path.relpath(place / name, faults.path.parent)).as_posix()
                Faults(place / name, faults.found, file, faults.strict).add(
                    "file without image", f"there is no image for it in {folder}"
                )
