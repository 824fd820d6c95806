"""The formats by name and by suffix. A new format is one module beside this one and one entry in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.records import Dataset


@dataclass(frozen=True)
class Format:
    """What a program needs to know of a format, whichever it is.

    Attributes:
        name: its part of the commands' names, such as "voc" in `voc-to-coco`.
        description: what `read` takes and `write` makes, such as "a .json file".
        suffixes: of its files, in lower case; none for a format that fills a folder.
        read: the data set that a path holds.
        write: writes a data set to a path, whatever stands there; returns the second file, where the format has one.
        left_out: {field: how often it stands in the data set} for all that the format has no place for; None where
            the format has a place for everything. `write` drops these fields, or refuses those of `Dataset.extra`.
        lacks: the words that tell a user so, before the fields.
        second_file: where `write` puts the second file for a path; None where the format has none.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], Dataset]
    write: Callable[[Dataset, Path], Path | None]
    left_out: Callable[[Dataset], dict[str, int]] | None = None
    lacks: str = ""
    second_file: Callable[[Path], Path] | None = None

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files and folders that `write` makes for `path`."""
        return (path, self.second_file(path)) if self.second_file else (path,)


_VOC = Format(
    "voc",
    "a folder of .xml files",
    (),
    voc.read,
    partial(voc.write, overwrite=True),
    left_out=voc.left_out,
    lacks="voc has no place for",
)
_CSV = Format(
    "csv",
    "a .csv file",
    (".csv",),
    csv_table.read,
    csv_table.write,
    left_out=csv_table.left_out,
    lacks="a CSV has no column for",
)
_COCO = Format("coco", "a .json file", (".json",), coco.read, coco.write)
_ODVG = Format(
    "odvg",
    "a .jsonl file",
    (".jsonl", ".odvg"),
    odvg.read,
    odvg.write,
    left_out=odvg.left_out,
    lacks="odvg has no place for",
    second_file=odvg.label_map_path,
)

FORMATS: dict[str, Format] = {each.name: each for each in (_VOC, _CSV, _COCO, _ODVG)}
"""All formats by name; commands stand in this order."""

BY_SUFFIX: dict[str, Format] = {}
"""The format of a file by its suffix in lower case; the first format where several share a suffix."""
for _format in FORMATS.values():
    for _suffix in _format.suffixes:
        BY_SUFFIX.setdefault(_suffix, _format)
