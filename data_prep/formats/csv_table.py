"""The CSV table: one row a box, eight columns, absolute pixels."""

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
INDEX = re.compile(r"|Unnamed: \d+")  # how pandas heads the column of its index
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # 1,234: a thousand and more, or one and a fraction


def write(dataset: Dataset, path: Path | str) -> None:
    """Write one row a box, in the order of the images and their boxes; UTF-8, "\\n" line ends, numbers as they are.

    An image without boxes has one row, whose label and box are empty. The table has the eight `COLUMNS` and nothing else:
    `left_out` tells what that leaves behind.

    Raises:
        OSError: `path` cannot be written; what stood there stays.
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
    """What the table has no column for: {field name: how often it stands in the data set}; empty when it says all."""
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(list(image.extra))
        lost.update(key for box in image.boxes for key in box.extra)
        if image.caption is not None:
            lost["caption"] += 1
    return dict(lost) | lost_categories(dataset)


def read(path: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read a table with the eight `COLUMNS`, in any order; rows of one image need not be neighbours.

    UTF-8 (with or without a byte-order mark) and UTF-16 with one, any line ends. Columns may be separated by commas,
    semicolons or tabs, decimals by a point or, quoted where commas separate columns, a comma; pandas' column of row numbers
    is passed over. A row whose label and box are empty says that the image has no boxes. Integers stay integers. Images come
    in the order of their first row, categories in alphabetical order.

    Args:
        path: the file.
        found: takes the rows that cannot be used; None: the first one is raised.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: a missing, unknown or repeated column or, without `found`, the first row with a wrong number of fields, a
            value that does not fit its column, another size than its image had; the message starts with `path:line`.
    """
    path = Path(path)
    faults = Faults(path, found)
    rows = list(_rows(path, faults))
    has_commas = any(_is_decimal_comma(row[name]) for _, row in rows for name in NUMBER_COLUMNS)
    images: dict[str, _Image] = {}
    names: dict[str, str] = {}  # as spelled -> as kept, so that what is wrong with a name is said once
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
    """An image so far: its first row, without boxes; the name as the table spells it; the boxes of all its rows."""

    record: ImageRecord
    spelling: str
    boxes: list[Box] = field(default_factory=list)


def _read_row(row: dict[str, str], name: str, has_commas: bool, images: dict[str, _Image]) -> None:
    """Add what a row says to its image, whose name is `name` within the folder."""
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
        raise ValueError(f"{row['image_name']!r} would be {name!r}, which is another image further up")
    if (first.width, first.height) != (record.width, record.height):
        raise ValueError(
            f"{name!r} is {record.width} x {record.height} here and {first.width} x {first.height} further up"
        )
    image.boxes += boxes


def _rows(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: text}) for each row that is not blank and has as many fields as there are columns."""
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
                    faults.add("object unreadable", "the column without a name holds more than row numbers", line)
        except csv.Error as error:
            detail = f"not a readable CSV row: {error}; the rows from here on are not read"
            faults.add("annotation unreadable", detail, table.line_num)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: expected UTF-8 or UTF-16 text, got something else: {error.reason}; "
                "in a spreadsheet, save as 'CSV UTF-8'"
            ) from None


def _header(first: str, second: str, path: Path) -> tuple[str, list[str], int]:
    """(what separates columns, their names, the line they stand in); Excel may have "sep=;" in a line before."""
    line = 1
    if told := re.fullmatch(r"sep=(.)\s*", first):
        line, first, delimiters = 2, second, told[1]
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
    """True for a number whose comma can be no other: 79,5 and 0,125, but neither 1,234 nor 1,234,567."""
    text = text.strip()
    return "," in text and re.fullmatch(r"[+-]?\d*,\d+", text) is not None and not GROUPED.fullmatch(text)


def _parse_number(text: str, has_commas: bool) -> Number:
    """A number of a table in which some number has a decimal comma, or none has."""
    if "," not in text and not (has_commas and "." in text):
        return parse_number(text)
    if not has_commas or "." in text:
        raise ValueError(
            f"expected a number, got {text[:40]!r}, which may be decimal or grouped in thousands; write it with one point"
        )
    return parse_number(text.replace(",", "."))


def _parse_size(text: str, has_commas: bool) -> int:
    number = _parse_number(text, has_commas)
    if number != int(number):
        raise ValueError(f"expected a whole number of pixels, got {text!r}")
    return int(number)
