"""The folder of a training run: what lies in it, who may write to it, and where a run goes on."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdino_lib.training import checkpoints
from gdino_lib.training.checkpoints import TrainingState
from gdino_lib.training.log import LOG

BEST, LAST = "best.safetensors", "last.safetensors"
WRITTEN = {  # by a run, and removed by `overwrite`
    *(BEST, LAST, "best.thresholds.json", "best-adapters", "last-adapters", LOG, "tensorboard", "checkpoints")
}
MAY_CHANGE = {  # when a run goes on
    *("epochs", "patience", "save_every", "validate_every", "accumulation_steps", "gradient_checkpointing")
}


def last_checkpoint(out: Path, resume: bool, overwrite: bool) -> TrainingState | None:
    """The checkpoint to go on with; refuses a folder that a run must not touch, and changes nothing.

    Returns:
        None where the run begins.

    Raises:
        FileExistsError: `out` holds something, and neither `resume` nor `overwrite` was asked for; or something that no
            run wrote; or a run that is over.
        ValueError, FileNotFoundError: a damaged checkpoint.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; expected a folder for the run")
    present = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in present if not _from_a_run(name)]
    if present and not (resume or overwrite):
        raise FileExistsError(
            f"{out} is not empty; choose another folder, or ask for resume, to go on with the run in it, or overwrite "
            "(on the command line --resume, --overwrite)"
        )
    if foreign and (overwrite or len(foreign) == len(present)):
        raise FileExistsError(f"{out} holds {foreign[0]!r}, which no run wrote; choose another folder")
    saved = checkpoints.steps(out) if resume else []
    if not saved:
        if resume and LAST in present:  # a run begun anew would take the place of its weights
            raise FileExistsError(
                f"{out} has a run that is over, without checkpoints to go on from; choose another folder"
            )
        return None
    try:
        return checkpoints.read(saved[-1])
    except (ValueError, FileNotFoundError) as error:
        before = f"; remove {saved[-1]} to go on from {saved[-2].name}" if len(saved) > 1 else ""
        raise ValueError(f"{error}{before}") from None


def check_same_run(out: Path, saved: TrainingState, run: Mapping[str, Any], steps: int) -> None:
    """Refuse to go on with another run's checkpoint.

    Args:
        run: what the run is, as its checkpoints say: "settings", "config", "data", "validation", "processes".
        steps: how many the run will have made.

    Raises:
        ValueError: other settings than `MAY_CHANGE` allows, another model or other data, or more steps than `steps`.
    """
    state, run = saved.state, json.loads(json.dumps(run))
    for name, value in run["settings"].items():
        then = state["settings"].get(name)
        if name not in MAY_CHANGE and then != value:
            raise ValueError(f"{out}: its run has {name} = {then}, not {value}; resume with the same settings")
    if state["config"] != run["config"]:
        raise ValueError(f"{out}: its run trains a model of another configuration")
    for name, kind in (("data", "training data"), ("validation", "validation data")):
        if state[name] != run[name]:
            raise ValueError(f"{out}: its run has other {kind}; resume with the same")
    if state["processes"] != run["processes"]:
        text = f"{state['processes']} processes, not {run['processes']}"
        warnings.warn(f"the run was begun on {text}: it goes on, though not bit for bit", stacklevel=3)
    if state["step"] > steps:
        raise ValueError(
            f"{out}: its run has made {state['step']} steps, and {run['settings']['epochs']} epochs are {steps}; "
            "resume with more epochs"
        )


def prepare(out: Path, resume: bool) -> None:
    """Make the folder, without an earlier run unless that goes on, and without what a killed run left half-written."""
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        if _from_a_run(path.name) and (not resume or path.name not in WRITTEN):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _from_a_run(name: str) -> bool:
    """Whether a run wrote this, or was killed while it wrote it."""
    return name in WRITTEN or any(name.startswith(f".{written}.") for written in WRITTEN)
