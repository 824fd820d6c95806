"""What is wrong with a data set: the kinds of faults, one fault, and where readers put theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.arguments import one_line, printable

# every kind of finding, with what it means; the order is the report's
KINDS = {
    "annotation unreadable": "an annotation file, or what it says of one image, cannot be used",
    "object unreadable": "an object whose name or box cannot be read",
    "detail unreadable": "a field besides names and boxes that cannot be read",
    "detail mended": "a value against the rules of its format that can only mean one thing",
    "image unreadable": "the pixels cannot be decoded",
    "file not read": "a file of a kind that is not read",
    "file without image": "an annotation whose image is not there",
    "image without file": "an image that no readable annotation describes",
    "image annotated twice": "a second annotation for an image that has one",
    "file name differs": "the annotation names another image than the one it belongs to",
    "size mismatch": "the annotation's size is not that of the pixels",
    "orientation uncertain": "the size does not tell whether boxes were drawn before or after the turn that EXIF asks for",
    "image of few bits": "a 16-bit image whose values fill few bits: it is read as nearly black",
    "box outside": "a box leaves its image",
    "corners swapped": "a box whose right edge is left of its left one, or its bottom above its top",
    "box degenerate": "a box without area",
    "box duplicated": "the same rectangle again in the same image",
}
SKIPPED = "skipped"
MENDED = "mended"
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        kind: a key of `KINDS`.
        file: the annotation or image file at fault, relative to its folder; escapes stand for what a terminal must not get.
        object: number of the object in its file, from 1; None when the fault is the file's.
        detail: what was given and what was expected, one line.
        action: what the repair does: "skipped" (a file or a part of it that cannot be used), "mended" (a value is read as
            the one thing that it can mean), "left out" (an image without an annotation, a file that is not read), "scaled"
            or "turned" (size and boxes are those of the pixels), "corrected" (the size is, and there are no boxes, or there
            was no size), "clipped", "swapped" or "dropped" (the box), "kept".
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
        """True where something could not be used as it stands: a strict reader stops there."""
        return self.action in (SKIPPED, MENDED)


class Faults:
    """Where a reader puts what it cannot use, so that one bad detail costs that detail alone.

    Args:
        path: the file that is read.
        found: the findings so far, to which others are added.
        file: the name of `path` in findings, where it is not its last part.
        strict: raise the first fault; by default where there is no list that would take it.
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
        """Note a fault, or with another action what is none.

        Raises:
            ValueError: it is a fault, and the reader is strict; `path: detail`, with the line where it has one.
        """
        place = "" if line is None else f"line {line}: "
        finding = Finding(kind, self.file, object, place + detail, action)
        if self.strict and finding.is_fault:
            raise ValueError(f"{self.path}{'' if line is None else f':{line}'}: {detail}")
        self.found.append(finding)

    def mend(self, detail: str, reading: object, line: int | None = None, object: int | None = None) -> None:
        """Note a value that is read as the one thing that it can mean.

        Raises:
            ValueError: as `add`.
        """
        read_as = "" if self.strict else f"; read as {reading!r}"
        self.add("detail mended", detail + read_as, line, object, MENDED)

    def mender(self, place: str, line: int | None = None) -> Callable[[str, Any], None]:
        """`mend` for the values of one place."""
        return lambda detail, reading: self.mend(f"{place}: {detail}" if place else detail, reading, line)

    def is_mine(self, error: Exception) -> bool:
        """True for an error that a strict reader raises, and that has its place already."""
        return self.strict and str(error).startswith(str(self.path))

    @contextmanager
    def costing(self, kind: str, place: str = "", line: int | None = None) -> Iterator[None]:
        """A `ValueError` in the block ends the block alone: it is noted as this kind of fault, at this place."""
        try:
            yield
        except (ValueError, OverflowError) as error:  # OverflowError: an integer too long to be a coordinate
            if self.is_mine(error):
                raise
            self.add(kind, f"{place}: {error}" if place else str(error), line)


def note_all(findings: Iterable[Finding], faults: Faults) -> None:
    """Add findings about the files of a folder, which is the path of `faults`.

    Raises:
        ValueError: `faults` is strict, and one of them is a fault.
    """
    for finding in findings:
        if faults.strict and finding.is_fault:
            raise ValueError(f"{faults.path / finding.file}: {finding.detail}")
        faults.found.append(finding)
