"""Tensors from files and into them: read without running anything that they hold, written whole or not at all.

What the tensors mean is the business of `gdino_lib.weights.layouts`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gdino_lib.companion import require_data_prep
from gdino_lib.messages import first_line
from gdino_lib.weights.pickles import read_torch

State = dict[str, Tensor]


def read_tensors(path: Path) -> tuple[State, dict[str, str]]:
    """What a weight file, or a folder of such files, holds: (dense tensors on the CPU, safetensors' metadata).

    A folder has `model.safetensors`, or an index of shards, or the same as `pytorch_model.bin`, or one file only.

    Raises:
        FileNotFoundError: nothing there, or a shard is missing.
        ValueError: damaged, or something other than tensors inside; the latter is not executed.
        OSError: not readable.
    """
    if path.is_dir():
        state: State = {}
        metadata: dict[str, str] = {}
        for file in _files_of(path):
            tensors, more = read_tensors(file)
            if twice := state.keys() & tensors.keys():
                raise ValueError(f"{file} holds {min(twice)}, which another file of its folder holds, too")
            state |= tensors
            metadata |= more
        return state, metadata
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickle(path), {})
    if not state or not all(isinstance(t, Tensor) and t.layout is torch.strided and t.is_cpu for t in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors")
    for name, tensor in state.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            shape = list(tensor.shape)
            raise ValueError(f"{path}: the tensor {name:.60} is {shape}, of fewer numbers repeated; save it whole")
    return state, metadata


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as JSON: {first_line(error)[:300]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()


def weights_digest(path: Path) -> str:
    """SHA-256 of a weight file, in hexadecimal digits, as `sha256sum` prints it.

    Of a folder with several shards, SHA-256 of their digests in the order of their names.

    Raises:
        FileNotFoundError, ValueError: as `read_tensors`.
    """
    files = _files_of(path) if path.is_dir() else [path]
    digests = [file_digest(file) for file in files]
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def write_safetensors(path: Path, state: State, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, whole or not at all, for which they stand twice in memory."""

    # clones: the format refuses tensors that share memory, or have gaps
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    data = safetensors.torch.save(plain, {"format": "pt"} | (metadata or {}))
    _write_bytes(path, data)


def write_pth(path: Path, state: State) -> None:
    """Write tensors as `{"model": state}`, see `write_torch`."""
    write_torch(path, {"model": {name: tensor.detach() for name, tensor in state.items()}})


def write_torch(path: Path, content: Any) -> None:
    """Write what `torch.save` can, whole or not at all, for which it stands twice in memory.

    Raises:
        OSError: a full disk, or not writable.
    """

    data = io.BytesIO()  # torch reports a full disk in words of its own, Python in the system's
    torch.save(content, data)
    _write_bytes(path, data.getbuffer())


def _write_bytes(path: Path, data: bytes | memoryview) -> None:
    require_data_prep()  # reading does without it
    from data_prep.atomic import atomic_file

    with atomic_file(path, "wb") as file:
        file.write(data)


def _files_of(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    files = [file for suffix in ("safetensors", "pth", "pt", "bin") for file in folder.glob(f"*.{suffix}")]
    if not files:
        raise FileNotFoundError(f"no weight file in the folder {folder}; expected model.safetensors")
    if len(files) > 1:
        names = ", ".join(sorted(file.name for file in files)[:4])
        raise ValueError(f"{folder} holds {len(files)} weight files ({names}); pass the path of one of them")
    return files


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(n, str) and Path(n).name == n for n in places.values()):
        raise ValueError(f"{index}: expected a weight_map from tensors to files beside it")
    files = [index.with_name(name) for name in sorted(set(places.values()))]
    if absent := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{index} names {', '.join(absent[:4])}, and no such file is there")
    return files


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {first_line(error)[:300]}") from None


def _read_pickle(path: Path) -> State:
    """A `.pth` file's state dict: the file's only content, or under "model" or "state_dict"; without "module."."""
    content = read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict of tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
