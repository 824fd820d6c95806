"""Pascal VOC: one XML file per image; a box is its corners in absolute pixels."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # builds and writes only; reading goes through defusedxml
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from data_prep.findings import Faults, Finding
from data_prep.formats.fields import joined, lost_categories
from data_prep.formats.file_per_image import annotation_files, write_files
from data_prep.formats.voc_images import Source, read_folder
from data_prep.formats.voc_reading import (
    CORNERS,
    OWN_OF_BOX,
    OWN_OF_IMAGE,
    read_contents,
    record_of,
)
from data_prep.formats.voc_xml import fill, refusal, text_of
from data_prep.records import Dataset, ImageRecord, check_file_name

__all__ = ["Source", "left_out", "read", "read_file", "read_folder", "write"]


def read_file(path: Path | str) -> ImageRecord:
    """Read one annotation file.

    Args:
        path: an XML file. It may declare any encoding that Python knows; entities and document types are refused.

    Returns:
        The record; its `file_name` is the text of `<filename>`. `extra` holds all other elements and attributes: an element
        as text, nested elements as a dict, repeated elements as a list, an attribute under "@name". Values that `write`
        has marked have the type that they had before.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: the file is not XML; `<annotation>`, `<filename>` or `<size>` is missing; an object has no name or no
            box; a coordinate is not a number; `<filename>` leads out of its folder. The message names the file and the
            number of the object, counted from 1.
    """
    faults = Faults(Path(path))
    with faults.costing("annotation unreadable"):
        return record_of(read_contents(Path(path), faults), PurePosixPath(), faults)
    raise AssertionError("unreachable: strict faults are raised")


def read(annotations: Path | str, found: list[Finding] | None = None) -> Dataset:
    """Read the annotation files of a folder and its sub-folders, without images; each file must state the image's size.

    The record of `sub/a.xml` names an image in `sub/`, whatever path its `<filename>` has.

    Args:
        annotations: the folder.
        found: list to which faults are added. Only the file, object or field with a fault is left out. Without a list, the
            first fault is raised.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no .xml file.
        ValueError: `found` is None; as `read_file`.
    """
    records: list[ImageRecord] = []
    for name, faults in annotation_files(annotations, ".xml", found):
        with faults.costing("annotation unreadable"):
            check_file_name(name)
            records.append(record_of(read_contents(faults.path, faults), PurePosixPath(name).parent, faults))
    labels = {box.label for record in records for box in record.boxes}
    return Dataset(tuple(records), tuple(sorted(labels)))


def write(dataset: Dataset, folder: Path | str, overwrite: bool = False) -> None:
    """Write one XML file per image into a new folder; `sub/a.jpg` becomes `sub/a.xml`.

    Fields of `extra` become elements. A value that is not text is marked, so that `read` returns it with its type. A hidden
    file, `data_prep.atomic.MANIFEST`, lists the files for a later `overwrite`.

    Args:
        dataset: no two images may share a stem, and no image may have a caption.
        folder: must not exist, or be empty, unless `overwrite`.
        overwrite: replace the files that an earlier call wrote. If `folder` holds any other file, nothing is replaced.

    Raises:
        ValueError: two images share a stem; an image has a caption; `Dataset.extra` is not empty; an extra field has a name
            that VOC itself uses or that XML cannot hold.
        FileExistsError: `folder` is not empty and `overwrite` is False, or it holds a file that no call wrote.
    """
    if dataset.extra:
        raise ValueError(f"VOC has no place for data about the whole set: {', '.join(dataset.extra)}")
    for record in dataset.images:
        if record.caption is not None:
            raise ValueError(f"VOC cannot hold the caption of {record.file_name!r}")
    write_files(dataset, folder, ".xml", overwrite, _write_file)


def _write_file(record: ImageRecord, path: Path) -> None:
    tree = ElementTree.ElementTree(_element(record))
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that VOC has no place for, as `csv_table.left_out` counts them.

    They are all fields of `dataset.extra`, fields with names that XML cannot hold or that VOC itself uses, and the
    categories as far as the labels of the boxes do not determine them.
    """
    lost = Counter(dict.fromkeys(dataset.extra, 1))
    for image in dataset.images:
        lost.update(_refused(image.extra, OWN_OF_IMAGE, "size", ("width", "height")))
        for box in image.boxes:
            if box.extra:
                lost.update(_refused(box.extra, OWN_OF_BOX, "bndbox", CORNERS))
    return dict(lost) | lost_categories(dataset)


def _refused(extra: Mapping[str, Any], own: tuple[str, ...], shared: str, inner: tuple[str, ...]) -> list[str]:
    """Names of the fields that VOC has no place for.

    Args:
        extra: fields of an image or a box.
        own: names that VOC itself uses.
        shared: the name of VOC's own element to which `extra` may add fields, except those in `inner`.
    """
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
    """Set the text of a child. `fill` would write some texts as JSON, which other programs do not understand."""
    child = parent.find(name)
    assert child is not None
    child.text = text_of(text)


def _joined(fields: dict[str, Any], extra: dict[str, Any], name: str) -> dict[str, Any]:
    """An element's own fields, joined with the fields that `extra` has under `name`, which are removed from `extra`."""
    more = extra.pop(name, {})
    if not isinstance(more, Mapping):
        raise ValueError(f"the extra field {name!r} has a name that the format itself uses; rename or drop it")
    return joined(fields, more)
