"""Check and repair data sets, and report every fault: its kind, its place, and what the repair does about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.arguments import counted, printable
from data_prep.atomic import atomic_files, check_free, json_text, reserved
from data_prep.findings import KINDS, SKIPPED, Finding
from data_prep.frames import Fitted, fit_record
from data_prep.pictures import Picture, image_path, measure, search_images, undescribed
from data_prep.records import Box, Dataset, ImageRecord, picture_key

REPORT_FILES = ("audit.json", "audit.txt")


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an audit: counts, one set for each part of a split data set, and all findings.

    Attributes:
        images, objects: numbers of images and objects that were read, before the repair.
        parts: counts after the repair: {"train" | "val" | "test" | "all": {"images", "without boxes", "boxes",
            "classes": {name: boxes}}}.
        findings: ordered by kind, file, object.
    """

    images: int
    objects: int
    parts: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def has_skipped(self) -> bool:
        """True if a file or a part of a file could not be used as it is."""
        return any(finding.is_fault for finding in self.findings)

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, for all `KINDS` in their order, zeros included."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind: counts[kind] for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        fields = Finding.__slots__
        return {
            "images": self.images,
            "objects": self.objects,
            "parts": self.parts,
            "counts": self.counts(),
            "findings": [{name: getattr(finding, name) for name in fields} for finding in self.findings],
        }

    def to_text(self, limit: int | None = None) -> str:
        """The report as tables of at most 120 columns, with all findings, or with the first `limit`."""
        text = StringIO()
        console = Console(file=text, width=120, color_system=None, legacy_windows=False, force_jupyter=False)
        console.print(_parts_table(self))
        found = Table("finding", "count", "meaning", title="Findings", title_justify="left")
        for kind, count in self.counts().items():
            found.add_row(kind, str(count), KINDS[kind])
        console.print(found)
        shown = self.findings[:limit]
        if shown:
            each = Table("finding", "file", "object", "detail", "repair", title="Each of them", title_justify="left")
            for finding in shown:
                number = "" if finding.object is None else str(finding.object)
                each.add_row(
                    *(_cell(text) for text in (finding.kind, finding.file, number, finding.detail, finding.action))
                )
            console.print(each)
        if len(shown) < len(self.findings):
            console.print(f"... and {len(self.findings) - len(shown)} more; audit.txt and audit.json list them all")
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"

    def write(self, folder: Path | str, overwrite: bool = False) -> None:
        """Write `audit.json` and `audit.txt` into `folder`, either both or neither.

        Args:
            folder: a folder that exists.
            overwrite: replace an earlier report.

        Raises:
            FileExistsError: as `check_report_free`.
            BlockingIOError: another process is writing the report.
            OSError: the disk is full or not writable.
        """
        paths = [Path(folder) / name for name in REPORT_FILES]
        with reserved(paths[0], overwrite):
            check_report_free(folder, overwrite)
            with atomic_files(*paths) as (document, text):
                document.write(json_text(self.to_json()))
                text.write(self.to_text())


def check_report_free(folder: Path | str, overwrite: bool = False) -> None:
    """Refuse a folder with an earlier report unless `overwrite`.

    Raises:
        FileExistsError: one of the `REPORT_FILES` exists, and `overwrite` is False.
    """
    for name in REPORT_FILES:
        check_free(Path(folder) / name, overwrite)


def report(read: Iterable[ImageRecord], parts: Mapping[str, Dataset], findings: Iterable[Finding]) -> Report:
    """Make a report from the records that were read, the repaired data sets, and the findings.

    Args:
        read: all records before the repair, without skipped files.
        parts: the repaired data sets, {"train": ..., "test": ...} or {"all": ...}.
        findings: all findings, in any order.
    """
    read = tuple(read)
    order = list(KINDS)
    return Report(
        images=len(read),
        objects=sum(len(record.boxes) for record in read),
        parts={
            name: {
                "images": len(part.images),
                "without boxes": sum(not record.boxes for record in part.images),
                "boxes": sum(len(record.boxes) for record in part.images),
                "classes": part.class_counts,
            }
            for name, part in parts.items()
        },
        findings=tuple(sorted(findings, key=lambda f: (order.index(f.kind), f.file, f.object or 0, f.detail))),
    )


