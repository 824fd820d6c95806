"""The folder of a training run: its files, the lock that keeps other runs out, and the checkpoint to resume from."""

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
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.ranges import CheckedFields
from gdino_lib.training import checkpoints, lora
from gdino_lib.training.checkpoints import STATE, TrainingState
from gdino_lib.training.log import LOG
from gdino_lib.training.settings import TrainingSettings

BEST, LAST = "best.safetensors", "last.safetensors"
WRITTEN = {  # files and folders that a run writes, and that `overwrite` removes
    *(BEST, LAST, "best.thresholds.json", "best-adapters", "last-adapters", LOG, "tensorboard", "checkpoints")
}
LOCK = ".lock"  # held while a run reads or writes the folder
MAY_CHANGE = {  # settings that may differ when a run is resumed
    *("epochs", "patience", "save_every", "validate_every", "accumulation_steps", "gradient_checkpointing")
}
PROGRESS = {  # {entry of `state.json`: its type}
    **{"waited": int, "judged": int, "processes": int, "settings": dict, "config": dict, "data": str},
    **{"validation": (str, NoneType), "best": (dict, NoneType)},
}
BEST_FIELDS = {"step": int, "epoch": int, "ap": (int, float), "ap50": (int, float)}


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder while the block runs; the folder is made if it is missing.

    Raises:
        BlockingIOError: another run uses the folder.
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out, out / LOCK):
        yield


def last_checkpoint(out: Path, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to resume from; refuses a folder that a run must not touch, and changes nothing.

    Returns:
        The folder of the newest checkpoint; None if the run begins.

    Raises:
        FileExistsError: `out` holds files, and neither `resume` nor `overwrite` was asked for; or `out` holds files that no
            run wrote, or a finished run without checkpoints.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; expected a folder for the run")
    present = sorted(path.name for path in out.iterdir() if path.name != LOCK) if out.is_dir() else []
    if present and not (resume or overwrite):
        raise FileExistsError(
            f"{out} is not empty; choose another folder, or ask for resume, to continue the run in it, or overwrite "
            "(on the command line --resume, --overwrite)"
        )
    saved = checkpoints.steps(out)
    has_run = LOG in present or bool(saved)  # other names, such as best.safetensors, do not tell who wrote the file
    foreign = None  # a run may continue beside files that its owner has added
    if overwrite or not has_run:
        foreign = other_file(out, _FILES if has_run else _HALF_WRITTEN)
    if foreign:
        raise FileExistsError(f"{out} holds {foreign!r}, which no run wrote; choose another folder")
    if not resume:
        return None
    if not saved and LAST in present:  # a new run would replace the weights of the finished one
        raise FileExistsError(f"{out} has a finished run without checkpoints to resume from; choose another folder")
    return saved[-1] if saved else None


def read_checkpoint(folder: Path) -> TrainingState:
    """Read a checkpoint of a `Trainer`.

    Raises:
        ValueError: a file is damaged or missing; the message names it, and an earlier checkpoint if there is one.
    """
    try:
        saved = checkpoints.read(folder)
        _check_progress(saved)
    except (ValueError, FileNotFoundError) as error:
        earlier = [other.name for other in checkpoints.steps(folder.parents[1]) if other.name < folder.name]
        before = f"; remove {folder} to resume from {earlier[-1]}" if earlier else ""
        raise ValueError(f"{error}{before}") from None
    return saved


def _check_progress(saved: TrainingState) -> None:
    """Refuse a `state.json` with an entry that is missing, of another type or out of range."""
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


def with_later_fields(saved: Mapping[str, Any], defaults: CheckedFields) -> dict[str, Any]:
    """The fields that a checkpoint has saved. A field that is younger than the checkpoint had the effect of its default."""
    return {**json.loads(json.dumps(defaults.to_dict())), **saved}


def check_same_run(saved: TrainingState, run: Mapping[str, Any], steps: int) -> None:
    """Refuse to resume from the checkpoint of another run.

    Args:
        run: the entries that identify a run: "settings", "config", "data", "validation", "pictures", "processes".
        steps: number of steps that the run will have made in the end.

    Raises:
        ValueError: other settings than `MAY_CHANGE` allows, another model or other data, or more steps than `steps`.
    """
    state, run, file = saved.state, json.loads(json.dumps(run)), saved.folder / STATE
    settings = with_later_fields(state["settings"], TrainingSettings())
    config = with_later_fields(state["config"], GroundingDINOConfig())
    for name, value in run["settings"].items():
        then = settings.get(name)
        if name not in MAY_CHANGE and then != value:
            raise ValueError(f"{file}: its run has {name} = {then!r:.60}, not {value}; resume with the same settings")
    if config != run["config"]:
        raise ValueError(f"{file}: its run trains a model of another configuration")
    for name, kind in (("data", "training data"), ("validation", "validation data")):
        if state[name] != run[name]:
            raise ValueError(f"{file}: its run has other {kind}; resume with the same")
    if "pictures" not in state:
        warnings.warn(
            f"{file} is of an earlier version, so it is unknown whether the pictures are still the same", stacklevel=3
        )
    elif state["pictures"] != run["pictures"]:
        raise ValueError(f"{file}: the pictures of its run have other pixels by now; resume with the same files")
    if state["processes"] != run["processes"]:
        text = f"{state['processes']} processes, not {run['processes']}"
        warnings.warn(f"the run began on {text}: it continues, but not bit for bit", stacklevel=3)
    if state["step"] > steps:
        raise ValueError(
            f"{file}: its run has made {state['step']} steps, and {run['settings']['epochs']} epochs are {steps}; "
            "resume with more epochs"
        )


def prepare(out: Path, resume: bool) -> None:
    """Remove half-written files of a killed run and, unless the run is resumed, all files of an earlier run."""
    # the log last, because it tells that a run was here
    for path in sorted(out.iterdir(), key=lambda path: (path.name == LOG, path.name)):
        if path.name != LOCK and _from_a_run(path.name) and (not resume or path.name not in WRITTEN):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _from_a_run(name: str) -> bool:
    """Whether a run wrote the file or folder of this name, or left it half-written when it was killed."""
    return name in WRITTEN or name == LOCK or any(name.startswith(f".{written}.") for written in WRITTEN)


def _alternatives(*names: str) -> str:
    return f"({'|'.join(re.escape(name) for name in names)})"


# patterns of files below the folder: those that a killed run has left half-written, and all that a run may have written
_HALF_WRITTEN = "|".join((re.escape(LOCK), rf"\.{_alternatives(*WRITTEN)}\..+", r"checkpoints/\.step-\d{8}\..+"))
_FILES = "|".join(
    (
        _HALF_WRITTEN,
        _alternatives(BEST, LAST, "best.thresholds.json", LOG),
        rf"(best|last)-adapters/{_alternatives(lora.WEIGHTS, lora.CONFIG)}",
        r"tensorboard/events\.out\.tfevents\.[^/]+",
        rf"checkpoints/step-\d{{8}}/{_alternatives(*checkpoints.FILES)}",
    )
)
