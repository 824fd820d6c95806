"""Pascal VOC: one XML file an image, absolute pixels, corners."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # builds and writes only; reading goes through defusedxml
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from tqdm import tqdm

from data_prep.atomic import atomic_folder
from data_prep.findings import Faults, Finding, note_all
from data_prep.formats.fields import joined, located, lost_categories
from data_prep.formats.voc_images import Source, read_folder
from data_prep.formats.voc_reading import (
    CORNERS,
    OWN_OF_BOX,
    OWN_OF_IMAGE,
    read_contents,
    record_of,
    search_annotations,
)
from data_prep.formats.voc_xml import fill, refusal, text_of
from data_prep.records import Dataset, ImageRecord, check_file_name

__all__ = ["Source", "left_out", "read", "read_file", "read_folder", "write"]


def read_file(path: Path | str) -> ImageRecord:
    """Read one annotation file.

    Args:
        path: an XML file in any encoding that it declares; entities and document types are refused.

    Returns:
        The record, `file_name` from `<filename>`. What the file says beyond name, size and boxes is kept in `extra` as
        text, nested elements as dicts, attributes under "@name"; repeated elements become lists. What `write` has marked
        comes back as the type that it was.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: not XML, no `<annotation>`, no `<filename>` or `<size>`, an object without name or box, a coordinate
            that is not a number, a `<filename>` that leaves its folder; the message names the file and the object's
            number from 1.
    """
    faults = Faults(Path(path))
    with faults.costing("annotation unreadable"):
        return record_of(read_contents(Path(path), faults), PurePosixPath(), faults)
    raise AssertionError("strict faults raise")


def read(annotations: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read a folder of annotation files alone, and all folders in it; every file must state its size.

    The image of a file in a folder below is in the folder of that name, whatever path `<filename>` has.

    Args:
        annotations: the folder.
        found: takes what cannot be used, and each fault costs only what it is in: a file, an object, a field. None: the
            first fault is raised.

    Raises:
        FileNotFoundError: no folder there, or no .xml file in it.
        ValueError: without `found`, as `read_file`.
    """
    folder = search_annotations(annotations)
    note_all(folder.findings, Faults(folder.path, found))
    records: list[ImageRecord] = []
    for name in tqdm(folder.names, desc="reading", unit=" files", delay=1, disable=None):
        faults = Faults(folder.path / name, found, name)
        with faults.costing("annotation unreadable"):
            check_file_name(name)
            records.append(record_of(read_contents(faults.path, faults), PurePosixPath(name).parent, faults))
    labels = {box.label for record in records for box in record.boxes}
    return Dataset(tuple(records), tuple(sorted(labels)))


def write(dataset: Dataset, folder: Path | str, overwrite: bool = False) -> None:
    """Write one XML file an image into a new folder, in folders like those of the images' names.

    Fields of `extra` become elements; what is no text is marked so that `read` gives it back as the type that it was.

    Args:
        dataset: no two images of one stem; captions cannot be written.
        folder: must not exist, or be empty, unless `overwrite`.

    Raises:
        ValueError: what VOC cannot hold: two images of one stem, a caption, data about the whole set, an extra field with a
            name of VOC's own or none that XML can hold.
        FileExistsError: `folder` holds something and `overwrite` is off, or it holds other files than .xml ones.
    """
    if dataset.extra:
        raise ValueError(f"VOC has no place for data about the whole set: {', '.join(dataset.extra)}")
    paths = [PurePosixPath(record.file_name).with_suffix(".xml") for record in dataset.images]
    times = Counter(paths)
    for record, path in zip(dataset.images, paths, strict=True):
        if times[path] > 1:
            raise ValueError(f"VOC needs one image a stem, got {record.file_name!r}")
        if record.caption is not None:
            raise ValueError(f"VOC cannot hold the caption of {record.file_name!r}")
    with atomic_folder(folder, overwrite, r"(?i).+\.xml") as aside:
        for record, path in zip(dataset.images, paths, strict=True):
            with located(f"image {record.file_name!r}"):
                tree = ElementTree.ElementTree(_element(record))
            ElementTree.indent(tree)
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            tree.write(aside / path, encoding="utf-8", xml_declaration=True)


def left_out(dataset: Dataset) -> dict[str, int]:
    """What VOC has no place for, as `csv_table.left_out` tells it.

    That is all of `dataset.extra`, fields whose names XML cannot hold or VOC itself uses, and of the categories what boxes
    do not tell.
    """
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(_refused(image.extra, OWN_OF_IMAGE, "size", ("width", "height")))
        for box in image.boxes:
            if box.extra:
                lost.update(_refused(box.extra, OWN_OF_BOX, "bndbox", CORNERS))
    return dict(lost) | lost_categories(dataset)


def _refused(extra: Mapping[str, Any], own: tuple[str, ...], shared: str, inner: tuple[str, ...]) -> list[str]:
    """The fields that VOC has no place for; `shared` is VOC's own, and may hold more than `inner`."""
    more = extra.get(shared, {})
    fits = (
        isinstance(more, Mapping)
        and more
        and not any(key in inner or refusal(key, value) for key, value in more.items())
    )
    return [
        name
        for name, value in extra.items()
        if (not fits if name == shared else name in own or name == "#text" or refusal(name, value))
    ]


def _element(record: ImageRecord) -> Element:
    root = Element("annotation")
    extra = dict(record.extra)
    size = _joined({"width": str(record.width), "height": str(record.height)}, extra, "size")
    first = {"folder": extra.pop("folder")} if "folder" in extra else {}
    if "object" in extra:
        raise ValueError("the extra field 'object' has a name that the format itself uses; rename or drop it")
    own = {"filename": "", "size": size}
    fill(root, joined(first | own, extra))
    _set(root, "filename", PurePosixPath(record.file_name).name)
    for box in record.boxes:
        more = dict(box.extra)
        corners = _joined({name: str(value) for name, value in zip(CORNERS, box.xyxy, strict=True)}, more, "bndbox")
        child = ElementTree.SubElement(root, "object")
        fill(child, joined({"name": ""}, more) | {"bndbox": corners})
        _set(child, "name", box.label)
    return root


def _set(parent: Element, name: str, text: str) -> None:
    """Set the text of a child, even one that `fill` would write as JSON: other programs read it."""
    child = parent.find(name)
    assert child is not None
    child.text = text_of(text)


def _joined(fields: dict[str, Any], extra: dict[str, Any], name: str) -> dict[str, Any]:
    """An element's own fields, and what `extra`, which loses it, has under its name."""
    more = extra.pop(name, {})
    if not isinstance(more, Mapping):
        raise ValueError(f"the extra field {name!r} has a name that the format itself uses; rename or drop it")
    return joined(fields, more)
