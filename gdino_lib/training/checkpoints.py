"""What a run needs to go on as if nothing had happened: whole folders, written aside and renamed.

`OUT/checkpoints/step-00000500/` holds `model.safetensors` (all weights as they are, in our layout), `training.pt` (optimiser,
moving average, scaler; read with weights_only) and `state.json` (settings, progress, metrics, versions). No random state is
kept: everything random in a step is drawn from the seed and the step's number.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch

import gdino_lib
from data_prep.atomic import atomic_folder, write_json
from gdino_lib.weights.files import read_tensors, write_safetensors, write_torch

MODEL, TRAINING, STATE = "model.safetensors", "training.pt", "state.json"
KEPT = 2  # the newest is enough; the one before is for a disk that lied


class TrainingState(NamedTuple):
    """A checkpoint as read.

    Attributes:
        model: state dict of the model, adapters included.
        training: optimiser, moving average, scaler.
        state: what `state.json` says.
    """

    model: dict[str, torch.Tensor]
    training: dict[str, Any]
    state: dict[str, Any]


def write(
    out: Path, step: int, model: dict[str, torch.Tensor], training: dict[str, Any], state: dict[str, Any]
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `KEPT`.

    Raises:
        OSError: a full disk or the like; older checkpoints stay as they are.
    """
    folder = out / "checkpoints" / f"step-{step:08d}"
    for half in folder.parent.glob(".step-*"):  # left by a run that was killed
        shutil.rmtree(half, ignore_errors=True)
    with atomic_folder(folder, overwrite=True) as partial:
        write_safetensors(partial / MODEL, model)
        write_torch(partial / TRAINING, training)
        write_json(partial / STATE, state)
    for old in steps(out)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def steps(out: Path) -> list[Path]:
    """The folders of the whole checkpoints in `out`, oldest first."""
    found = (out / "checkpoints").glob("step-*") if (out / "checkpoints").is_dir() else []
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and path.is_dir())


def read(folder: Path) -> TrainingState:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        ValueError: damaged; names the file.
        FileNotFoundError: a file is missing.
    """
    for name in (MODEL, TRAINING, STATE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file, expected a checkpoint's")
    model, _ = read_tensors(folder / MODEL)
    try:
        training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{folder / TRAINING}: not a checkpoint that can be read: {reason}") from None
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / STATE}: expected JSON: {error}") from None
    return TrainingState(model, training, state)


def versions() -> dict[str, str | None]:
    """What this code is: release, git revision (None outside a repository; "+" for uncommitted changes), torch."""
    return {"gdino_lib": gdino_lib.__version__, "revision": _revision(), "torch": torch.__version__}


def _revision() -> str | None:
    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if not git("ls-files", str(Path(__file__))):
            return None  # installed inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