def repair_all(
    items: Iterable[tuple[str, ImageRecord]], numbers: Iterable[Sequence[int] | None] | None = None
) -> tuple[tuple[ImageRecord, ...], list[Finding]]:
    """Repair many records.

    Args:
        items: (file name for the findings, record) pairs.
        numbers: for each record, the `numbers` of `repair`; None if no object was skipped.

    Returns:
        (the repaired records, in their order; all findings).
    """
    items = list(items)
    each = [None] * len(items) if numbers is None else numbers
    pairs = [repair(record, file, given) for (file, record), given in zip(items, each, strict=True)]
    return tuple(record for record, _ in pairs), [finding for _, findings in pairs for finding in findings]


def repair(
    record: ImageRecord, file: str | None = None, numbers: Sequence[int] | None = None
) -> tuple[ImageRecord, list[Finding]]:
    """Clip boxes that extend beyond the image, swap corners in the wrong order, drop boxes without area.

    Args:
        record: a record with boxes in absolute pixels.
        file: the file name for the findings; by default that of the record.
        numbers: for each box, the number of its object in the file, if objects of the file were skipped; by default
            1, 2, ...

    Returns:
        (the record with the remaining boxes in their order, one finding for each fault). Duplicated boxes are reported and
        kept.
    """
    file = file or record.file_name
    kept: list[Box] = []
    findings: list[Finding] = []
    first: dict[tuple, tuple[int, str]] = {}
    for number, given in zip(numbers or range(1, len(record.boxes) + 1), record.boxes, strict=True):

        def note(kind: str, action: str = "kept", more: str = "", number: int = number, given: Box = given) -> None:
            findings.append(Finding(kind, file, number, _where(given, record) + more, action))

        box = _with_ordered_corners(given)
        clipped = box.clipped(record.width, record.height)
        if not box.is_inside(record.width, record.height):
            note("box outside", "dropped" if clipped.is_degenerate else "clipped")
        if box is not given:
            note("corners swapped", "swapped")
        if box.is_degenerate:
            note("box degenerate", "dropped")
        twin, label = first.setdefault(box.xyxy, (number, box.label))
        if twin != number:
            note(
                "box duplicated",
                more=f": same as object {twin}" + ("" if label == box.label else f", as {label} there"),
            )
        if not clipped.is_degenerate:
            kept.append(clipped)
    return replace(record, boxes=tuple(kept)), findings


def first_records(dataset: Dataset, ignore_case: bool = False) -> tuple[Dataset, list[Finding]]:
    """Keep the first of several detection records of one image.

    Two detection records of one image contradict each other: the objects of one record are missing from the other. Records
    with captions are all kept, because an image may have many captions.

    Args:
        dataset: the data set as it was read.
        ignore_case: see `picture_key`.

    Returns:
        (the data set without the further records, a finding for each of them).
    """
    kept, findings = [], []
    first: dict[str, str] = {}
    for record in dataset.images:
        if record.caption is None:
            key = picture_key(record.file_name, ignore_case)
            if key in first:
                detail = f"second record of {first[key]}; its {len(record.boxes)} boxes are not used"
                findings.append(Finding("image annotated twice", record.file_name, None, detail, SKIPPED))
                continue
            first[key] = record.file_name
        kept.append(record)
    return (replace(dataset, images=tuple(kept)) if findings else dataset), findings


