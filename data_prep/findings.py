"""The faults of a data set: their kinds, one finding, and the list that readers add theirs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.arguments import one_line, printable

# kinds of findings and their meanings, in the order of the report
KINDS = {
    "annotation unreadable": "an annotation file, or the record of one image in it, cannot be used",
    "object unreadable": "the label or the box of an object cannot be read",
    "detail unreadable": "a field other than labels and boxes cannot be read",
    "detail mended": "a value breaks the rules of its format, but can only mean one thing",
    "image unreadable": "the pixels of an image cannot be decoded",
    "file not read": "a file has a suffix that is not read",
    "file without image": "the image of an annotation is missing",
    "image without file": "no readable annotation describes an image",
    "image annotated twice": "an image has a second annotation",
    "file name differs": "an annotation does not name the image that it belongs to",
    "size mismatch": "the size in an annotation is not the size of the image",
    "orientation uncertain": "the boxes may have been drawn before or after the EXIF rotation",
    "image of few bits": "a 16-bit image uses few of its bits, so it is read as nearly black",
    "box outside": "a box extends beyond its image",
    "corners swapped": "a box has its right edge left of its left edge, or its bottom edge above its top edge",
    "box degenerate": "a box has no area",
    "box duplicated": "an image has the same box twice",
}
SKIPPED = "skipped"
MENDED = "mended"
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        kind: a key of `KINDS`.
        file: the annotation or image file with the fault, relative to its folder; control characters are escaped.
        object: number of the object in its file, counted from 1; None if the fault is not in an object.
        detail: one line with what was given and what was expected.
        action: what the repair does with the faulty file, object, field or image:

            - "skipped": it cannot be used and is left out
            - "mended": the value is read as the only thing that it can mean
            - "left out": the image has no annotation, or the file has a suffix that is not read
            - "scaled", "turned": the boxes are converted to the frame of the image, and the size becomes the image's
            - "corrected": the size becomes the image's; there are no boxes, or there was no size before
            - "clipped", "swapped", "dropped": the box, its corners, or the whole box
            - "kept": nothing
    """

    kind: str
    file: str
    object: int | None
    detail: str
    action: str = "kept"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of finding {self.kind!r}; expected one of {', '.join(KINDS)}")
        object.__setattr__(self, "file", printable(self.file))
        object.__setattr__(self, "detail", one_line(self.detail))

    @property
    def is_fault(self) -> bool:
        """True if something could not be used as it is, so that a strict reader stops."""
        return self.action in (SKIPPED, MENDED)


class Faults:
    """Collects the faults that a reader finds, so that the reader can go on without the faulty detail.

    Args:
        path: the file that is read.
        found: the list to which findings are added.
        file: the name of `path` for the findings; by default its last part.
        strict: raise the first fault instead of adding it; by default True if `found` is None.
    """

    def __init__(
        self, path: Path, found: list[Finding] | None = None, file: str | None = None, strict: bool | None = None
    ) -> None:
        self.path, self.file = path, file or path.name
        self.found = [] if found is None else found
        self.strict = found is None if strict is None else strict

    def add(
        self, kind: str, detail: str, line: int | None = None, object: int | None = None, action: str = SKIPPED
    ) -> None:
        """Add a finding; with the default action it is a fault.

        Raises:
            ValueError: the finding is a fault, and the reader is strict. The message is `path:line: detail`, or
                `path: detail` without a line.
        """
        place = "" if line is None else f"line {line}: "
        finding = Finding(kind, self.file, object, place + detail, action)
        if self.strict and finding.is_fault:
            raise ValueError(f"{self.path}{'' if line is None else f':{line}'}: {detail}")
        self.found.append(finding)

    def mend(self, detail: str, reading: object, line: int | None = None, object: int | None = None) -> None:
        """Add a finding for a value that breaks the rules, and is read as `reading`, the only thing that it can mean.

        Raises:
            ValueError: as `add`.
        """
        read_as = "" if self.strict else f"; read as {reading!r}"
        self.add("detail mended", detail + read_as, line, object, MENDED)

    def mender(self, place: str, line: int | None = None) -> Callable[[str, Any], None]:
        """A function that calls `mend` with messages that begin with `place`."""
        return lambda detail, reading: self.mend(f"{place}: {detail}" if place else detail, reading, line)

    def is_mine(self, error: Exception) -> bool:
        """True for an error that `add` has raised for a strict reader; its message begins with the path already."""
        return self.strict and str(error).startswith(str(self.path))

    @contextmanager
    def costing(self, kind: str, place: str = "", line: int | None = None) -> Iterator[None]:
        """Turn a `ValueError` that the block raises into a fault of this kind, with the place before its message."""
        try:
            yield
        except (ValueError, OverflowError) as error:  # OverflowError: an integer too long to be a coordinate
            if self.is_mine(error):
                raise
            self.add(kind, f"{place}: {error}" if place else str(error), line)


def note_all(findings: Iterable[Finding], faults: Faults) -> None:
    """Add findings about the files of a folder to `faults`, whose path is this folder.

    Raises:
        ValueError: `faults` is strict, and one of the findings is a fault.
    """
    for finding in findings:
        if faults.strict and finding.is_fault:
            raise ValueError(f"{faults.path / finding.file}: {finding.detail}")
        faults.found.append(finding)
