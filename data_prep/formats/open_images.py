"""Open Images: a CSV table with one row per box, corners as shares of the image's width and height.

The columns are ImageID, Source, LabelName, Confidence, XMin, XMax, YMin, YMax, IsOccluded, IsTruncated, IsGroupOf, IsDepiction and
IsInside, in any order; others are passed over. ImageID is the image's name without its suffix. LabelName is an identifier such as
"/m/01g317", whose name is in a second table without a header, `class-descriptions-boxable.csv`; any `*class-descriptions*.csv`
beside the first table is read. A LabelName without "/" at its start is a class name.

The table has neither the sizes nor the suffixes of the images, so the folder of images is needed. Coordinates are rounded to 1e-6
pixels. A box with IsGroupOf is a crowd, as in COCO: `iscrowd` 1 in `Box.extra`. The other flags are kept there if they are 0 or 1;
-1 means unknown. `Source` is kept, and `Confidence` unless it is 1.

Source: https://storage.googleapis.com/openimages/web/download_v7.html.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.atomic import atomic_file
from data_prep.findings import Faults, Finding
from data_prep.formats.fields import lost_categories
from data_prep.formats.file_per_image import paths_of
from data_prep.formats.json_text import read_text
from data_prep.formats.polygons import check_share, pixels
from data_prep.pictures import search_images, upright_size
from data_prep.records import Box, Dataset, ImageRecord, parse_number

CORNERS = ("XMin", "XMax", "YMin", "YMax")
NEEDED = ("ImageID", "LabelName", *CORNERS)
"""The columns that a table must have."""
FLAGS = ("IsOccluded", "IsTruncated", "IsDepiction", "IsInside")
GROUP, CROWD = "IsGroupOf", "iscrowd"
COLUMNS = ("ImageID", "Source", "LabelName", "Confidence", *CORNERS, "IsOccluded", "IsTruncated", GROUP, *FLAGS[2:])
"""The columns that `write` writes."""


def read(path: Path | str, found: list[Finding] | None = None, images: Path | None = None) -> Dataset:
    """Read a table of boxes.

    Args:
        path: the .csv file.
        found: list to which faults are added. Only the row or the image with the fault is left out. Without a list, the first
            fault is raised.
        images: folder of the images, with any sub-folders.

    Returns:
        A data set with its images in the order of their first rows, and its categories in alphabetical order. Images without
        a row are no part of it.

    Raises:
        FileNotFoundError: there is no file at `path`, or no folder of images.
        ValueError: `images` is None, a column is missing, or no class descriptions are there. Or `found` is None, and a row has
            a value that does not fit its column, or an image is missing. The message begins with the file and the line.
    """
    path = Path(path)
    faults = Faults(path, found)
    rows = list(_rows(path, faults))
    if images is None:
        raise ValueError(f"{path}: Open Images' table has no image sizes: --images DIR is needed, too")
    names = _descriptions(path)
    folder = search_images(images)
    file_of: dict[str, list[str]] = {}
    for name in folder.names:
        stem = PurePosixPath(name).with_suffix("")
        for key in {stem.name, str(stem)}:
            file_of.setdefault(key, []).append(name)
    records: dict[str, ImageRecord | None] = {}
    boxes_of: dict[str, list[Box]] = {}
    for line, row in rows:
        key = row["ImageID"].strip()
        if key not in records:
            records[key] = None
            with faults.costing("file without image", line=line):
                records[key] = _image(key, file_of.get(key, []), folder.path)
        if (record := records[key]) is not None:
            with faults.costing("object unreadable", line=line):
                boxes_of.setdefault(key, []).append(_box(row, record, names))
    made = tuple(
        ImageRecord(record.file_name, record.width, record.height, tuple(boxes_of.get(key, ())))
        for key, record in records.items()
        if record is not None
    )
    return Dataset(made, tuple(sorted({box.label for record in made for box in record.boxes})))


def write(dataset: Dataset, path: Path | str) -> None:
    """Write one row per box; LabelName is the class name, because Open Images' identifiers exist for its own classes only.

    The table has no place for images without boxes. Fields that `left_out` counts are dropped.

    Raises:
        ValueError: two images share a stem, or a label begins with "/".
        OSError: `path` cannot be written; an existing file stays as it is.
    """
    paths_of(dataset, ".csv")  # refuses images that share a stem
    for label in dataset.class_counts:
        if label.startswith("/"):
            raise ValueError(f"Open Images reads a label that begins with '/' as an identifier, got {label!r}")
    with atomic_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for image in dataset.images:
            for box in image.boxes:
                kept = {name: value for name, value in box.extra.items() if _fits(name, value)}
                x1, x2 = box.x1 / image.width, box.x2 / image.width
                row = {"ImageID": str(PurePosixPath(image.file_name).with_suffix("")), "LabelName": box.label}
                row |= {"XMin": x1, "XMax": x2, "YMin": box.y1 / image.height, "YMax": box.y2 / image.height}
                row |= dict.fromkeys(FLAGS, -1) | {GROUP: kept.pop(CROWD, 0), "Source": "", "Confidence": 1} | kept
                table.writerow([row[name] for name in COLUMNS])


def left_out(dataset: Dataset) -> dict[str, int]:
    """What Open Images has no place for, as `csv_table.left_out` counts it: also the images without boxes."""
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(list(image.extra))
        lost.update(["caption"] * (image.caption is not None))
        lost.update(["image without boxes"] * (not image.boxes))
        lost.update(name for box in image.boxes for name, value in box.extra.items() if not _fits(name, value))
    return dict(lost) | lost_categories(dataset)


def is_table(path: Path) -> bool:
    """True if the first line of a file has the columns of Open Images."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return set(NEEDED) <= {name.strip() for name in file.readline(4096).split(",")}
    except OSError:
        return False


