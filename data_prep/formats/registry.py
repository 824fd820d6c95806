"""The formats by name and by suffix. A new format is one module beside this one and one entry in `FORMATS`."""

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
    """What a program needs to know of a format, whichever it is.

    Attributes:
        name: its part of the commands' names, such as "voc" in `voc-to-coco`.
        description: what `read` takes and `write` makes, such as "a .json file".
        suffixes: of its files, in lower case; none for a format that fills a folder.
        read: (path, findings so far or None) -> the data set that a path holds. What cannot be used is added to the findings;
            without any, the first fault is raised as `ValueError`.
        write: writes a data set to a path, whatever stands there; returns the second file, where the format has one.
        left_out: {field: how often it stands in the data set} for all that the format has no place for; None where
            the format has a place for everything. `write` drops these fields or refuses them: see `fit`.
        place: what the format lacks for them, as messages call it.
        second_file: where `write` puts the second file for a path; None where the format has none.
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
        """The data set without the fields that the format has no place for, and these, as `left_out` tells them."""
        lost = self.left_out(dataset) if self.left_out else {}
        if not lost:
            return dataset, lost
        images = tuple(
            replace(image, boxes=tuple(_without(box, lost) for box in image.boxes), extra=without(image.extra, *lost))
            for image in dataset.images
        )
        return replace(dataset, images=images, extra=without(dataset.extra, *lost)), lost

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files and folders that `write` makes for `path`."""
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
"""All formats by name; commands stand in this order."""

BY_SUFFIX: dict[str, Format] = {}
"""The format of a file by its suffix in lower case; the first format where several share a suffix."""
for _format in FORMATS.values():
    for _suffix in _format.suffixes:
        BY_SUFFIX.setdefault(_suffix, _format)
