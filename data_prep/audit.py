"""The validation report: what is wrong with a data set, where, and what a repair does about it."""

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

from data_prep.arguments import printable
from data_prep.atomic import atomic_files, json_text
from data_prep.findings import KINDS, SKIPPED, Finding
from data_prep.frames import Fitted, fit_record
from data_prep.pictures import Picture, image_path, measure, search_images, undescribed
from data_prep.records import Box, Dataset, ImageRecord, picture_key


@dataclass(frozen=True, slots=True)
class Report:
    """An audit's outcome: the counts of what was read, per part where it was split, and every finding.

    Attributes:
        images, objects: how many were read, before any repair.
        parts: {"train" | "test" | "all": {"images", "without boxes", "boxes", "classes": {name: boxes}}}, after the
            repair.
        findings: ordered by kind, file, object.
    """

    images: int
    objects: int
    parts: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def has_skipped(self) -> bool:
        """True when a file, or a part of it, could not be used as it stands."""
        return any(finding.is_fault for finding in self.findings)

    def counts(self) -> dict[str, int]:
        """Findings per kind, all `KINDS` in order, zeros included."""
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
        """The report as tables of at most 120 columns; at most `limit` findings in full, all of them by default."""
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
            console.print(f"... and {len(self.findings) - len(shown)} more, all in audit.txt and audit.json")
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"

    def write(self, folder: Path | str) -> None:
        """Write `audit.json` and `audit.txt` into `folder`, both or neither."""
        with atomic_files(Path(folder) / "audit.json", Path(folder) / "audit.txt") as (document, text):
            document.write(json_text(self.to_json()))
            text.write(self.to_text())


def report(read: Iterable[ImageRecord], parts: Mapping[str, Dataset], findings: Iterable[Finding]) -> Report:
    """Put a report together from the records as read, the data sets as repaired, and the findings.

    Args:
        read: all records before the repair, skipped files excluded.
        parts: {"train": ..., "test": ...} or {"all": ...}.
        findings: in any order.
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
    """`repair` for many: (name that findings carry, record) each -> (repaired records in order, findings)."""
    items = list(items)
    each = [None] * len(items) if numbers is None else numbers
    pairs = [repair(record, file, given) for (file, record), given in zip(items, each, strict=True)]
    return tuple(record for record, _ in pairs), [finding for _, findings in pairs for finding in findings]


def repair(
    record: ImageRecord, file: str | None = None, numbers: Sequence[int] | None = None
) -> tuple[ImageRecord, list[Finding]]:
    """Clip boxes that leave the image, swap corners that stand the wrong way round, drop boxes without area, and say so.

    Args:
        record: boxes in absolute pixels; `width` and `height` bound them.
        file: the name that findings carry; by default the record's.
        numbers: of the boxes in their file, where some objects of the file were skipped; by default 1, 2, ...

    Returns:
        (the record with the remaining boxes in their order, findings). Boxes given twice are found and kept.
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
    """A data set with one record for each picture of detection data: the first.

    Two records would contradict each other: what one of them shows is absent by the other. Captions are another matter: a
    picture may have many.

    Args:
        dataset: as read.
        ignore_case: see `picture_key`.

    Returns:
        (the data set without the records that come second, a finding for each of these).
    """
    kept, findings = [], []
    first: dict[str, str] = {}
    for record in dataset.images:
        if record.caption is None:
            key = picture_key(record.file_name, ignore_case)
            if key in first:
                detail = f"a second entry, after that of {first[key]}; its {len(record.boxes)} boxes are not used"
                findings.append(Finding("image annotated twice", record.file_name, None, detail, SKIPPED))
                continue
            first[key] = record.file_name
        kept.append(record)
    return (replace(dataset, images=tuple(kept)) if findings else dataset), findings


def audit(dataset: Dataset, images: Path | str | None = None, found: Iterable[Finding] = ()) -> tuple[Dataset, Report]:
    """Check a data set of any format, and its image files when their folder is given.

    Args:
        dataset: as read, unrepaired.
        images: folder that the file names are relative to; None checks the records alone.
        found: what the reader found.

    Returns:
        (the repaired data set, its report). Records whose image is missing, unreadable, of a size that the boxes do not
        belong to, or described already are left out, and the report says so.

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
        missing = [name for name, path in path_of.items() if not path.is_file()]
        findings += [Finding("file without image", name, None, "the image is not there", SKIPPED) for name in missing]
        records, more = check_pixels([record for record in records if record.file_name not in set(missing)], path_of)
        findings += more
    repaired, more = repair_all((record.file_name, record) for record in records)
    cleaned = replace(dataset, images=repaired)
    return cleaned, report(records, {"all": cleaned}, findings + more)


def check_pixels(
    records: Sequence[ImageRecord], path_of: Mapping[str, Path]
) -> tuple[list[ImageRecord], list[Finding]]:
    """Decode every image, and bring the boxes into its frame where that can be told.

    Args:
        records: as read; path_of: the image file of each file name.

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
    """What is to be said of an image that could be decoded.

    Args:
        file: the name that findings carry; image: the name of the image file.
        stated: (width, height) by the annotation.
        picture: what the pixels say.
        fitted: what became of the boxes.
    """
    findings = []
    if picture.few_bits:
        detail = f"{image}: scale its values to 16 bits, or save it with 8"
        findings.append(Finding("image of few bits", file, None, detail))
    if fitted.kind:
        given = "no size" if stated is None else f"{stated[0]} x {stated[1]}"
        turn = f", EXIF orientation {picture.orientation}" if picture.orientation > 1 else ""
        detail = f"{given} given, {picture.width} x {picture.height} pixels in {image}{turn}"
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
    """A text as a table shows it: rich would read "[...]" as markup, and the terminal control characters as commands."""
    return escape(printable(text))


def _parts_table(result: Report) -> Table:
    names = dict.fromkeys(name for part in result.parts.values() for name in part["classes"])
    title = f"{result.images} images, {result.objects} objects read"
    table = Table("after the repair", *result.parts, title=title, title_justify="left")
    for field in ("images", "without boxes", "boxes"):
        table.add_row(field, *(str(part[field]) for part in result.parts.values()))
    for name in names:
        table.add_row(_cell(f"  {name}"), *(str(part["classes"].get(name, 0)) for part in result.parts.values()))
    return table
