"""ODVG, the format of Open-GroundingDINO and MM-Grounding-DINO: one JSON line per image; boxes as [x1, y1, x2, y2].

A line is a detection sample or a grounding sample. A file may mix both, although these two trainers expect one kind per file:

    {"filename": "a.jpg", "height": 480, "width": 640,
     "detection": {"instances": [{"bbox": [10, 20, 30, 40], "label": 0, "category": "cat"}]}}
    {"filename": "a.jpg", "height": 480, "width": 640,
     "grounding": {"caption": "two cats", "regions": [{"bbox": [10, 20, 30, 40], "phrase": "two cats"}]}}

A second file, the label map, gives the names of the labels of detection lines: `{"0": "cat", "1": "dog"}`.

Further fields are kept in `extra` under their own names. Fields of an instance or a region are in `Box.extra`, fields of a line
in `ImageRecord.extra`. Fields beside `instances` or `regions` are also in `ImageRecord.extra`, in an object named `detection` or
`grounding`. A file that is read and written again thus gives equal JSON in each line, except that every instance then has a
`category`.

A region may have several boxes, `"bbox": [[...], [...]]`. Each becomes a `Box` with the phrase and the fields of the region.
`extra["odvg_region"]`, the index of the region in its line, lets `write` join these boxes again. A phrase may be a list of texts
(in the GoldG files of MM-Grounding-DINO). The label is then the joined texts, with spaces between them, and
`extra["odvg_phrase"]` is the list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any

from data_prep.atomic import atomic_files
from data_prep.findings import Faults, Finding
from data_prep.formats.fields import (
    Mend,
    check_unique,
    four_numbers,
    joined,
    located,
    plain_file_name,
    take,
    take_whole,
    without,
)
from data_prep.formats.json_text import encode, parse, read_text
from data_prep.records import Box, Dataset, ImageRecord

LABEL_MAP = "label_map"
"""Field of `Dataset.extra` for a label map whose labels are not 0, 1, 2, ..."""
REGION = "odvg_region"
"""Field of `Box.extra` for the index of a region that has a list of boxes."""
PHRASE_PIECES = "odvg_phrase"
"""Field of `Box.extra` for a phrase that is a list of texts."""
OWN_OF_SAMPLE = {"detection": {"instances"}, "grounding": {"caption", "regions"}}


def read(path: Path | str, label_map: Path | str | None = None, found: list[Finding] | None = None) -> Dataset:
    """Read an ODVG file (JSON lines).

    Blank lines are skipped. Several lines may have the same image.

    Args:
        path: the file.
        label_map: the JSON file `{"0": name, ...}`; by default `<stem>_label_map.json` beside `path`, if it exists. Without a
            label map, every instance must have a `category`.
        found: list to which faults are added. Only the line, box or field with a fault is left out. Values that break the
            rules but can only mean one thing are mended: numbers such as 640.0 or "640", paths such as "images\\a.jpg".
            Without a list, the first fault is raised.

    Returns:
        A data set with one record per line. The record of a detection line has the caption None. The record of a grounding
        line has one box for each box of each region, with the phrase as its label, letter for letter. The categories are
        those of the label map in the order of their labels, or else those of the instances. `extra["label_map"]` is the label
        map, if its labels are not 0, 1, 2, ...

    Raises:
        FileNotFoundError: there is no file at `path`, or `label_map` is given and does not exist.
        ValueError: `found` is None, and the text is not UTF-8, a line is not a sample, a region has no box, or a label is not
            in the label map or has another category there. The message names the file and the line.
    """
    path = Path(path)
    map_path = label_map_path(path, label_map)
    has_map = label_map is not None or map_path.is_file()
    names = _read_label_map(map_path, Faults(map_path, found)) if has_map else {}
    classes = _Classes(names, is_open=not has_map)
    faults = Faults(path, found)
    records = []
    # unless strict, a byte that is not UTF-8 becomes a surrogate, which is a fault of its line alone
    whole = read_text(path, "strict" if faults.strict else "surrogateescape")
    for number, text in enumerate(
        whole.split("\n"), start=1
    ):  # splitlines() would also split at U+2028 within a string
        if text.strip():
            with faults.costing("annotation unreadable", line=number):
                records.append(_read_line(parse(text, path, number, faults), classes, _Line(faults, number)))
    labels = sorted(classes.names)
    categories = tuple(classes.names[label] for label in labels)
    gaps = {LABEL_MAP: {str(label): classes.names[label] for label in labels}}
    return Dataset(tuple(records), categories, {} if labels == list(range(len(labels))) else gaps)


def write(dataset: Dataset, path: Path | str, label_map: Path | str | None = None) -> Path | None:
    """Write an ODVG file and its label map.

    Records with a caption become grounding lines, the others become detection lines. Each entry in the `extra` of records and
    boxes becomes a field under its name. MM-Grounding-DINO needs `tokens_positive` in regions; it is written if it is in
    `extra`, and never computed. The same data set gives the same bytes.

    Categories keep their labels in `dataset.extra["label_map"]`. The other labels are the next of 0, 1, 2, ..., first for
    `dataset.categories` in their order, then for other labels of detection records in alphabetical order. ODVG has no place for
    other fields of `dataset.extra` (such as COCO's `info`, `licenses` and `categories`), so they are refused. To drop them,
    pass `dataclasses.replace(dataset, extra={})`.

    Args:
        dataset: the records.
        path: the file to write.
        label_map: the file for the label map; by default `<stem>_label_map.json` beside `path`. For data without categories, no
            label map is written, but an existing file is replaced by an empty label map, because `read` would use it.

    Returns:
        The file of the label map; None if there is none.

    Raises:
        ValueError: a field in `extra` has a name that ODVG itself writes, or a field of `dataset.extra` has no place.
        OSError: the folder of `path` does not exist, or the disk is full or not writable.
    """
    path = Path(path)
    map_path = label_map_path(path, label_map)
    with located(path):
        if map_path == path:
            raise ValueError("expected another file for the label map, got the file of the lines")
        label_of = _labels(dataset)
        lines = []
        for record in dataset.images:
            with located(f"image {record.file_name!r}"):
                lines.append(encode(_write_line(record, label_of)))
        map_data = encode({str(label): name for name, label in sorted(label_of.items(), key=lambda item: item[1])})
    has_map = bool(label_of) or map_path.is_file()
    paths = (map_path, path) if has_map else (path,)
    with atomic_files(*paths, mode="wb") as files:
        files[-1].writelines(lines)
        if has_map:
            files[0].write(map_data)
    return map_path if has_map else None


def left_out(dataset: Dataset) -> dict[str, int]:
    """The fields that ODVG has no place for, as `csv_table.left_out` counts them.

    They are all fields of `dataset.extra` except the label map, and fields with names that ODVG itself uses.
    """
    lost = Counter(dict.fromkeys(without(dataset.extra, LABEL_MAP), 1))
    for image in dataset.images:
        kind, other = ("detection", "grounding") if image.caption is None else ("grounding", "detection")
        lost.update(name for name in ("filename", "height", "width", other) if name in image.extra)
        if kind in image.extra:
            beside = image.extra[kind]  # fields beside `instances` or `regions`
            fits = isinstance(beside, dict) and beside and not OWN_OF_SAMPLE[kind] & beside.keys()
            lost.update([] if fits else [kind])
        own = ("bbox", "label", "category") if image.caption is None else ("bbox", "phrase")
        lost.update(name for box in image.boxes if box.extra for name in own if name in box.extra)
    return dict(lost)


@dataclass(frozen=True)
class _Classes:
    """The names of the labels.

    Attributes:
        names: {label: name}.
        is_open: True without a label map: names are added from the `category` fields of the instances.
    """

    names: dict[int, str]
    is_open: bool

    def name(self, label: int, category: str | None) -> str:
        if self.is_open:
            if category is None:
                raise ValueError(f"expected a 'category' or a label map that names label {label}, got neither")
            if label not in self.names and category in self.names.values():
                raise ValueError(f"category {category!r} has label {label} here and another one before")
            self.names.setdefault(label, category)
        if label not in self.names:
            raise ValueError(f"label {label} is not in the label map")
        name = self.names[label]
        if category not in (None, name):
            source = "before" if self.is_open else "in the label map"
            raise ValueError(f"label {label} is category {category!r} here and {name!r} {source}")
        return name


@dataclass(frozen=True)
class _Line:
    """Collects the faults of one line."""

    faults: Faults
    number: int

    def costing(self, place: str) -> AbstractContextManager[None]:
        """Turn a `ValueError` that the block raises into a fault of an object."""
        return self.faults.costing("object unreadable", place, self.number)

    def mender(self, place: str = "") -> Mend:
        """A function that adds a finding for each mended value."""
        return self.faults.mender(place, self.number)


def _read_line(line: Mapping[str, Any], classes: _Classes, here: _Line) -> ImageRecord:
    kinds = [kind for kind in ("detection", "grounding") if kind in line]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none"
        raise ValueError(f"expected one of 'detection' and 'grounding' in a line, got {got}")
    kind = kinds[0]
    sample = take(line, kind, dict)
    if kind == "detection":
        caption, boxes = None, list(_read_instances(sample, classes, here))
        rest = without(sample, "instances")
    else:
        caption, boxes = take(sample, "caption", str), list(_read_regions(sample, here))
        rest = without(sample, "caption", "regions")
    extra = without(line, "filename", "height", "width", kind) | ({kind: rest} if rest else {})
    name = plain_file_name(take(line, "filename", str), here.mender())
    width, height = (take_whole(line, side, here.mender()) for side in ("width", "height"))
    return ImageRecord(name, width, height, tuple(boxes), caption, extra)


def _read_instances(detection: Mapping[str, Any], classes: _Classes, here: _Line) -> Iterator[Box]:
    for index, instance in enumerate(take(detection, "instances", list)):
        with here.costing(f"instances[{index}]"):
            mend = here.mender(f"instances[{index}]")
            label = take_whole(_as_object(instance), "label", mend)
            if label < 0:
                raise ValueError(f"expected a label of 0 or more, got {label}")
            name = classes.name(label, take(instance, "category", str) if "category" in instance else None)
            xyxy = four_numbers(instance.get("bbox"), mend)
            yield Box(name, *xyxy, extra=without(instance, "bbox", "label", "category"))


def _read_regions(grounding: Mapping[str, Any], here: _Line) -> Iterator[Box]:
    for index, region in enumerate(take(grounding, "regions", list)):
        with here.costing(f"regions[{index}]"):
            boxes = take(_as_object(region), "bbox", list)
            if not boxes:
                raise ValueError("expected 'bbox' to be a box or a list of boxes, got an empty list")
            phrase, ours = _read_phrase(region)
            if any(isinstance(box, list) for box in boxes):
                ours[REGION] = index
            else:
                boxes = [boxes]
            extra = joined(ours, without(region, "bbox", "phrase"))
            for box in boxes:
                with here.costing(f"regions[{index}]"):
                    yield Box(phrase, *four_numbers(box, here.mender(f"regions[{index}]")), extra=extra)


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {value!r:.40}")
    return value


def _read_phrase(region: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The phrase of a region, and the fields of `extra` that `write` needs to restore it."""
    if PHRASE_PIECES in region:
        raise ValueError(f"the extra field {PHRASE_PIECES!r} has a name that data_prep itself uses; rename or drop it")
    phrase = region.get("phrase")
    if isinstance(phrase, list) and all(isinstance(piece, str) for piece in phrase):
        return " ".join(phrase), {PHRASE_PIECES: phrase}
    return take(region, "phrase", str), {}


def _write_line(record: ImageRecord, label_of: Mapping[str, int]) -> dict[str, Any]:
    if record.caption is None:
        kind, other = "detection", "grounding"
        sample = {"instances": [_write_instance(box, label_of) for box in record.boxes]}
    else:
        kind, other = "grounding", "detection"
        sample = {"caption": record.caption, "regions": list(_write_regions(record.boxes))}
    if other in record.extra:
        raise ValueError(f"the extra field {other!r} does not belong in a {kind} line; rename or drop it")
    extra = record.extra
    if kind in extra:  # fields beside `instances` or `regions`
        sample = joined(sample, take(extra, kind, dict))
        extra = without(extra, kind)
    return joined({"filename": record.file_name, "height": record.height, "width": record.width, kind: sample}, extra)


def _write_instance(box: Box, label_of: Mapping[str, int]) -> dict[str, Any]:
    return joined({"bbox": list(box.xyxy), "label": label_of[box.label], "category": box.label}, box.extra)


def _write_regions(boxes: Sequence[Box]) -> Iterator[dict[str, Any]]:
    for index, group in groupby(boxes, key=lambda box: box.extra.get(REGION)):
        parts = list(group)
        fields = [_region_fields(box) for box in parts]
        if index is None or fields.count(fields[0]) < len(fields):
            # one region per box: the boxes never shared a region, or their fields differ now; then REGION is kept as a field
            yield from (joined({"bbox": list(box.xyxy)}, own) for box, own in zip(parts, fields, strict=True))
        else:
            yield joined({"bbox": [list(box.xyxy) for box in parts]}, without(fields[0], REGION))


def _region_fields(box: Box) -> dict[str, Any]:
    pieces = box.extra.get(PHRASE_PIECES)
    phrase = pieces if isinstance(pieces, list) and " ".join(map(str, pieces)) == box.label else box.label
    return joined({"phrase": phrase}, without(box.extra, PHRASE_PIECES))


def label_map_path(path: Path, label_map: Path | str | None = None) -> Path:
    """Path of the label map of an ODVG file: `label_map`, or `<stem>_label_map.json` beside the file."""
    return path.with_name(f"{path.stem}_label_map.json") if label_map is None else Path(label_map)


def _read_label_map(path: Path, faults: Faults) -> dict[int, str]:
    return _check_label_map(parse(read_text(path), path, faults=faults), faults)


def _check_label_map(label_map: Mapping[str, Any], faults: Faults) -> dict[int, str]:
    names: dict[int, str] = {}
    taken: set[str] = set()
    for label, name in label_map.items():
        with faults.costing("detail unreadable"):
            if not (label.isascii() and label.isdigit() and str(int(label)) == label):
                raise ValueError(f'expected labels such as "0" and "1" in the label map, got the label {label!r}')
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"expected the name of label {label}, got {name!r}")
            if name in taken:
                check_unique([name, name], "category")
            taken.add(name)
            names[int(label)] = name
    return names


def _labels(dataset: Dataset) -> dict[str, int]:
    """{class name: label}. Phrases of grounding records are not class names."""
    if lost := without(dataset.extra, LABEL_MAP):
        names = ", ".join(map(repr, lost))
        raise ValueError(
            f"ODVG has no place for these fields of `Dataset.extra`: {names}; "
            "to drop them, pass dataclasses.replace(dataset, extra={}); to keep them, write COCO"
        )
    check_unique(dataset.categories, "category")
    used = {box.label for record in dataset.images if record.caption is None for box in record.boxes}
    names = (*dataset.categories, *sorted(used - set(dataset.categories)))
    faults = Faults(Path(LABEL_MAP))  # strict; the path is only a name for messages
    given = _check_label_map(take(dataset.extra, LABEL_MAP, dict), faults) if LABEL_MAP in dataset.extra else {}
    label_of = {name: label for label, name in given.items() if name in names}
    unused = (label for label in count() if label not in given)
    return {name: label_of[name] if name in label_of else next(unused) for name in names}
