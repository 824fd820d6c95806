"""ODVG: one image a line, as Open-GroundingDINO and MM-Grounding-DINO train on; boxes as [x1, y1, x2, y2].

A line holds a detection or a grounding sample; a file may mix both (though those trainers take one kind a file):

    {"filename": "a.jpg", "height": 480, "width": 640,
     "detection": {"instances": [{"bbox": [10, 20, 30, 40], "label": 0, "category": "cat"}]}}
    {"filename": "a.jpg", "height": 480, "width": 640,
     "grounding": {"caption": "two cats", "regions": [{"bbox": [10, 20, 30, 40], "phrase": "two cats"}]}}

The label map beside it, `{"0": "cat", "1": "dog"}`, names the labels of detection lines.

Further fields are kept in `extra` under their own names: those of an instance or a region in `Box.extra`, those of a
line in `ImageRecord.extra`, those beside `instances` or `regions` there too, in an object named `detection` or
`grounding`. So file -> `read` -> `write` -> file gives equal JSON line by line, but that instances without a `category`
get theirs.

A region may have several boxes, `"bbox": [[...], [...]]`: each becomes a `Box` with the phrase and fields of the
region, and `extra["odvg_region"]`, the region's index in its line, puts them together again. A phrase may be a list of
pieces (MM-Grounding-DINO's GoldG): the label is the pieces joined by spaces, `extra["odvg_phrase"]` the list.
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
"""Name in `Dataset.extra` of a label map whose labels are not simply 0, 1, 2, ..."""
REGION = "odvg_region"
"""Name in `Box.extra` of the region's index, where the region lists several boxes (or lists one)."""
PHRASE_PIECES = "odvg_phrase"
"""Name in `Box.extra` of a phrase that is a list of texts."""
OWN_OF_SAMPLE = {"detection": {"instances"}, "grounding": {"caption", "regions"}}


def read(path: Path | str, label_map: Path | str | None = None, found: list[Finding] | None = None) -> Dataset:
    """Read an ODVG file (JSON lines).

    Blank lines are skipped; several lines may name the same image.

    Args:
        path: the file.
        label_map: the JSON file `{"0": name, ...}`; without it `<stem>_label_map.json` beside `path` is taken if it is
            there, and without both, every instance must carry its `category`.
        found: takes what cannot be used, and each fault costs only what it is in: a line, a box, a field. What can only
            mean one thing is mended: numbers as 640.0 or "640", paths such as "images\\a.jpg". None: the first fault is
            raised.

    Returns:
        A data set with a record a line: caption None for detection lines, and for grounding lines a box for each box
        of each region, its label the phrase, letter for letter. The categories are the label map's, in the order of
        their labels, or those of the instances; `extra["label_map"]` has the map if its labels are not 0, 1, 2, ...

    Raises:
        FileNotFoundError: there is no file at `path`, or none at `label_map` if that is given.
        ValueError: the text is not UTF-8 or, without `found`, a line is no such JSON, a region has no box, a label is not in
            the map or means another category there; with file and line.
    """
    path = Path(path)
    map_path = label_map_path(path, label_map)
    has_map = label_map is not None or map_path.is_file()
    names = _read_label_map(map_path, Faults(map_path, found)) if has_map else {}
    classes = _Classes(names, is_open=not has_map)
    faults = Faults(path, found)
    records = []
    whole = read_text(path, "strict" if faults.strict else "surrogateescape")  # a byte that is no UTF-8 costs its line
    for number, text in enumerate(whole.split("\n"), start=1):  # splitlines() would also split within strings
        if text.strip():
            with faults.costing("annotation unreadable", line=number):
                records.append(_read_line(parse(text, path, number, faults), classes, _Line(faults, number)))
    labels = sorted(classes.names)
    categories = tuple(classes.names[label] for label in labels)
    gaps = {LABEL_MAP: {str(label): classes.names[label] for label in labels}}
    return Dataset(tuple(records), categories, {} if labels == list(range(len(labels))) else gaps)