def _rows(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, str]]]:
    table = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    columns: list[str] = []
    try:
        for fields in table:
            if not columns:
                columns = [name.strip() for name in fields]
                if missing := [name for name in NEEDED if columns.count(name) != 1]:
                    raise ValueError(f"{path}:1: expected the columns {','.join(NEEDED)}, got no single {missing[0]}")
            elif len(fields) == len(columns):
                yield table.line_num, dict(zip(columns, fields, strict=True))
            elif any(fields):
                detail = f"expected {len(columns)} fields, got {len(fields)}"
                faults.add("object unreadable", detail, table.line_num)
    except csv.Error as error:
        detail = f"not a readable CSV row: {error}; the rows from here on are not read"
        faults.add("annotation unreadable", detail, table.line_num)
    if not columns:
        raise ValueError(f"{path}:1: expected the columns {','.join(NEEDED)}, got nothing")


def _descriptions(path: Path) -> dict[str, str]:
    """{identifier: class name} from the class descriptions beside the table; the first name of an identifier counts."""
    names: dict[str, str] = {}
    for file in sorted(path.parent.glob("*class-descriptions*.csv")):
        try:
            for fields in csv.reader(read_text(file).splitlines(), strict=True):
                if len(fields) == 2:
                    names.setdefault(fields[0].strip(), fields[1].strip())
        except csv.Error as error:
            raise ValueError(f"{file}: expected rows of an identifier and a name, {error}") from None
    return names


def _image(key: str, files: list[str], folder: Path) -> ImageRecord:
    if len(files) != 1:
        got = f"several: {', '.join(files[:3])}" if files else "none"
        raise ValueError(f"expected one image {key[:80]}.* in {folder}, got {got}")
    return ImageRecord(files[0], *upright_size(folder / files[0]))


def _box(row: Mapping[str, str], image: ImageRecord, names: Mapping[str, str]) -> Box:
    label = row["LabelName"].strip()
    if label.startswith("/"):
        if label not in names:
            raise ValueError(
                f"expected the name of {label[:40]!r} in a *class-descriptions*.csv beside the table, got none"
            )
        label = names[label]
    corners = {}
    for name in CORNERS:
        share = parse_number(row[name])
        check_share(share, name)
        corners[name] = pixels(share * (image.width if name.startswith("X") else image.height))
    extra: dict[str, Any] = {}
    for name in (*FLAGS, GROUP):
        text = row.get(name, "").strip() or "-1"
        if text not in ("0", "1", "-1"):
            raise ValueError(f"expected {name} to be 0, 1 or -1, got {text[:40]!r}")
        if name != GROUP and text != "-1":
            extra[name] = int(text)
        elif name == GROUP and text == "1":
            extra[CROWD] = 1
    if source := row.get("Source", "").strip():
        extra["Source"] = source
    if (confidence := row.get("Confidence", "").strip()) and parse_number(confidence) != 1:
        extra["Confidence"] = parse_number(confidence)
    return Box(label, corners["XMin"], corners["YMin"], corners["XMax"], corners["YMax"], extra)


def _fits(name: str, value: Any) -> bool:
    """True for a field that the table gives back unchanged; `iscrowd` 0 is what a missing `iscrowd` means."""
    if name == CROWD or name in FLAGS:
        return type(value) is int and value in (0, 1)
    if name == "Confidence":
        return type(value) in (int, float) and abs(value) < 1e9 and value != 1
    return (
        name == "Source" and isinstance(value, str) and bool(value) and value == value.strip() and value.isprintable()
    )
