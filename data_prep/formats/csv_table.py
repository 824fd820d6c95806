"""The CSV table: one row a box, eight columns, absolute pixels."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_prep.atomic import atomic_file
from data_prep.records import Box, Dataset, ImageRecord, parse_number

COLUMNS = (
    "label_name",
    "bbox_x1",
    "bbox_y1",
    "bbox_x2",
    "bbox_y2",
    "image_name",
    "image_width",
    "image_height",
)


def write(dataset: Dataset, path: Path | str) -> None:
    """Write one row a box, in the order of the images and their boxes; UTF-8, "\\n" line ends, numbers as they are.

    The table has the eight `COLUMNS` and nothing else: `left_out` tells what that leaves behind.

    Raises:
        OSError: `path` cannot be written; what stood there stays.
    """
    with atomic_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for image in dataset.images:
            for box in image.boxes:
                table.writerow((box.label, *box.xyxy, image.file_name, image.width, image.height))


def left_out(dataset: Dataset) -> dict[str, int]:
    """What the table has no column for: {field name: how often it stands in the data set}; empty when it says all."""
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(list(image.extra))
        lost.update(key for box in image.boxes for key in box.extra)
        if image.caption is not None:
            lost["caption"] += 1
        if not image.boxes:
            lost["image without boxes"] += 1
    return dict(lost)


def read(path: Path | str) -> Dataset:
    """Read a table with the eight `COLUMNS`, in any order; rows of one image need not be neighbours.

    UTF-8 (with or without a byte-order mark) and UTF-16 with one, any line ends. Integers stay integers. Images come in
    the order of their first row, categories in alphabetical order.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: a missing, unknown or repeated column, a row with a wrong number of fields, a value that does not
            fit its column, two sizes for one image; the message starts with `path:line`.
    """
    path = Path(path)
    images: dict[str, ImageRecord] = {}
    boxes: dict[str, list[Box]] = {}
    for line, row in _rows(path):
        try:
            x1, y1, x2, y2 = (parse_number(row[name]) for name in COLUMNS[1:5])
            box = Box(row["label_name"], x1, y1, x2, y2)
            width, height = (_parse_size(row[name]) for name in COLUMNS[6:])
            image = ImageRecord(row["image_name"], width, height)
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from None
        first = images.setdefault(image.file_name, image)
        if (first.width, first.height) != (width, height):
            raise ValueError(
                f"{path}:{line}: {image.file_name!r} is {width} x {height} here and {first.width} x {first.height} further up"
            )
        boxes.setdefault(image.file_name, []).append(box)
    records = tuple(
        ImageRecord(image.file_name, image.width, image.height, tuple(boxes[name])) for name, image in images.items()
    )
    return Dataset(records, tuple(sorted({box.label for image in records for box in image.boxes})))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: text}) for each row that is not blank."""
    if not path.is_file():
        raise FileNotFoundError(f"no CSV file at {path}")
    with path.open(encoding=_encoding(path), newline="") as file:
        table = csv.reader(file, strict=True)
        try:
            header = next(table, None)
            if header is None or sorted(header) != sorted(COLUMNS):
                raise ValueError(
                    f"{path}:1: expected the columns {','.join(COLUMNS)}, got {','.join(header or ['nothing'])}"
                )
            for fields in table:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise ValueError(f"{path}:{table.line_num}: expected {len(header)} fields, got {len(fields)}")
                yield table.line_num, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}:{table.line_num}: not a readable CSV row: {error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected UTF-8 or UTF-16 text, got something else: {error.reason}") from None


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _parse_size(text: str) -> int:
    number = parse_number(text)
    if number != int(number):
        raise ValueError(f"expected a whole number of pixels, got {text!r}")
    return int(number)