def write(dataset: Dataset, path: Path | str, label_map: Path | str | None = None) -> Path | None:
    """Write an ODVG file, and its label map.

    Records with a caption become grounding lines, the others detection lines. Everything in the `extra` of records and
    boxes becomes a field under its name. `tokens_positive`, which MM-Grounding-DINO needs in regions, is written where
    it is in `extra`, not made up. The same data set gives the same bytes.

    The labels are 0, 1, 2, ... in the order of `dataset.categories`, then of labels of detection records that it does
    not list, sorted; `dataset.extra["label_map"]` comes first. Lines have no place for anything else in `dataset.extra`
    (such as COCO's `info`, `licenses` and `categories`), which is refused: to drop it, pass
    `dataclasses.replace(dataset, extra={})`.

    Args:
        dataset: the records.
        path: the file to write.
        label_map: where the map goes; `<stem>_label_map.json` beside `path` if not given. There is none for data
            without categories, unless a file already stands there: that one would be read with the new lines, so it is
            replaced by an empty map.

    Returns:
        The label map's file; None where there is none.

    Raises:
        ValueError: a name in `extra` is one that ODVG itself writes, or one of the data set's that has no place.
        OSError: the folder of `path` does not exist, or the disk is full or not writable.
    """
    path = Path(path)
    map_path = label_map_path(path, label_map)
    with located(path):
        if map_path == path:
            raise ValueError("expected another file for the label map, got the same")
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
    """What ODVG has no place for, as `csv_table.left_out` tells it.

    That is all of `dataset.extra` but the label map, and fields under names of its own that say something else.
    """
    lost = Counter(dict.fromkeys(without(dataset.extra, LABEL_MAP), 1))
    for image in dataset.images:
        kind, other = ("detection", "grounding") if image.caption is None else ("grounding", "detection")
        lost.update(name for name in ("filename", "height", "width", other) if name in image.extra)
        if kind in image.extra:
            beside = image.extra[kind]  # of the instances or regions
            fits = isinstance(beside, dict) and beside and not OWN_OF_SAMPLE[kind] & beside.keys()
            lost.update([] if fits else [kind])
        own = ("bbox", "label", "category") if image.caption is None else ("bbox", "phrase")
        lost.update(name for box in image.boxes if box.extra for name in own if name in box.extra)
    return dict(lost)


@dataclass(frozen=True)
class _Classes:
    """The class names by label: those of a label map or, if `is_open`, those that the instances tell in turn."""

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
    """Where the faults of a line go."""

    faults: Faults
    number: int

    def costing(self, place: str) -> AbstractContextManager[None]:
        """What is wrong in the block costs an object."""
        return self.faults.costing("object unreadable", place, self.number)

    def mender(self, place: str = "") -> Mend:
        """Takes the values that are mended."""
        return self.faults.mender(place, self.number)


def _read_line(line: Mapping[str, Any], classes: _Classes, here: _Line) -> ImageRecord:
    kinds = [kind for kind in ("detection", "grounding") if kind in line]
    if len(kinds) != 1:
        raise ValueError(f"expected one of 'detection' and 'grounding' a line, got {' and '.join(kinds) or 'none'}")
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
    """The phrase of a region, and what `extra` must hold to give it back."""
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
    if kind in extra:  # fields that stood beside the instances or regions
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
            # apart: boxes that never shared a region, or no longer agree; REGION, if any, stays and says they once did
            yield from (joined({"bbox": list(box.xyxy)}, own) for box, own in zip(parts, fields, strict=True))
        else:
            yield joined({"bbox": [list(box.xyxy) for box in parts]}, without(fields[0], REGION))


def _region_fields(box: Box) -> dict[str, Any]:
    pieces = box.extra.get(PHRASE_PIECES)
    phrase = pieces if isinstance(pieces, list) and " ".join(map(str, pieces)) == box.label else box.label
    return joined({"phrase": phrase}, without(box.extra, PHRASE_PIECES))


def label_map_path(path: Path, label_map: Path | str | None = None) -> Path:
    """Where the label map of an ODVG file is, if not elsewhere."""
    return path.with_name(f"{path.stem}_label_map.json") if label_map is None else Path(label_map)


def _read_label_map(path: Path, faults: Faults) -> dict[int, str]:
    return _check_label_map(parse(read_text(path), path, faults=faults), faults)


def _check_label_map(label_map: Mapping[str, Any], faults: Faults) -> dict[int, str]:
    names: dict[int, str] = {}
    taken: set[str] = set()
    for label, name in label_map.items():
        with faults.costing("detail unreadable"):
            if not (label.isascii() and label.isdigit() and str(int(label)) == label):
                raise ValueError(f'expected a label map {{"0": name, "1": name}}, got the label {label!r}')
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"expected the name of label {label}, got {name!r}")
            if name in taken:
                check_unique([name, name], "category")
            taken.add(name)
            names[int(label)] = name
    return names


def _labels(dataset: Dataset) -> dict[str, int]:
    """The label of each class name; phrases of grounding records are no class names."""
    if lost := without(dataset.extra, LABEL_MAP):
        names = ", ".join(map(repr, lost))
        raise ValueError(
            f"ODVG has no place for what `Dataset.extra` says in {names}; "
            "to drop it, pass dataclasses.replace(dataset, extra={}); to keep it, write COCO"
        )
    check_unique(dataset.categories, "category")
    used = {box.label for record in dataset.images if record.caption is None for box in record.boxes}
    names = (*dataset.categories, *sorted(used - set(dataset.categories)))
    # the path of the label map stands before what `write` raises already
    faults = Faults(Path(LABEL_MAP))
    given = _check_label_map(take(dataset.extra, LABEL_MAP, dict), faults) if LABEL_MAP in dataset.extra else {}
    label_of = {name: label for label, name in given.items() if name in names}
    unused = (label for label in count() if label not in given)
    return {name: label_of[name] if name in label_of else next(unused) for name in names}
