"""The CSV table: one row per box, eight columns, absolute pixels."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.atomic import atomic_file
from data_prep.findings import Faults, Finding
from data_prep.formats.fields import lost_categories, plain_file_name
from data_prep.records import Box, Dataset, ImageRecord, Number, as_whole_number, parse_number, picture_key

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
BOX_COLUMNS = COLUMNS[:5]
NUMBER_COLUMNS = (*COLUMNS[1:5], *COLUMNS[6:])
INDEX = re.compile(r"|Unnamed: \d+")  # names that pandas gives to the column of its index
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # ambiguous: 1,234 may be 1234 or 1.234


def write(dataset: Dataset, path: Path | str) -> None:
    """Write one row per box, in the order of the images and their boxes, in UTF-8 with "\\n" line ends.

    An image without boxes has one row with an empty label and an empty box. The table has only the eight `COLUMNS`;
    `left_out` counts the fields that have no column.

    Raises:
        OSError: `path` cannot be written; an existing file stays as it is.
    """
    with atomic_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for image in dataset.images:
            about = (image.file_name, image.width, image.height)
            for box in image.boxes:
                table.writerow((box.label, *box.xyxy, *about))
            if not image.boxes:
                table.writerow((*[""] * len(BOX_COLUMNS), *about))


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that have no column: {name of the field: number of occurrences in the data set}."""
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(list(image.extra))
        lost.update(key for box in image.boxes for key in box.extra)
        if image.caption is not None:
            lost["caption"] += 1
    return dict(lost) | lost_categories(dataset)


