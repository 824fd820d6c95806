"""Damaged weight files: loaded as they are, or refused in one line; nothing in them runs, and none takes all memory."""

import argparse
import json
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from fuzz import FaultError, check_nothing_aside, run
from safetensors.torch import load_file, save_file
from small_runs import model
from traps import Trap
from weight_files import OFFICIAL, published

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.weights import loading

VALUES = [
    None,
    True,
    0,
    -1,
    1,
    1.5,
    10**9,
    10**19,
    10**400,
    "",
    "1",
    "nano",
    [],
    [1],
    [10**9] * 4,
    {},
    {"a": 1},
    float("nan"),
]


@cache
def whole(folder):
    """The bytes of whole files: ours, and an official one; made once."""
    loading.save(model(), folder / "ours.safetensors")
    torch.save({"model": published(OFFICIAL)}, folder / "official.pth")
    return {name: (folder / name).read_bytes() for name in ("ours.safetensors", "official.pth")}


def attack(rng, place):
    """One weight file."""
    files = whole(Path(place).parent)
    way = rng.choice(["bytes", "header", "configuration", "tensors", "tensors", "pickle", "official"])
    path = place / ("w.pth" if way in ("pickle", "official") else "w.safetensors")
    WAYS[way](rng, files, path)
    if rng.random() < 0.3:
        ran = run(main, ["convert", path, place / "out.safetensors", "--to", "gdino_lib"])
        if (ran.status == 0) != (place / "out.safetensors").exists():
            raise FaultError("half-written", f"convert: {ran.status}, {ran.err}")
    else:
        _load(path)
    if (place / "trap").exists():
        raise FaultError("traceback", "code in a weight file ran")
    check_nothing_aside(place)


def _load(path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            loaded = gd.load(path, "cpu")
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                raise FaultError("not one line", str(error)) from None
            return
    state = loaded.state_dict()
    if not said and not all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point()):
        raise FaultError("silent loss", "NaN or infinite weights loaded without a word")
    if path.suffix == ".safetensors":
        for name, tensor in load_file(path).items():
            if name in state and not torch.equal(state[name], tensor.to(state[name].dtype)):
                raise FaultError("silent loss", f"{name} is not as the file has it")


def _bytes(rng, files, path):
    data = bytearray(files["ours.safetensors"])
    if rng.random() < 0.5:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.choice([1, 10])):
        if data:
            data[rng.randrange(min(len(data), rng.choice([8, 2000, len(data)])))] = rng.randrange(256)
    path.write_bytes(data)


def _header(rng, files, path):
    """Safetensors' own table of contents: names, kinds, shapes and places."""
    data = files["ours.safetensors"]
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = rng.choice([name for name in header if name != "__metadata__"])
    field = rng.choice(["dtype", "shape", "data_offsets", None])
    if field is None:
        header[rng.choice(["__metadata__", name])] = rng.choice(VALUES[:-1])
    else:
        header[name][field] = rng.choice([*VALUES[:-1], "F64", "I8", [10**9, 10**9], [0, 10**15], [2**63, 2**64]])
    text = json.dumps(header).encode()
    length = rng.choice([len(text), len(text), len(text), 2**62, 0])
    path.write_bytes(
        struct.pack("<Q", length) + text + data[8 + length :] if length < 2**40 else struct.pack("<Q", length) + text
    )


def _configuration(rng, files, path):
    """The configuration that our files carry."""
    source = path.with_name("whole")
    source.write_bytes(files["ours.safetensors"])
    state = load_file(source)
    config = model().config.to_dict()
    key = rng.choice(list(config))
    if rng.random() < 0.2:
        del config[key]
    else:
        config[key] = rng.choice(VALUES)
    if rng.random() < 0.1:
        config["another"] = 1
    try:
        text = json.dumps(config)
    except ValueError:
        text = "{"
    save_file(
        state,
        path,
        {"format": "pt", "gdino_lib": text if rng.random() < 0.9 else rng.choice(["", "[]", "1", "{", "null"])},
    )
    source.unlink()


def _tensors(rng, files, path):
    """One tensor another, or missing, or too many."""
    source = path.with_name("whole")
    source.write_bytes(files["ours.safetensors"])
    state = load_file(source)
    metadata = loading.our_metadata(model().config)
    name = rng.choice(list(state))
    tensor = state[name]
    changes = {
        "missing": lambda: state.pop(name),
        "more": lambda: state.update({f"{name}.x": tensor.clone()}),
        "shape": lambda: state.update({name: torch.zeros(*tensor.shape, 2)}),
        "empty": lambda: state.update({name: torch.zeros(0)}),
        "kind": lambda: state.update(
            {name: tensor.to(rng.choice([torch.int8, torch.bool, torch.float16, torch.float64]))}
        ),
        "NaN": lambda: state.update({name: torch.full_like(tensor.float(), rng.choice([float("nan"), float("inf")]))}),
        "renamed": lambda: state.update({name.upper(): state.pop(name)}),
    }
    rng.choice(list(changes.values()))()
    save_file(state, path, metadata)
    source.unlink()


def _pickle(rng, files, path):
    """What people put into `.pth` files, and what nobody should."""
    state = {name: torch.zeros(2) for name in ("a", "b")}
    content = rng.choice(
        [
            {"model": state, "args": argparse.Namespace(lr=1)},
            {"model": Trap(path.with_name("trap"))},
            OrderedDict(state), {"model": None}, {"model": {"a": 1}}, [state], None, 3, "text", {1: torch.zeros(1)},
            {"state_dict": {"model": {"state_dict": state}}}, {"model": {"a": torch.zeros(2).to_sparse()}}, torch.zeros(3),
        ]
    )  # fmt: skip
    if rng.random() < 0.3:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.8)
    if rng.random() < 0.2 and zipfile.is_zipfile(path):  # deflated: many times larger in memory than on disk
        with zipfile.ZipFile(path) as old:
            parts = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in parts.items():
                new.writestr(name, data + b"\0" * (20_000_000 if "/data/" in name else 0))


def _official(rng, files, path):
    data = bytearray(files["official.pth"])
    for _ in range(rng.choice([0, 1, 20])):
        data[rng.randrange(rng.choice([1000, 100_000, len(data)]))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(data)


WAYS = {"bytes": _bytes, "header": _header, "configuration": _configuration, "tensors": _tensors, "pickle": _pickle}
WAYS["official"] = _official
