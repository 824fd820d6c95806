"""All formats, by name and by suffix. To add a format, add a module to this package and an entry to `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_prep.findings import Finding
from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.formats.fields import without
from data_prep.records import Box, Dataset


@dataclass(frozen=True)
class Format:
    """The common interface of all formats.

    Attributes:
        name: the format's part of command names, such as "voc" in `voc-to-coco`.
        description: the input of `read` and output of `write`, such as "a .json file".
        suffixes: suffixes of the format's files, in lower case; empty if a data set is a folder.
        read: (path, list of findings or None) -> data set. Faults are added to the list. Without a list, the first fault is
            raised as `ValueError`.
        write: (data set, path) -> path of the second file, or None. Replaces an existing file, or an existing folder that
            an earlier run wrote.
        left_out: data set -> {field that the format has no place for: number of occurrences}; None if the format has a
            place for every field. `write` drops or refuses these fields; `fit` removes them before.
        place: the word for "place" in messages about these fields, such as "column".
        second_file: path -> path of the second file that `write` may write; None if the format has no second file.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, list[Finding] | None], Dataset]
    write: Callable[[Dataset, Path], Path | None]
    left_out: Callable[[Dataset], dict[str, int]] | None = None
    place: str = "place"
    second_file: Callable[[Path], Path] | None = None

    def fit(self, dataset: Dataset) -> tuple[Dataset, dict[str, int]]:
        """Remove the fields that the format has no place for. Returns the data set and the result of `left_out`."""
        lost = self.left_out(dataset) if self.left_out else {}
        if not lost:
            return dataset, lost
        images = tuple(
            replace(image, boxes=tuple(_without(box, lost) for box in image.boxes), extra=without(image.extra, *lost))
            for image in dataset.images
        )
        return replace(dataset, images=images, extra=without(dataset.extra, *lost)), lost

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files and folders that `write` may write for `path`."""
        return (path, self.second_file(path)) if self.second_file else (path,)


def _without(box: Box, names: Iterable[str]) -> Box:
    return replace(box, extra=without(box.extra, *names)) if box.extra else box


_VOC = Format(
    "voc",
    "a folder of .xml files",
    (),
    voc.read,
    partial(voc.write, overwrite=True),
    left_out=voc.left_out,
)
_CSV = Format(
    "csv",
    "a .csv file",
    (".csv",),
    csv_table.read,
    csv_table.write,
    left_out=csv_table.left_out,
    place="column",
)
_COCO = Format(
    "coco",
    "a .json file",
    (".json",),
    coco.read,
    coco.write,
    left_out=coco.left_out,
)
_ODVG = Format(
    "odvg",
    "a .jsonl file",
    (".jsonl", ".odvg"),
    lambda path, found=None: odvg.read(path, found=found),
    odvg.write,
    left_out=odvg.left_out,
    second_file=odvg.label_map_path,
)

FORMATS: dict[str, Format] = {each.name: each for each in (_VOC, _CSV, _COCO, _ODVG)}
"""All formats by name, in the order of the commands."""

BY_SUFFIX: dict[str, Format] = {}
"""The format of each suffix, in lower case. If several formats share a suffix, the first of them."""
for _format in FORMATS.values():
    for _suffix in _format.suffixes:
        BY_SUFFIX.setdefault(_suffix, _format)
