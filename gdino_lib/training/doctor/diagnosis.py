"""What `gdino check` finds out: remarks, each part's gradient, how well a batch was learned; as JSON and as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gdino_lib.messages import one_line

Level = Literal["ok", "warning", "problem"]
Examination = Literal["data", "batch", "gradients", "overfitting"]

MAX_LISTED = 5  # faults of one kind that get a line each; the others are counted


@dataclass(frozen=True)
class Remark:
    """What was found, in one line.

    Attributes:
        level: "ok"; "warning", which training survives; "problem".
        about: which examination found it.
        text: what, where, and what to do about it.
    """

    level: Level
    about: Examination
    text: str


@dataclass(frozen=True)
class PartGradient:
    """What one step brings to a part of the model.

    Attributes:
        part: beginning of its parameters' names.
        parameters: how many numbers it has; trained: those of them that are not frozen.
        norm: of the gradient; None where nothing arrives, or what arrives is not finite.
    """

    part: str
    parameters: int
    trained: int
    norm: float | None


@dataclass(frozen=True)
class Overfitting:
    """How well the batch was learned by heart.

    Attributes:
        losses, recalls: of each step, before its change of the weights.
        seconds: that it took.
        missing: the boxes that were not found in the end, a line each.
    """

    losses: tuple[float, ...]
    recalls: tuple[float, ...]
    seconds: float
    missing: tuple[str, ...]


@dataclass
class Diagnosis:
    """What `check` found.

    Attributes:
        remarks: in the order of the examinations.
        classes: {name: boxes}.
        prompts: (image, its phrases) of the batch.
        parts: of the model; empty if there was no step.
        overfitting: None if it was not tried.
    """

    remarks: list[Remark] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    prompts: list[tuple[str, list[str]]] = field(default_factory=list)
    parts: tuple[PartGradient, ...] = ()
    overfitting: Overfitting | None = None

    @property
    def problems(self) -> list[Remark]:
        """The remarks on what training does not survive."""
        return [remark for remark in self.remarks if remark.level == "problem"]

    @property
    def is_healthy(self) -> bool:
        """True without problems; warnings do not count."""
        return not self.problems

    def add(self, level: Level, about: Examination, text: str) -> None:
        """Add a remark; line breaks in its text become spaces."""
        self.remarks.append(Remark(level, about, one_line(text)))

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as JSON's values."""
        overfitting = None if self.overfitting is None else asdict(self.overfitting)
        if overfitting:
            overfitting["losses"] = [loss if math.isfinite(loss) else None for loss in overfitting["losses"]]
        return {
            "healthy": self.is_healthy,
            "findings": [asdict(remark) for remark in self.remarks],
            "classes": self.classes,
            "prompts": [{"image": name, "phrases": phrases} for name, phrases in self.prompts],
            "parts": [asdict(part) for part in self.parts],
            "overfitting": overfitting,
        }

    def print(self, console: Console) -> None:
        """Print the remarks, a line each, and a table of the parts."""
        colours = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        about = None
        for remark in self.remarks:
            if remark.about != about:
                about = remark.about
                console.print(f"[bold]{about}[/bold]")
            mark = f"[{colours[remark.level]}]{remark.level:8}[/]"
            console.print(f"  {mark} {escape(remark.text)}", soft_wrap=True, highlight=False)
        if self.parts:
            table = Table("part", "parameters", "trained", "gradient", title="Gradients", title_justify="left")
            for part in self.parts:
                norm = "-" if part.norm is None else f"{part.norm:.1e}"
                table.add_row(part.part, f"{part.parameters:,}", f"{part.trained:,}", norm)
            console.print(table)
        count = len(self.problems)
        verdict = "[green]healthy[/]" if not count else f"[bold red]{count} problem{'s' if count > 1 else ''}[/]"
        warned = sum(remark.level == "warning" for remark in self.remarks)
        console.print(verdict + (f", {warned} warning{'s' if warned > 1 else ''}" if warned else ""), highlight=False)


def first_few(names: Iterable[str], count: int = 4) -> str:
    """The first of several names, and how many more there are; sets are sorted."""
    names = list(names) if isinstance(names, Sequence) else sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
