"""Pascal VOC: one XML file an image, absolute pixels, corners."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree  # builds and writes only; reading goes through defusedxml
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException
from tqdm import tqdm

from data_prep.atomic import atomic_folder
from data_prep.audit import LEFT_OUT, SKIPPED, Finding, check_pixels, list_images
from data_prep.formats.fields import joined, located
from data_prep.records import Box, Dataset, ImageRecord, check_file_name, parse_number

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Source:
    """One annotation file and the image it belongs to.

    Attributes:
        annotation: the XML file.
        image: the image file.
        record: what the XML says, with the image file's own name and size; boxes as they stand, unrepaired.
    """

    annotation: Path
    image: Path
    record: ImageRecord


def read_file(path: Path | str) -> ImageRecord:
    """Read one annotation file.

    Args:
        path: an XML file in any encoding that it declares; entities and document types are refused.

    Returns:
        The record, `file_name` from `<filename>`. What the file says beyond name, size and boxes is kept in `extra` as
        text, nested elements as dicts, attributes under "@name"; repeated elements become lists.

    Raises:
        FileNotFoundError: no file at `path`.
        ValueError: not XML, no `<annotation>`, no `<filename>` or `<size>`, an object without name or box, a coordinate
            that is not a number, a `<filename>` that leaves its folder; the message names the file and the object's
            number from 1.
    """
    contents = _read(Path(path))
    if contents.size is None:
        raise ValueError(f"{path}: no <size> with a width and a height")
    try:
        return ImageRecord(contents.filename, *contents.size, contents.boxes, extra=contents.extra)
    except ValueError as error:
        raise ValueError(f"{path}: <filename>: {error}") from None


def read_folder(
    images: Path | str, annotations: Path | str, strict: bool = False
) -> tuple[list[Source], list[Finding]]:
    """Read every XML file in a folder and find its image.

    An annotation belongs to the image of its own stem (`a.xml`, `a.jpg`), whatever its `<filename>` says; where there
    is none, to the image that `<filename>` names.

    Args:
        images: folder of images; annotations: folder of XML files. Neither is searched below.
        strict: raise at the first file that cannot be used instead of leaving it out.

    Returns:
        (sources in the order of their annotation files' names, findings). Files that cannot be used are among the
        findings, with the action "skipped", and not among the sources.

    Raises:
        FileNotFoundError: a folder is not there, or holds nothing to read.
        ValueError: `strict`, and a file cannot be used.
    """
    images, annotations = Path(images), Path(annotations)
    names = [name for name in list_images(images) if "/" not in name]
    files = _annotation_files(annotations)

    findings: list[Finding] = []

    def add_finding(kind: str, file: Path, detail: str, action: str = SKIPPED) -> None:
        if strict and action == SKIPPED:
            raise ValueError(f"{file}: {detail}")
        findings.append(Finding(kind, file.name, None, detail, action))

    found = _pair(files, images, names, add_finding)
    broken = {Path(f.file).stem: f"its {f.file} cannot be used" for f in findings if f.kind == "annotation unreadable"}
    findings += [
        Finding("image without file", name, None, broken.get(Path(name).stem, "no .xml file describes it"), LEFT_OUT)
        for name in names
        if name not in found
    ]
    sizes, more = check_pixels([(file.name, images / name, read.size) for name, (file, read) in found.items()])
    if strict and None in sizes:
        raise ValueError(next(f"{images}/{finding.detail}" for finding in more if finding.action == SKIPPED))
    sources = [
        Source(file, images / name, ImageRecord(name, *size, read.boxes, extra=read.extra))
        for (name, (file, read)), size in zip(found.items(), sizes, strict=True)
        if size is not None
    ]
    return sources, findings + more


def read(annotations: Path | str) -> Dataset:
    """Read a folder of annotation files alone; every file must be readable and state its size.

    Raises:
        FileNotFoundError: no folder there, or no .xml file in it.
        ValueError: as `read_file`.
    """
    annotations = Path(annotations)
    files = _annotation_files(annotations)
    records = tuple(read_file(path) for path in tqdm(files, desc="reading", unit=" files", delay=1, disable=None))
    return Dataset(records, tuple(sorted({box.label for record in records for box in record.boxes})))


def write(dataset: Dataset, folder: Path | str, overwrite: bool = False) -> None:
    """Write one XML file an image into a new folder.

    Args:
        dataset: names without folders, no two of one stem; captions cannot be written.
        folder: must not exist, or be empty, unless `overwrite`.

    Raises:
        ValueError: what VOC cannot hold: a name with a folder, two images of one stem, a caption, data about the whole
            set, an extra field with a name of VOC's own or none that XML can hold.
        FileExistsError: `folder` holds something and `overwrite` is off, or it holds other files than .xml ones.
    """
    if lost := left_out(dataset):
        raise ValueError(f"VOC has no place for data about the whole set: {', '.join(lost)}")
    stems = Counter(Path(record.file_name).stem for record in dataset.images)
    for record in dataset.images:
        if "/" in record.file_name or stems[Path(record.file_name).stem] > 1:
            raise ValueError(f"VOC needs a flat folder and one image a stem, got {record.file_name!r}")
        if record.caption is not None:
            raise ValueError(f"VOC cannot hold the caption of {record.file_name!r}")
    with atomic_folder(folder, overwrite, r"(?i)[^/]+\.xml") as aside:
        for record in dataset.images:
            with located(f"image {record.file_name!r}"):
                tree = ElementTree.ElementTree(_element(record))
            ElementTree.indent(tree)
            tree.write(aside / f"{Path(record.file_name).stem}.xml", encoding="utf-8", xml_declaration=True)


def left_out(dataset: Dataset) -> dict[str, int]:
    """What VOC has no place for, as `csv_table.left_out` tells it: all of `dataset.extra`."""
    return dict.fromkeys(dataset.extra, 1)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What one XML file says, before it is known which image it belongs to."""

    filename: str
    size: tuple[int, int] | None
    boxes: tuple[Box, ...]
    extra: Mapping[str, Any]


def _annotation_files(folder: Path) -> list[Path]:
    """All .xml files, however that is spelled; hidden ones are passed over."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of annotations at {folder}")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".xml" and not p.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"no .xml file in {folder}: nothing to convert")
    return files


def _pair(
    files: list[Path], images: Path, names: list[str], add_finding: Callable[..., None]
) -> dict[str, tuple[Path, _Contents]]:
    """{image name: (annotation file, its contents)} for each file that can be used; the rest go to `add_finding`."""
    by_stem = defaultdict(list)
    for name in names:
        by_stem[Path(name).stem].append(name)
    found: dict[str, tuple[Path, _Contents]] = {}
    for file in tqdm(files, desc="reading", unit=" files", delay=1, disable=None):
        try:
            check_file_name(file.name)
            contents = _read(file)
            stated = contents.filename
            if stated:
                check_file_name(stated)
                if "/" in stated:
                    raise ValueError(
                        f"<filename> {stated!r} names a folder; expected the name of an image in {images.name}"
                    )
        except ValueError as error:
            add_finding("annotation unreadable", file, str(error).removeprefix(f"{file}: "))
            continue
        candidates = by_stem[file.stem] or [name for name in names if name == stated]
        if not candidates:
            add_finding(
                "file without image", file, f"neither {file.stem}.* nor <filename> {stated!r} is in {images.name}"
            )
            continue
        name = stated if stated in candidates else candidates[0]
        if name in found:
            add_finding("image annotated twice", file, f"{name} has {found[name][0].name} already")
            continue
        if stated and stated != name:
            add_finding("file name differs", file, f"<filename> {stated}, image {name}", "kept")
        found[name] = file, contents
    return found


def _read(path: Path) -> _Contents:
    root = _parse(path)
    boxes = tuple(_box(element, f"{path}: object {n}") for n, element in enumerate(root.findall("object"), start=1))
    try:
        extra = _extra(root, without=("filename", "size", "object"))
        size, element = None, root.find("size")
        if element is not None:
            extra |= {"size": more} if (more := _extra(element, without=("width", "height"))) else {}
            width, height = (parse_number(element.findtext(side) or "0") for side in ("width", "height"))
            size = (int(width), int(height)) if width > 0 and height > 0 else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _Contents((root.findtext("filename") or "").strip(), size, boxes, extra)


def _parse(path: Path) -> Element:
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}")
    try:
        root = defusedxml.ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except DefusedXmlException as error:
        raise ValueError(f"{path}: document types and entities are refused ({type(error).__name__})") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{path}: not readable as XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"{path}: expected <annotation> at the top, got <{root.tag[:40]}>")
    return root


def _box(element: Element, where: str) -> Box:
    try:
        name, box = element.find("name"), element.find("bndbox")
        if name is None or box is None:
            raise ValueError("expected a <name> and a <bndbox>")
        corners = []
        for corner in CORNERS:
            text = box.findtext(corner)
            if text is None:
                raise ValueError(f"<bndbox> has no <{corner}>")
            try:
                corners.append(parse_number(text))
            except ValueError as error:
                raise ValueError(f"<{corner}>: {error}") from None
        extra = _extra(element, without=("name", "bndbox"))
        more = _extra(box, without=CORNERS)
        return Box((name.text or "").strip(), *corners, extra=extra | ({"bndbox": more} if more else {}))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _extra(element: Element, without: tuple[str, ...]) -> dict[str, Any]:
    """An element's attributes and children as plain values; a child that is named in `without` is left out once."""
    repeated = [tag for tag in without if tag != "object" and len(element.findall(tag)) > 1]
    if repeated:
        raise ValueError(f"<{repeated[0]}> stands more than once in <{element.tag}>")
    values: dict[str, Any] = {f"@{key}": value for key, value in element.attrib.items()}
    for child in element:
        if child.tag in without:
            continue
        nested = _extra(child, without=())
        text = (child.text or "").strip()
        value = nested | ({"#text": text} if text else {}) if nested else text
        if child.tag not in values:
            values[child.tag] = value
        elif isinstance(values[child.tag], list):
            values[child.tag].append(value)
        else:
            values[child.tag] = [values[child.tag], value]
    return values


def _element(record: ImageRecord) -> Element:
    root = Element("annotation")
    extra = dict(record.extra)
    size = _joined({"width": record.width, "height": record.height}, extra, "size")
    first = {"folder": extra.pop("folder", "images"), "filename": record.file_name, "size": size}
    if "object" in extra:
        raise ValueError("the extra field 'object' has a name that the format itself uses; rename or drop it")
    _fill(root, joined(first, extra))
    for box in record.boxes:
        more = dict(box.extra)
        corners = _joined(dict(zip(CORNERS, box.xyxy, strict=True)), more, "bndbox")
        _fill(root, {"object": joined({"name": box.label}, more) | {"bndbox": corners}})
    return root


def _joined(fields: dict[str, Any], extra: dict[str, Any], name: str) -> dict[str, Any]:
    """An element's own fields, and what `extra`, which loses it, has under its name."""
    more = extra.pop(name, {})
    if not isinstance(more, Mapping):
        raise ValueError(f"the extra field {name!r} has a name that the format itself uses; rename or drop it")
    return joined(fields, more)


def _fill(parent: Element, values: Mapping[str, Any]) -> None:
    """The inverse of `_extra`."""
    for key, value in values.items():
        if key == "#text":
            parent.text = _text(value)
        elif key.startswith("@"):
            parent.set(_tag(key[1:]), _text(value))
        else:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                child = ElementTree.SubElement(parent, _tag(key))
                if isinstance(item, Mapping):
                    _fill(child, item)
                elif item is not None:
                    child.text = _text(item)


def _tag(name: str) -> str:
    if not re.fullmatch(r"[^\W\d][\w.-]*", name):
        raise ValueError(f"the extra field {name!r} has a name that XML cannot hold; rename or drop it")
    return name


def _text(value: Any) -> str:
    if strange := re.search("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", str(value)):
        raise ValueError(f"XML cannot hold the character {strange[0]!r} of {str(value)[:40]!r}")
    return str(value)
