"""All formats, by name, suffix and content. To add a format, add a module to this package and an entry to `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_prep.findings import Finding
from data_prep.formats import coco, csv_table, cvat, label_studio, labelme, lvis, odvg, open_images, voc, yolo
from data_prep.formats.fields import without
from data_prep.records import Box, Dataset


@dataclass(frozen=True)
class Format:
    """The common interface of all formats.

    Attributes:
        name: the format's part of command names, such as "voc" in `voc-to-coco`.
        description: the input of `read` and output of `write`, such as "a .json file".
        suffixes: suffixes of the files that `read` reads, in lower case; empty if a data set is a folder.
        read: (path, list of findings or None) -> data set. Faults are added to the list. Without a list, the first fault is
            raised as `ValueError`. If `uses_images`, there is a third argument, the folder of images or None.
        write: (data set, path) -> path of the second file, or None. Replaces an existing file, or an existing folder that
            an earlier run wrote.
        left_out: data set -> {field that the format has no place for: number of occurrences}; None if the format has a
            place for every field. `write` drops or refuses these fields; `fit` removes them before.
        place: the word for "place" in messages about these fields, such as "column".
        second_file: path -> path of the second file that `write` may write; None if the format has no second file.
        writes_folder: `write` writes a folder, even if `read` reads a file in it.
        uses_images: `read` takes the image sizes from the images.
        image_folder: path -> the folder that the file names are relative to; None if a data set does not name it.
        has_splits: the records have their part of the data set, such as "train", in `extra`; see `of_split`.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    read: Callable[..., Dataset]
    write: Callable[[Dataset, Path], Path | None]
    left_out: Callable[[Dataset], dict[str, int]] | None = None
    place: str = "place"
    second_file: Callable[[Path], Path] | None = None
    writes_folder: bool = False
    uses_images: bool = False
    image_folder: Callable[[Path], Path] | None = None
    has_splits: bool = False

    def load(self, path: Path, found: list[Finding] | None = None, images: Path | None = None) -> Dataset:
        """Call `read`, with the folder of images if the format uses it."""
        return self.read(path, found, images) if self.uses_images else self.read(path, found)

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
    "voc", "a folder of .xml files", (), voc.read, partial(voc.write, overwrite=True), voc.left_out, writes_folder=True
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
_COCO = Format("coco", "a .json file", (".json",), coco.read, coco.write, left_out=coco.left_out)
_ODVG = Format(
    "odvg",
    "a .jsonl file",
    (".jsonl", ".odvg"),
    lambda path, found=None: odvg.read(path, found=found),
    odvg.write,
    left_out=odvg.left_out,
    second_file=odvg.label_map_path,
)
_YOLO = Format(
    "yolo",
    "a folder with data.yaml",
    (".yaml", ".yml"),
    yolo.read,
    partial(yolo.write, overwrite=True),
    left_out=yolo.left_out,
    writes_folder=True,
    uses_images=True,
    image_folder=yolo.image_folder,
    has_splits=True,
)
_LVIS = Format("lvis", "a .json file of LVIS", (".json",), lvis.read, lvis.write, left_out=lvis.left_out)
_LABELME = Format(
    "labelme",
    "a folder of labelme's .json files",
    (),
    labelme.read,
    partial(labelme.write, overwrite=True),
    left_out=labelme.left_out,
    writes_folder=True,
    image_folder=lambda path: path,
)
_CVAT = Format("cvat", "an .xml file of CVAT", (".xml",), cvat.read, cvat.write, left_out=cvat.left_out)
_OPEN_IMAGES = Format(
    "openimages",
    "a .csv file of Open Images",
    (".csv",),
    open_images.read,
    open_images.write,
    open_images.left_out,
    "column",
    uses_images=True,
)
_LABEL_STUDIO = Format(
    "labelstudio",
    "a .json file of Label Studio",
    (".json",),
    label_studio.read,
    label_studio.write,
    label_studio.left_out,
    uses_images=True,
)

_ALL = (_VOC, _CSV, _COCO, _ODVG, _YOLO, _LVIS, _LABELME, _CVAT, _OPEN_IMAGES, _LABEL_STUDIO)
FORMATS: dict[str, Format] = {each.name: each for each in _ALL}
"""All formats by name, in the order of the commands."""

BY_SUFFIX: dict[str, Format] = {}
"""The format of each suffix, in lower case. If several formats share a suffix, the first of them."""
for _format in FORMATS.values():
    for _suffix in _format.suffixes:
        BY_SUFFIX.setdefault(_suffix, _format)

KNOWN = ", ".join(each.description for each in FORMATS.values())
"""The data sets that `format_of` knows, for messages."""


def format_of(path: Path | str) -> Format:
    """The format of a data set: by its suffix, and by its content where formats share a suffix or a data set is a folder.

    A folder is YOLO's if it has a `data.yaml`, labelme's if it has .json files and no .xml files, and otherwise Pascal VOC's. The
    content of a file is searched, not parsed.

    Raises:
        ValueError: a file has another suffix.
    """
    path = Path(path)
    if path.is_dir():
        return _format_of_folder(path)
    suffix = path.suffix.lower()
    if suffix not in BY_SUFFIX:
        raise ValueError(f"{path}: expected {KNOWN}, got {f'the suffix {suffix!r}' if suffix else 'no suffix'}")
    if suffix == ".csv" and open_images.is_table(path):
        return _OPEN_IMAGES
    if suffix == ".json":
        return _LABEL_STUDIO if label_studio.is_export(path) else _LVIS if lvis.is_lvis(path) else _COCO
    return BY_SUFFIX[suffix]


def _format_of_folder(folder: Path) -> Format:
    if yolo.yaml_path(folder).is_file():
        return _YOLO
    suffixes = {path.suffix.lower() for path in folder.rglob("*")}
    return _LABELME if ".json" in suffixes and ".xml" not in suffixes else _VOC


def of_split(dataset: Dataset, split: str) -> Dataset:
    """The images of one split of a data set that a file with splits gave; see `yolo`.

    Raises:
        ValueError: no image is of this split.
    """
    images = tuple(image for image in dataset.images if image.extra.get(yolo.SPLIT) == split)
    if not images:
        splits = sorted({str(image.extra.get(yolo.SPLIT)) for image in dataset.images})
        raise ValueError(f"expected images of the split {split!r}, got only {', '.join(splits) or 'no image'}")
    return replace(dataset, images=images)
