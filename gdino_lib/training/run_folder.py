"""The folder of a training run: what lies in it, who may write to it, and where a run goes on."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from data_prep.atomic import only_writer, other_file
from gdino_lib.training import checkpoints, lora
from gdino_lib.training.checkpoints import STATE, TrainingState
from gdino_lib.training.log import LOG

BEST, LAST = "best.safetensors", "last.safetensors"
WRITTEN = {  # by a run, and removed by `overwrite`
    *(BEST, LAST, "best.thresholds.json", "best-adapters", "last-adapters", LOG, "tensorboard", "checkpoints")
}
LOCK = ".lock"  # held while a run reads or writes the folder
MAY_CHANGE = {  # when a run goes on
    *("epochs", "patience", "save_every", "validate_every", "accumulation_steps", "gradient_checkpointing")
}
PROGRESS = {  # what the trainer keeps in `state.json` beside what the run is
    **{"waited": int, "judged": int, "processes": int, "settings": dict, "config": dict, "data": str},
    **{"validation": (str, NoneType), "best": (dict, NoneType)},
}
BEST_FIELDS = {"step": int, "epoch": int, "ap": (int, float), "ap50": (int, float)}


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder while the block runs; it is made if need be.

    Raises:
        BlockingIOError: another run is in it; OSError: it is not writable.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, out / LOCK):
        yield


def last_checkpoint(out: Path, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on with; refuses a folder that a run must not touch, and changes nothing.

    Returns:
        None where the run begins.

    Raises:
        FileExistsError: `out` holds something, and neither `resume` nor `overwrite` was asked for; or something that no
            run wrote; or a run that is over.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; expected a folder for the run")
    present = sorted(path.name for path in out.iterdir() if path.name != LOCK) if out.is_dir() else []
    if present and not (resume or overwrite):
        raise FileExistsError(
            f"{out} is not empty; choose another folder, or ask for resume, to go on with the run in it, or overwrite "
            "(on the command line --resume, --overwrite)"
        )
    foreign = next((name for name in present if not _from_a_run(name)), None)
    if overwrite:
        foreign = other_file(out, _FILES)
    elif any(_from_a_run(name) for name in present):  # a run goes on beside what its owner has put there
        foreign = None
    if foreign:
        raise FileExistsError(f"{out} holds {foreign!r}, which no run wrote; choose another folder")
    saved = checkpoints.steps(out) if resume else []
    if not saved and resume and LAST in present:  # a run begun anew would take the place of its weights
        raise FileExistsError(f"{out} has a run that is over, without checkpoints to go on from; choose another folder")
    return saved[-1] if saved else None


def read_checkpoint(folder: Path) -> TrainingState:
    """Read a checkpoint of a `Trainer`.

    Raises:
        ValueError: damaged; names the file, and the checkpoint before it if there is one.
    """
    try:
        saved = checkpoints.read(folder)
        _check_progress(saved)
    except (ValueError, FileNotFoundError) as error:
        earlier = [other.name for other in checkpoints.steps(folder.parents[1]) if other.name < folder.name]
        before = f"; remove {folder} to go on from {earlier[-1]}" if earlier else ""
        raise ValueError(f"{error}{before}") from None
    return saved


def _check_progress(saved: TrainingState) -> None:
    """Refuse a `state.json` that lacks something, or has it as another type or out of range."""
    file, step = saved.folder / STATE, saved.state["step"]
    parts: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [(PROGRESS, saved.state)]
    if isinstance(best := saved.state.get("best"), dict):
        parts.append((BEST_FIELDS, best))
    for kinds, entries in parts:
        for name, kind in kinds.items():
            if name not in entries:
                raise ValueError(f"{file}: expected {name!r}, found none")
            value = entries[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{file}: expected {name!r} as a run writes it, got {value!r:.60}")
            most = step if name in ("judged", "step") else float("inf")
            if isinstance(value, int | float) and not 0 <= value <= most:
                raise ValueError(f"{file}: expected {name!r} in 0..{most}, got {value!r:.60}")


def check_same_run(saved: TrainingState, run: Mapping[str, Any], steps: int) -> None:
    """Refuse to go on with another run's checkpoint.

    Args:
        run: what the run is, as its checkpoints say: "settings", "config", "data", "validation", "pictures", "processes".
        steps: how many the run will have made.

    Raises:
        ValueError: other settings than `MAY_CHANGE` allows, another model or other data, or more steps than `steps`.
    """
    state, run, file = saved.state, json.loads(json.dumps(run)), saved.folder / STATE
    for name, value in run["settings"].items():
        then = state["settings"].get(name)
        if name not in MAY_CHANGE and then != value:
            raise ValueError(f"{file}: its run has {name} = {then!r:.60}, not {value}; resume with the same settings")
    if state["config"] != run["config"]:
        raise ValueError(f"{file}: its run trains a model of another configuration")
    for name, kind in (("data", "training data"), ("validation", "validation data")):
        if state[name] != run[name]:
            raise ValueError(f"{file}: its run has other {kind}; resume with the same")
    if "pictures" not in state:
        warnings.warn(
            f"{file} is of an earlier version: whether the pictures are still the same is not known", stacklevel=3
        )
    elif state["pictures"] != run["pictures"]:
        raise ValueError(f"{file}: the pictures of its run have other pixels by now; resume with the same files")
    if state["processes"] != run["processes"]:
        text = f"{state['processes']} processes, not {run['processes']}"
        warnings.warn(f"the run was begun on {text}: it goes on, though not bit for bit", stacklevel=3)
    if state["step"] > steps:
        raise ValueError(
            f"{file}: its run has made {state['step']} steps, and {run['settings']['epochs']} epochs are {steps}; "
            "resume with more epochs"
        )


def prepare(out: Path, resume: bool) -> None:
    """Empty the folder of an earlier run unless that goes on, and of what a killed run left half-written."""
    for path in out.iterdir():
        if path.name != LOCK and _from_a_run(path.name) and (not resume or path.name not in WRITTEN):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _from_a_run(name: str) -> bool:
    """Whether a run wrote this, or was killed while it wrote it."""
    return name in WRITTEN or name == LOCK or any(name.startswith(f".{written}.") for written in WRITTEN)


def _alternatives(*names: str) -> str:
    return f"({'|'.join(re.escape(name) for name in names)})"


_FILES = "|".join(  # every file below the folder that a run may have written, half-written ones included
    (
        _alternatives(BEST, LAST, "best.thresholds.json", LOG, LOCK),
        rf"(best|last)-adapters/{_alternatives(lora.WEIGHTS, lora.CONFIG)}",
        r"tensorboard/events\.out\.tfevents\.[^/]+",
        rf"checkpoints/step-\d{{8}}/{_alternatives(*checkpoints.FILES)}",
        rf"\.{_alternatives(*WRITTEN)}\..+",
        r"checkpoints/\.step-\d{8}\..+",
    )
)
