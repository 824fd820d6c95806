"""Read tensors from files without running anything that the files hold, and write tensors whole or not at all.

`gdino_lib.weights.layouts` finds out which part of the model each tensor belongs to.
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
    """Read a weight file or a folder of weight files: (dense tensors on the CPU, metadata of safetensors).

    A folder holds `model.safetensors` or an index of its shards, `pytorch_model.bin` or an index of its shards, or a single
    weight file of another name.

    Raises:
        FileNotFoundError: there is no weight file at `path`, or a shard is missing.
        ValueError: a file is damaged, or holds something other than tensors, which is not executed.
        OSError: a file cannot be read.
    """
    if path.is_dir():
        state: State = {}
        metadata: dict[str, str] = {}
        for file in _files_of(path):
            tensors, more = read_tensors(file)
            if twice := state.keys() & tensors.keys():
                raise ValueError(f"{file} holds the tensor {min(twice)}, and so does another file of the folder")
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
            raise ValueError(
                f"{path}: the tensor {name:.60} of shape {shape} is stored as fewer numbers that repeat; save a full copy"
            )
    return state, metadata


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file holds something else.
        OSError: the file is missing or cannot be read.
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
    """Write tensors, whole or not at all; meanwhile they are in memory twice."""
    # the format refuses tensors that share memory or have gaps, so each tensor is cloned
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    data = safetensors.torch.save(plain, {"format": "pt"} | (metadata or {}))
    _write_bytes(path, data)


def write_pth(path: Path, state: State) -> None:
    """Write tensors as `{"model": state}`, see `write_torch`."""
    write_torch(path, {"model": {name: tensor.detach() for name, tensor in state.items()}})


def write_torch(path: Path, content: Any) -> None:
    """Write an object with `torch.save`, whole or not at all; meanwhile it is in memory twice.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    data = io.BytesIO()  # written by Python, which raises OSError on a full disk; torch raises an error of its own
    torch.save(content, data)
    _write_bytes(path, data.getbuffer())


def _write_bytes(path: Path, data: bytes | memoryview) -> None:
    require_data_prep()  # reading does not need it
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
        raise FileNotFoundError(f"{index} names files that are missing: {', '.join(absent[:4])}")
    return files


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {first_line(error)[:300]}") from None


def _read_pickle(path: Path) -> State:
    """The state dict of a `.pth` file: its whole content, or the part under "model" or "state_dict".

    The prefix "module.", which `DataParallel` puts before every name, is removed.
    """
    content = read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no state dict of tensors")
    state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    if len(state) < len(content):
        raise ValueError(f"{path} holds tensors of one name, with and without the prefix 'module.'")
    return state
