"""The validation report: what is wrong with a data set, where, and what a repair does about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from data_prep.arguments import one_line
from data_prep.atomic import atomic_file, write_json
from data_prep.records import Dataset, ImageRecord

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# every kind of finding, with what it means; the order is the report's
KINDS = {
    "annotation unreadable": "the annotation file cannot be used",
    "image unreadable": "the pixels cannot be decoded",
    "file without image": "an annotation whose image is not there",
    "image without file": "an image that no readable annotation describes",
    "image annotated twice": "a second annotation for an image that has one",
    "file name differs": "the annotation names another image than the one it belongs to",
    "size mismatch": "the annotation's size is not that of the pixels",
    "box outside": "a box leaves its image",
    "box degenerate": "a box without area",
    "box duplicated": "the same rectangle again in the same image",
}
SKIPPED = "skipped"
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        kind: a key of `KINDS`.
        file: the annotation or image file at fault, relative to its folder.
        object: number of the object in its file, from 1; None when the fault is the file's.
        detail: what was given and what was expected, one line.
        action: what the repair does: "skipped" (a file that cannot be used), "left out" (an image without one), "corrected"
            (the size: that of the pixels is taken), "clipped" or "dropped" (the box), "kept".
    """

    kind: str
    file: str
    object: int | None
    detail: str
    action: str = "kept"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of finding {self.kind!r}; expected one of {', '.join(KINDS)}")


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
        """True when a file could not be used."""
        return any(finding.action == SKIPPED for finding in self.findings)

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
                # rich would read "[...]" in a file name as markup
                each.add_row(
                    *(escape(text) for text in (finding.kind, finding.file, number, finding.detail, finding.action))
                )
            console.print(each)
        if len(shown) < len(self.findings):
            console.print(f"... and {len(self.findings) - len(shown)} more, all in audit.txt and audit.json")
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"

    def write(self, folder: Path | str) -> None:
        """Write `audit.json` and `audit.txt` into `folder`."""
        write_json(Path(folder) / "audit.json", self.to_json())
        with atomic_file(Path(folder) / "audit.txt") as file:
            file.write(self.to_text())


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


def repair_all(items: Iterable[tuple[str, ImageRecord]]) -> tuple[tuple[ImageRecord, ...], list[Finding]]:
    """`repair` for many: (name that findings carry, record) each -> (repaired records in order, findings)."""
    pairs = [repair(record, file) for file, record in items]
    return tuple(record for record, _ in pairs), [finding for _, findings in pairs for finding in findings]


def repair(record: ImageRecord, file: str | None = None) -> tuple[ImageRecord, list[Finding]]:
    """Clip boxes that leave the image, drop those without area, and say so.

    Args:
        record: boxes in absolute pixels; `width` and `height` bound them.
        file: the name that findings carry; by default the record's.

    Returns:
        (the record with the remaining boxes in their order, findings). Boxes given twice are found and kept.
    """
    file = file or record.file_name
    kept, findings = [], []
    first_number: dict[tuple, int] = {}
    for number, box in enumerate(record.boxes, start=1):
        corners = ", ".join(str(value) for value in box.xyxy)
        where = f"{box.label} ({corners}) in {record.width} x {record.height}"
        clipped = box.clipped(record.width, record.height)
        action = "dropped" if clipped.is_degenerate else "clipped"
        if not box.is_inside(record.width, record.height):
            findings.append(Finding("box outside", file, number, where, action))
        if box.is_degenerate:
            findings.append(Finding("box degenerate", file, number, where, "dropped"))
        twin = first_number.setdefault(box.xyxy, number)
        if twin != number:
            other = record.boxes[twin - 1].label
            labels = "" if other == box.label else f", as {other} there"
            findings.append(Finding("box duplicated", file, number, f"{where}: same as object {twin}{labels}"))
        if not clipped.is_degenerate:
            kept.append(clipped)
    return replace(record, boxes=tuple(kept)), findings


