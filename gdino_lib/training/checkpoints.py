"""Checkpoints, from which a run resumes as if nothing had happened; each is written to a temporary folder and renamed.

`OUT/checkpoints/step-00000500/` holds `model.safetensors` (all weights as they are, in our layout), `training.pt` (optimiser,
moving average, scaler; read with weights_only) and `state.json` (settings, progress, metrics, versions, and digests that
reveal a damaged file). No random state is kept, because everything random in a step is drawn from the seed and the step's
number.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import gdino_lib
from data_prep.atomic import atomic_folder, other_file, write_json
from gdino_lib.weights.files import file_digest, read_json, read_tensors, read_torch, write_safetensors, write_torch

FILES = MODEL, TRAINING, STATE = "model.safetensors", "training.pt", "state.json"
DIGESTS = "sha256"  # in `state.json`: {file name: hexadecimal digest}; its own digest covers all its other entries
KEPT = 2  # the newest checkpoint is enough, unless the disk lost a part of it


class TrainingState(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        folder: the folder that it was read from.
        model: state dict of the model, adapters included.
        training: the states of optimiser, moving average and scaler.
        state: the content of `state.json`, without the digests.
    """

    folder: Path
    model: dict[str, torch.Tensor]
    training: dict[str, Any]
    state: dict[str, Any]


def write(
    out: Path, step: int, model: dict[str, torch.Tensor], training: dict[str, Any], state: dict[str, Any]
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `KEPT`; a folder with other files in it stays.

    Raises:
        OSError: the disk is full, or the folder cannot be written; older checkpoints stay as they are.
    """
    folder = out / "checkpoints" / f"step-{step:08d}"
    for half in folder.parent.glob(".step-*"):  # left by a run that was killed
        shutil.rmtree(half, ignore_errors=True)
    state = json.loads(json.dumps(state))  # the digest must be that of the values as they will be read
    with atomic_folder(folder, overwrite=True, replaceable=FILES) as partial:
        write_safetensors(partial / MODEL, model)
        write_torch(partial / TRAINING, training)
        digests = {STATE: _digest_of_state(state), **_digests_of_files(partial)}
        write_json(partial / STATE, state | {DIGESTS: digests})
    for old in steps(out)[:-KEPT]:
        if other_file(old, FILES) is None:
            aside = old.with_name(f".{old.name}.old")  # a run that is killed here leaves no half checkpoint
            os.replace(old, aside)
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def steps(out: Path) -> list[Path]:
    """The folders of the complete checkpoints in `out`, oldest first."""
    found = (out / "checkpoints").glob("step-*") if (out / "checkpoints").is_dir() else []
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and path.is_dir())


def read(folder: Path) -> TrainingState:
    """Read a checkpoint without executing anything in it. Checkpoints of earlier versions have no digests to compare.

    Raises:
        ValueError: a file is damaged; the message names it.
        FileNotFoundError: a file is missing.
    """
    for name in (MODEL, TRAINING, STATE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file, expected this file in a checkpoint")
    state = read_json(folder / STATE)
    digests = state.pop(DIGESTS, None)
    if digests is not None:
        for name, digest in {STATE: _digest_of_state(state), **_digests_of_files(folder)}.items():
            if not isinstance(digests, dict) or digests.get(name) != digest:
                raise ValueError(f"{folder / name} is damaged: its SHA-256 digest is not the one in {STATE}")
    step = state.get("step")
    if type(step) is not int or folder.name != f"step-{step:08d}":
        raise ValueError(f"{folder / STATE}: expected the step of its folder's name, got {step!r:.40}")
    model, _ = read_tensors(folder / MODEL)
    training = read_torch(folder / TRAINING)
    if not isinstance(training, dict):
        raise ValueError(f"{folder / TRAINING}: expected a dictionary, got {type(training).__name__}")
    return TrainingState(folder, model, training, state)


def check_keys(file: Path, value: Any, expected: Mapping[Any, Any], where: str = "") -> None:
    """Refuse a value that is not a dictionary with the expected keys.

    Raises:
        ValueError: one line with the file and the place in it.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{file}: expected a dictionary{where and ' ' + where}, got {type(value).__name__}")
    for fault, keys in (("lacks", expected.keys() - value.keys()), ("has an unknown", value.keys() - expected.keys())):
        if keys:
            raise ValueError(f"{file}: {where or 'it'} {fault} {min(map(str, keys))!r:.60}")


def check_like(file: Path, value: Any, expected: Any, where: str = "") -> None:
    """Refuse other keys, types or shapes than the expected ones, tensors that are not finite, and negative numbers.

    Raises:
        ValueError: one line with the file and the place in it.
    """
    if isinstance(expected, Mapping):
        check_keys(file, value, expected, where)
        for name, part in expected.items():
            check_like(file, value[name], part, f"{where}.{name}".removeprefix("."))
    elif isinstance(expected, torch.Tensor):
        wanted = f"{expected.dtype} {list(expected.shape)}"
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{file}: {where}: expected {wanted}, got {type(value).__name__}")
        if value.dtype != expected.dtype or value.shape != expected.shape:
            raise ValueError(f"{file}: {where}: expected {wanted}, got {value.dtype} {list(value.shape)}")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{file}: {where}: expected finite numbers, got others among them")
    elif type(value) is not type(expected) or not 0 <= value < float("inf"):
        raise ValueError(
            f"{file}: {where}: expected a number of at least 0 ({type(expected).__name__}), got {value!r:.60}"
        )


def _digest_of_state(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _digests_of_files(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name).hex() for name in (MODEL, TRAINING)}


def versions() -> dict[str, str | None]:
    """The versions of this code: release, git revision (None outside a repository; "+" for uncommitted changes), torch."""
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