def read(path: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read a table with the eight `COLUMNS`, in any order; the rows of one image may be anywhere.

    The encoding is UTF-8, with or without a byte order mark, or UTF-16 with one. Commas, semicolons or tabs separate the
    columns. Numbers may have a decimal point or a decimal comma; in a table with commas between columns, a number with a
    decimal comma must be quoted. The column of row numbers that pandas writes is ignored. A row with an empty label and an
    empty box means an image without boxes. Integers stay integers.

    Args:
        path: the file.
        found: list to which a fault is added for each row that cannot be used. Without a list, the first fault is raised.

    Returns:
        A data set with its images in the order of their first rows, and its categories in alphabetical order.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: a column is missing, unknown or repeated. Or `found` is None, and a row has the wrong number of fields, a
            value that does not fit its column, or another image size than an earlier row of the image. The message begins
            with `path:line`.
    """
    path = Path(path)
    faults = Faults(path, found)
    rows = list(_rows(path, faults))
    has_commas = any(_is_decimal_comma(row[name]) for _, row in rows for name in NUMBER_COLUMNS)
    images: dict[str, _Image] = {}
    names: dict[str, str] = {}  # name in the table -> name in the records, so that each bad name gives one finding
    for line, row in rows:
        with faults.costing("object unreadable", line=line):
            name = row["image_name"]
            if name not in names:
                names[name] = plain_file_name(name, faults.mender("", line))
            _read_row(row, names[name], has_commas, images)
    records = tuple(replace(image.record, boxes=tuple(image.boxes)) for image in images.values())
    return Dataset(records, tuple(sorted({box.label for image in records for box in image.boxes})))


@dataclass
class _Image:
    """An image while its rows are read.

    Attributes:
        record: the record of its first row, without boxes.
        spelling: its name in the table, as a `picture_key`.
        boxes: the boxes of the rows so far.
    """

    record: ImageRecord
    spelling: str
    boxes: list[Box] = field(default_factory=list)


def _read_row(row: dict[str, str], name: str, has_commas: bool, images: dict[str, _Image]) -> None:
    """Add the box of a row to its image in `images`; `name` is the image's name in the records."""
    width, height = (_parse_size(row[column], has_commas) for column in COLUMNS[6:])
    record = ImageRecord(name, width, height)
    boxes = []
    if any(row[column].strip() for column in BOX_COLUMNS):
        x1, y1, x2, y2 = (_parse_number(row[column], has_commas) for column in COLUMNS[1:5])
        boxes.append(Box(row["label_name"], x1, y1, x2, y2))
    spelling = picture_key(row["image_name"].replace("\\", "/"))
    image = images.setdefault(picture_key(name), _Image(record, spelling))
    first = image.record
    if image.spelling != spelling:
        raise ValueError(
            f"{row['image_name']!r} becomes {name!r}, which is the name of another image in an earlier row"
        )
    if (first.width, first.height) != (record.width, record.height):
        raise ValueError(
            f"{name!r} is {record.width} x {record.height} here and {first.width} x {first.height} in an earlier row"
        )
    image.boxes += boxes


def _rows(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: text}) for each row that is not blank and has the right number of fields."""
    if not path.is_file():
        raise FileNotFoundError(f"no CSV file at {path}")
    with path.open(encoding=_encoding(path), newline="") as file:
        try:
            delimiter, columns, first = _header(file.readline(), file.readline(), path)
            file.seek(0)
            table = csv.reader(file, delimiter=delimiter, strict=True)
            for fields in table:
                line = table.line_num
                if line <= first or not any(fields):
                    continue
                if len(fields) != len(columns):
                    hint = "; decimal commas need quotes, or semicolons between columns" * (len(fields) > len(columns))
                    detail = f"expected {len(columns)} fields, got {len(fields)}{hint}"
                    faults.add("object unreadable", detail, line)
                    continue
                row = dict(zip(columns, fields, strict=True))
                if all(name in COLUMNS or as_whole_number(text) is not None for name, text in row.items()):
                    yield line, row
                else:
                    faults.add(
                        "object unreadable", "the column without a name holds values that are no row numbers", line
                    )
        except csv.Error as error:
            detail = f"not a readable CSV row: {error}; the rows from here on are not read"
            faults.add("annotation unreadable", detail, table.line_num)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: expected UTF-8 or UTF-16 text, got another encoding ({error.reason}); "
                "in a spreadsheet, save as 'CSV UTF-8'"
            ) from None


def _header(first: str, second: str, path: Path) -> tuple[str, list[str], int]:
    """(separator of the columns, their names, number of the header line). Excel may write "sep=;" in the line before."""
    line = 1
    if stated := re.fullmatch(r"sep=(.)\s*", first):
        line, first, delimiters = 2, second, stated[1]
    else:
        delimiters = ",;\t"
    for delimiter in delimiters:
        columns = [name.strip().strip('"') for name in first.rstrip("\r\n").split(delimiter)]
        others = [name for name in columns if not INDEX.fullmatch(name)]
        if sorted(others) == sorted(COLUMNS) and len(columns) <= len(COLUMNS) + 1:
            return delimiter, columns, line
    got = first.strip() or "nothing"
    raise ValueError(
        f"{path}:{line}: expected the columns {','.join(COLUMNS)}, separated by commas, semicolons or tabs, got {got:.200}"
    )


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _is_decimal_comma(text: str) -> bool:
    """True for a number whose comma must be a decimal comma: 79,5 and 0,125, but neither 1,234 nor 1,234,567."""
    text = text.strip()
    return "," in text and re.fullmatch(r"[+-]?\d*,\d+", text) is not None and not GROUPED.fullmatch(text)


def _parse_number(text: str, has_commas: bool) -> Number:
    """Parse a number; `has_commas` is True if some number of the table certainly has a decimal comma."""
    if "," not in text and not (has_commas and "." in text):
        return parse_number(text)
    if not has_commas or "." in text:
        raise ValueError(
            f"expected a number, got {text[:40]!r}, which may have decimals or groups of thousands; "
            "write decimals after a point, and no groups"
        )
    return parse_number(text.replace(",", "."))


def _parse_size(text: str, has_commas: bool) -> int:
    number = _parse_number(text, has_commas)
    if number != int(number):
        raise ValueError(f"expected a whole number of pixels, got {text!r}")
    return int(number)