def audit(dataset: Dataset, images: Path | str | None = None, found: Iterable[Finding] = ()) -> tuple[Dataset, Report]:
    """Check a data set of any format, and its image files if their folder is given.

    Args:
        dataset: the data set as it was read, not repaired.
        images: folder that the file names are relative to. If None, only the records are checked.
        found: the findings of the reader.

    Returns:
        (the repaired data set, its report). A record is left out, with a finding, if its image is missing, unreadable or has
        an earlier record, or if the image's size does not fit the boxes.

    Raises:
        FileNotFoundError: `images` is not a folder.
    """
    findings = list(found)
    folder = None if images is None else search_images(images)
    dataset, more = first_records(dataset, folder is not None and folder.ignores_case())
    findings += more
    records = list(dataset.images)
    if folder is not None:
        described = [record.file_name for record in records]
        findings += [*folder.findings, *undescribed(folder, described, lambda _: "no record names it")]
        path_of = {name: image_path(folder.path, name) for name in described}
        missing = {name: None for name, path in path_of.items() if not path.is_file()}
        findings += [Finding("file without image", name, None, "the image is missing", SKIPPED) for name in missing]
        records, more = check_pixels([record for record in records if record.file_name not in missing], path_of)
        findings += more
    repaired, more = repair_all((record.file_name, record) for record in records)
    cleaned = replace(dataset, images=repaired)
    return cleaned, report(records, {"all": cleaned}, findings + more)


def check_pixels(
    records: Sequence[ImageRecord], path_of: Mapping[str, Path]
) -> tuple[list[ImageRecord], list[Finding]]:
    """Decode every image, and convert the boxes to the image's frame where the sizes determine how.

    Args:
        records: the records as they were read.
        path_of: {file name of a record: its image file}.

    Returns:
        (the records that can be used, in the frames of their images; findings).
    """
    kept, findings = [], []
    for record, picture in zip(records, measure([path_of[record.file_name] for record in records]), strict=True):
        if isinstance(picture, str):
            findings.append(Finding("image unreadable", record.file_name, None, picture, SKIPPED))
            continue
        fitted_record, fitted = fit_record(record, picture)
        image = path_of[record.file_name].name
        findings += pixel_findings(record.file_name, image, (record.width, record.height), picture, fitted)
        if fitted_record is not None:
            kept.append(fitted_record)
    return kept, findings


def pixel_findings(
    file: str, image: str, stated: tuple[int, int] | None, picture: Picture, fitted: Fitted
) -> list[Finding]:
    """Findings about the size, the orientation and the bit depth of an image that could be decoded.

    Args:
        file: the file name for the findings; image: the name of the image file.
        stated: (width, height) in the annotation; None if it has no size.
        picture: properties of the pixels.
        fitted: the boxes in the frame of the image.
    """
    findings = []
    if picture.few_bits:
        detail = f"{image}: scale its values to 16 bits, or save it with 8"
        findings.append(Finding("image of few bits", file, None, detail))
    if fitted.kind:
        given = "states no size" if stated is None else f"states {stated[0]} x {stated[1]}"
        turn = f", EXIF orientation {picture.orientation}" if picture.orientation > 1 else ""
        detail = f"the annotation {given}, {image} has {picture.width} x {picture.height} pixels{turn}"
        detail = f"{detail}; {fitted.detail}" if fitted.detail else detail
        findings.append(Finding(fitted.kind, file, None, detail, fitted.action or SKIPPED))
    return findings


def _with_ordered_corners(box: Box) -> Box:
    if box.x1 <= box.x2 and box.y1 <= box.y2:
        return box
    x1, x2 = sorted((box.x1, box.x2))
    y1, y2 = sorted((box.y1, box.y2))
    return replace(box, x1=x1, y1=y1, x2=x2, y2=y2)


def _where(box: Box, record: ImageRecord) -> str:
    corners = ", ".join(str(value) for value in box.xyxy)
    return f"{box.label} ({corners}) in {record.width} x {record.height}"


def _cell(text: str) -> str:
    """`text` escaped for a table: rich would read "[...]" as markup, the terminal would obey control characters."""
    return escape(printable(text))


def _parts_table(result: Report) -> Table:
    names = dict.fromkeys(name for part in result.parts.values() for name in part["classes"])
    title = f"{counted(result.images, 'image', 'images')}, {counted(result.objects, 'object', 'objects')} read"
    table = Table("after the repair", *result.parts, title=title, title_justify="left")
    for field in ("images", "without boxes", "boxes"):
        table.add_row(field, *(str(part[field]) for part in result.parts.values()))
    for name in names:
        table.add_row(_cell(f"  {name}"), *(str(part["classes"].get(name, 0)) for part in result.parts.values()))
    return table
