"""Command lines that nobody should type, for `gdino` and `python -m data_prep`: one line each, and nothing left behind."""

import argparse
from pathlib import Path

from fuzz import FaultError, check_nothing_aside, run
from PIL import Image

from data_prep.__main__ import _parser
from data_prep.__main__ import main as data_prep
from gdino_lib.cli.main import main as gdino
from gdino_lib.cli.parser import build_parser

NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "0x1",
    "1_0",
    "\u0661",
    "½",
    "",
    " ",
    "--",
    "9" * 5000,
]
TEXTS = [
    "cat",
    "cat . dog",
    "'cat.' ; dog,",
    ".",
    "",
    " ",
    "\0",
    "\ud800",
    "\x1b[2J",
    "\u202e",
    "a\nb",
    "%s",
    "{}",
    "x" * 5000,
]
TEXTS += [
    "猫",
    "😀",
    "-",
    "--",
    "-x",
    "--x",
    "=",
    "@file",
    "*",
    "[",
    "~",
    "a=b",
    "lr=1",
    "None",
    "auto",
    "cuda",
    "cpu",
    "meta",
]
PATHS = [
    "a.png",
    "b.jpg",
    "bad.png",
    "nowhere.png",
    "folder",
    "empty",
    "boxes.csv",
    "boxes.json",
    "boxes.jsonl",
    "annotations",
]
PATHS += [
    "out",
    "out2/deep",
    ".",
    "..",
    "/",
    "",
    "a\0b",
    "x" * 300,
    "loop",
    "a.png/x",
    "weights.pth",
    "w.safetensors",
    "nano",
    "tiny?",
]
HEAVY = ("build-ops", "export")  # these take seconds on an idle machine, and half a minute on a busy one
# options that would ask for hours of honest work
MODEST = {
    "--count": ["1", "2", "0", "-1", "x", "1.5"],
    "--size": ["16", "64", "0", "-1", "x"],
    "--seconds": ["0", "-1", "x", "nan"],
}


def prepare(place):
    """Files to name: good, bad, and none."""
    Image.new("RGB", (40, 30), "teal").save(place / "a.png")
    Image.new("RGB", (30, 40), "red").save(place / "b.jpg")
    (place / "bad.png").write_bytes(b"\x89PNG no image")
    for name in ("folder", "empty", "annotations"):
        (place / name).mkdir()
    (place / "folder" / "mine.txt").write_text("mine")
    (place / "boxes.csv").write_text(
        "label_name,bbox_x1,bbox_y1,bbox_x2,bbox_y2,image_name,image_width,image_height\ncat,1,2,9,9,a.png,40,30\n"
    )
    (place / "boxes.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (place / "boxes.jsonl").write_text("{}\n")
    (place / "weights.pth").write_bytes(b"PK no weights")
    (place / "w.safetensors").write_bytes(b"\xff" * 40)
    (place / "loop").symlink_to("loop")


def attack(rng, place):
    """One command line, half right."""
    prepare(place)
    is_gdino = rng.random() < 0.6
    parser = build_parser() if is_gdino else _parser()
    (commands,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    name = rng.choice([name for name in commands if name not in HEAVY])
    arguments = [name, *_arguments(commands[name], rng)]
    if rng.random() < 0.1:
        arguments.insert(rng.randrange(len(arguments) + 1), rng.choice(TEXTS + NUMBERS))
    before = _files(place)
    ran = run(gdino if is_gdino else data_prep, arguments)
    if ran.status == 2 and (new := _files(place) - before):
        raise FaultError("half-written", f"{arguments!r} refused and left {min(new)}")
    if missing := before - _files(place):
        raise FaultError("silent loss", f"{arguments!r} removed {min(missing)}")
    check_nothing_aside(place)


def _files(place):
    return {path.relative_to(place).as_posix() for path in Path(place).rglob("*") if not path.is_dir()}


def _arguments(parser, rng):
    arguments = []
    for action in parser._actions:
        if action.dest in ("help", "version"):
            continue
        wanted = action.required or not action.option_strings
        if rng.random() > (0.97 if wanted else 0.12):
            continue
        values = (
            []
            if action.nargs == 0
            else [_value(action, rng) for _ in range(rng.choice([1, 1, 1, 2]) if action.nargs else 1)]
        )
        flag = rng.choice(action.option_strings) if action.option_strings else None
        if flag and len(values) == 1 and rng.random() < 0.5:
            arguments.append(f"{flag}={values[0]}")
        else:
            arguments += [*([flag] if flag else []), *values]
    return arguments


def _value(action, rng):
    flag = action.option_strings[0] if action.option_strings else ""
    if flag in MODEST:
        return rng.choice(MODEST[flag])
    if action.choices and rng.random() < 0.8:
        return str(rng.choice(list(action.choices)))
    if flag == "--epochs":
        return rng.choice(["0", "-1", "x", "1"])
    likely = (
        NUMBERS if action.type in (int, float) or "count" in str(action.type) or "share" in str(action.type) else PATHS
    )
    return rng.choice(likely if rng.random() < 0.8 else TEXTS + NUMBERS + PATHS)
