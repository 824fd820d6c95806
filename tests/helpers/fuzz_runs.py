"""Damaged checkpoints: a run goes on from what is there, or says in one line which file is at fault."""

import json
import shutil
from functools import cache
from pathlib import Path

from fuzz import FaultError, check_nothing_aside, run
from small_runs import TINY
from training_runs import csv_of

from gdino_lib import config
from gdino_lib.cli.main import main

VALUES = [None, True, 0, -1, 1, 1.5, 10**19, 1e308, "", "1", "\x1b[2J", [], [1], {}, {"a": 1}, -(10**9)]
STEPS = 6  # of the whole run: 12 images, 4 a step, 2 epochs


def arguments(folder):
    """The run, but for its folder."""
    data = ["--train", folder / "shapes.csv", "--images", folder / "images"]
    return [
        "train",
        *data,
        "--from-scratch",
        "nano",
        "--batch-size",
        4,
        "--workers",
        0,
        "--device",
        "cpu",
        "--warmup-steps",
        2,
    ]


@cache
def begun(folder):
    """A run of which one epoch is done; made once."""
    config.PRESETS["nano"] = lambda: TINY
    csv_of(folder)
    done = run(main, [*arguments(folder), "--epochs", 1, "--out", folder / "begun"])
    assert done.status == 0, done.err
    return folder / "begun"


def attack(rng, place):
    """One damaged run, which is to go on."""
    source = begun(Path(place).parent)
    out = place / "run"
    shutil.copytree(source, out)
    (checkpoint,) = (out / "checkpoints").iterdir()
    target = rng.choice(["state", "state", "state", "log", "log", "training", "model", "missing"])
    if target == "state":
        _damage_state(checkpoint / "state.json", rng)
    elif target == "log":
        _damage_log(out / "log.jsonl", rng)
    elif target == "missing":
        path = rng.choice([path for path in out.rglob("*") if path.is_file()])
        path.unlink()
    else:
        _damage_bytes(checkpoint / {"training": "training.pt", "model": "model.safetensors"}[target], rng)
    before = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    ran = run(main, [*arguments(source.parent), "--epochs", 2, "--out", out, "--resume"])
    if ran.status == 2:
        if missing := before - {path.relative_to(out) for path in out.rglob("*") if path.is_file()}:
            raise FaultError("silent loss", f"a refused --resume removed {min(missing)}: {ran.err}")
    elif ran.status == 0 and f"{STEPS} steps; weights" not in ran.out:
        raise FaultError("silent loss", f"the run ended elsewhere: {ran.out}")
    elif ran.status == 0 and not ran.err and ", 3 of them done" not in ran.out:
        raise FaultError("silent loss", f"the run began anew without a word ({target}): {ran.out}")
    check_nothing_aside(place)


def _damage_state(path, rng):
    if rng.random() < 0.2:
        return _damage_bytes(path, rng)
    state = json.loads(path.read_text("utf-8"))
    holder = state
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.3:
            break
        holder = holder[key]
    if rng.random() < 0.4:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    path.write_text(json.dumps(state), "utf-8")
    return None


def _damage_log(path, rng):
    if rng.random() < 0.3:
        return _damage_bytes(path, rng)
    lines = path.read_text("utf-8").splitlines()
    number = rng.randrange(len(lines))
    if rng.random() < 0.3:
        lines[number] = rng.choice(["", "{}", "[]", "1", "null", '{"step": 1}', '"text"'])
    else:
        entry = json.loads(lines[number])
        key = rng.choice(list(entry))
        if rng.random() < 0.5:
            del entry[key]
        else:
            entry[key] = rng.choice(VALUES)
        lines[number] = json.dumps(entry)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return None


def _damage_bytes(path, rng):
    data = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.choice([1, 10])):
        if data:
            data[rng.randrange(min(len(data), rng.choice([200, len(data)])))] = rng.randrange(256)
    path.write_bytes(data)
