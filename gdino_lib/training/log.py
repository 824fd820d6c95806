"""The log of a run: a line of JSON per step, TensorBoard, and a progress bar."""

from __future__ import annotations

import json
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

from tqdm import tqdm

from data_prep.atomic import atomic_file
from data_prep.formats.json_text import parse

LOG = "log.jsonl"
VALIDATION_FIELDS = {"step": int, "epoch": int, "ap": float, "ap50": float}
STEP_FIELDS = {  # the values of a dict are numbers
    **{"step": int, "epoch": int, "loss": float, "parts": dict, "lr": float},
    **{"gradient_norm": (int, float, NoneType), "images_per_second": float},
}
SILENCE = 300  # seconds after which a line is printed, where no terminal shows the bar


def read_log(out: Path | str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The log of a run, for tables and plots.

    Returns:
        (an entry per step: "step" from 1, "epoch" from 1, "loss", "parts" {name: loss}, "lr", "gradient_norm",
        "images_per_second"; the norm is None if float16 overflowed;
        an entry per validation: "step", "epoch", "ap", "ap50").

    Raises:
        FileNotFoundError: there is no log in `out`.
        ValueError: the log is damaged; the message names the file and the line.
    """
    path = Path(out) / LOG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the log of a training run")
    entries = _entries(path)
    return [e for e in entries if "loss" in e], [e for e in entries if "ap" in e]


class RunLog:
    """Writes the log of a run; call `close` at the end.

    Args:
        out: folder of the run.
        step: number of steps that were made. Entries of later steps, which a killed run has left, are removed.
        judged: step of the last validation. Entries of later validations are removed, too.
        steps: number of steps of the whole run.
        progress: show a progress bar if there is a terminal.
    """

    def __init__(self, out: Path, step: int, judged: int, steps: int, progress: bool = True) -> None:
        path = out / LOG
        entries = _entries(path) if path.is_file() else []
        kept = [entry for entry in entries if entry["step"] <= (judged if "ap" in entry else step)]
        with atomic_file(path) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept)
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(out, step)
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=None if progress else True)
        self._progress, self._steps = progress, steps
        self._said = time.monotonic()
        self._ap = next((f", AP {e['ap']:.3f}" for e in reversed(kept) if "ap" in e), "")

    def step(self, entry: dict[str, Any]) -> None:
        """Log a step; `read_log` describes the entry."""
        self._write(entry)
        speed = entry["images_per_second"]
        self._bar.set_postfix_str(f"loss {entry['loss']:.2f}{self._ap}, {speed:.1f} images/s", refresh=False)
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._said > SILENCE:
            self.say(f"step {entry['step']}/{self._steps}: loss {entry['loss']:.2f}{self._ap}, {speed:.1f} images/s")
        if self._board:
            values = {"loss": entry["loss"], "lr": entry["lr"], "gradient norm": entry["gradient_norm"]}
            values |= {f"parts/{name}": value for name, value in entry["parts"].items()}
            for name, value in (values | {"images per second": speed}).items():
                if value is not None:
                    self._board.add_scalar(name, value, entry["step"])

    def validation(self, entry: dict[str, Any]) -> None:
        """Log a validation; `read_log` describes the entry."""
        self._write(entry)
        self._ap = f", AP {entry['ap']:.3f}"
        if self._board:
            for name in ("ap", "ap50"):
                self._board.add_scalar(f"validation/{name}", entry[name], entry["step"])

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._said = time.monotonic()
        if self._progress:
            tqdm.write(text)

    def close(self) -> None:
        """Close the files and the progress bar."""
        self._bar.close()
        self._file.close()
        if self._board:
            self._board.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()  # of a killed run, at most the last line is incomplete


def _entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a log. A killed run may leave a last line without a line break, which counts if it is complete.

    Raises:
        ValueError: another line that no run has written, or a step that is not after the one before; with file and line.
    """
    *lines, unfinished = path.read_bytes().split(b"\n")
    entries = [_entry(line, path, number) for number, line in enumerate(lines, start=1)]
    with suppress(ValueError):
        entries.append(_entry(unfinished, path, len(lines) + 1))
    before = {"loss": 0, "ap": 0}
    for number, entry in enumerate(entries, start=1):
        kind = "loss" if "loss" in entry else "ap"
        if entry["step"] <= before[kind]:
            raise ValueError(f"{path}:{number}: expected a step after {before[kind]}, got {entry['step']}")
        before[kind] = entry["step"]
    return entries


def _entry(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """One line, with the fields of `read_log`."""
    try:
        entry = parse(line.decode("utf-8"), path, number)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{number}: expected UTF-8; {error.reason}") from None
    for name, kind in (STEP_FIELDS if "loss" in entry else VALIDATION_FIELDS).items():
        value = entry.get(name)
        values = list(value.values()) if isinstance(value, dict) and kind is dict else [value]
        wanted = (int, float) if kind is dict or kind is float else kind
        if not all(isinstance(each, wanted) and not isinstance(each, bool) for each in values):
            raise ValueError(f"{path}:{number}: expected {name!r} as a run writes it, got {value!r:.60}")
    if min(entry["step"], entry["epoch"]) < 1:
        raise ValueError(f"{path}:{number}: expected a step and an epoch of at least 1, got {line.decode()[:60]}")
    return entry


def _tensorboard(out: Path, step: int):  # noqa: ANN202 - optional
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        warnings.warn("no TensorBoard logs: tensorboard is not installed, pip install 'gdino_lib[train]'", stacklevel=3)
        return None
    return SummaryWriter(out / "tensorboard", purge_step=step + 1)
