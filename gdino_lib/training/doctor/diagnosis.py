"""The results of `gdino check`: remarks, the gradient of each part, how well a batch was learned; as JSON and as text."""

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

MAX_LISTED = 5  # how many faults of one kind get a line each; the others are only counted


@dataclass(frozen=True)
class Remark:
    """A remark of an examination, in one line.

    Attributes:
        level: "ok"; "warning", a fault with which training works; "problem", a fault with which it does not.
        about: the examination that made the remark.
        text: the fault, its place, and its remedy.
    """

    level: Level
    about: Examination
    text: str


@dataclass(frozen=True)
class PartGradient:
    """The gradient that a training step gives to a part of the model.

    Attributes:
        part: beginning of the names of its parameters.
        parameters: how many numbers its parameters have; trained: how many of these are not frozen.
        norm: norm of the gradient; None if no gradient arrives, or one that is not finite.
    """

    part: str
    parameters: int
    trained: int
    norm: float | None


@dataclass(frozen=True)
class Overfitting:
    """How well the batch was learned by heart.

    Attributes:
        losses, recalls: total loss and recall of each step, before its update of the weights.
        seconds: time that the steps took.
        missing: a line for each box that was not found in the end.
    """

    losses: tuple[float, ...]
    recalls: tuple[float, ...]
    seconds: float
    missing: tuple[str, ...]


@dataclass
class Diagnosis:
    """The results of `check`.

    Attributes:
        remarks: in the order of the examinations.
        classes: {name: number of boxes}.
        prompts: (image, its phrases) for each image of the batch.
        parts: the gradient of each part of the model; empty if no step was made.
        overfitting: None if it was not tried.
    """

    remarks: list[Remark] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    prompts: list[tuple[str, list[str]]] = field(default_factory=list)
    parts: tuple[PartGradient, ...] = ()
    overfitting: Overfitting | None = None

    @property
    def problems(self) -> list[Remark]:
        """The remarks on faults with which training does not work."""
        return [remark for remark in self.remarks if remark.level == "problem"]

    @property
    def is_healthy(self) -> bool:
        """True if there are no problems; warnings do not count."""
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
    """The first of several names, and how many more there are; names without an order, as in sets, are sorted."""
    names = list(names) if isinstance(names, Sequence) else sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