def audit(dataset: Dataset, images: Path | str | None = None) -> tuple[Dataset, Report]:
    """Check a data set of any format, and its image files when their folder is given.

    Args:
        dataset: as read, unrepaired.
        images: folder that the file names are relative to; None checks the records alone.

    Returns:
        (the repaired data set, its report). Records whose image is missing or unreadable are left out, and the report
        says so.

    Raises:
        FileNotFoundError: `images` is not a folder.
    """
    findings: list[Finding] = []
    records = list(dataset.images)
    if images is not None:
        folder = Path(images)
        present = list_images(folder)
        described = {record.file_name for record in records}
        findings += [
            Finding("image without file", name, None, "no record names it", LEFT_OUT)
            for name in present
            if name not in described
        ]
        missing = {record.file_name for record in records if not (folder / record.file_name).is_file()}
        findings += [Finding("file without image", name, None, "the image is not there", SKIPPED) for name in missing]
        records = [record for record in records if record.file_name not in missing]
        sizes, more = check_pixels([(r.file_name, folder / r.file_name, (r.width, r.height)) for r in records])
        findings += more
        records = [replace(r, width=size[0], height=size[1]) for r, size in zip(records, sizes, strict=True) if size]
    repaired, more = repair_all((record.file_name, record) for record in records)
    cleaned = replace(dataset, images=repaired)
    return cleaned, report(records, {"all": cleaned}, findings + more)


def check_pixels(
    items: Sequence[tuple[str, Path, tuple[int, int] | None]],
) -> tuple[list[tuple[int, int] | None], list[Finding]]:
    """Decode every image; compare its size with the stated one.

    Args:
        items: (name that findings carry, image file, stated (width, height) or None) each.

    Returns:
        ((width, height) of the upright image for each item, None where they cannot be decoded; findings).
    """

    def decode(path: Path) -> tuple[int, int] | str:
        try:
            with Image.open(path) as image:
                image.load()  # before asking for the orientation: PIL applies it to TIFF files by itself
                width, height = image.size
                return (height, width) if _lies_on_its_side(image) else (width, height)
        except Exception as error:  # Pillow raises many types for broken files; each means "cannot be decoded"
            return one_line(f"{path.name}: {type(error).__name__}: {error}".replace(str(path), path.name))

    sizes, findings = [], []
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter's lock while it decodes
        results = pool.map(decode, [path for _, path, _ in items])
        progress = tqdm(results, total=len(items), desc="decoding", unit=" images", delay=1, disable=None)
        for (file, path, stated), size in zip(items, progress, strict=True):
            if isinstance(size, str):
                findings.append(Finding("image unreadable", file, None, size, SKIPPED))
            elif size != stated:
                given = "no size" if stated is None else f"{stated[0]} x {stated[1]}"
                detail = f"{given} given, {size[0]} x {size[1]} pixels in {path.name}"
                findings.append(Finding("size mismatch", file, None, detail, "corrected"))
            sizes.append(None if isinstance(size, str) else size)
    return sizes, findings


def _lies_on_its_side(image: Image.Image) -> bool:
    """EXIF says that the pixels are to be turned by a quarter; boxes are those of the upright image."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
        return False


def list_images(folder: Path | str) -> list[str]:
    """Names of the image files in `folder` and below, "/" between folders, sorted; hidden ones are passed over.

    Raises:
        FileNotFoundError: `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of images at {folder}")
    names = (
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def _parts_table(result: Report) -> Table:
    names = dict.fromkeys(name for part in result.parts.values() for name in part["classes"])
    title = f"{result.images} images, {result.objects} objects read"
    table = Table("after the repair", *result.parts, title=title, title_justify="left")
    for field in ("images", "without boxes", "boxes"):
        table.add_row(field, *(str(part[field]) for part in result.parts.values()))
    for name in names:
        table.add_row(escape(f"  {name}"), *(str(part["classes"].get(name, 0)) for part in result.parts.values()))
    return table
