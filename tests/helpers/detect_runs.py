"""Runs of `gdino detect`: make inputs, run the command, read its results."""

import json
from pathlib import Path

import numpy as np
from films import noise, write_film
from PIL import Image

import gdino_lib as gd
from gdino_lib.cli.main import main

LOW = ["--box-threshold", "0.1", "--text-threshold", "0.1"]
TABLES = {"detections.json", "detections.csv", "detections.coco.json"}


def picture(path, size=(90, 60), seed=0, mode="RGB", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return str(path)


def film(path, size=(64, 48), frames=5, codec="mjpeg", rate=10):
    return write_film(path, noise(frames, size), rate, codec)


def detect(*arguments, phrases="cat . remote control ."):
    return main(["detect", *map(str, arguments), "--phrases", phrases, *LOW])


def status(arguments):
    """The exit status of a command; argparse raises an exception instead of returning."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


def files(folder="detections"):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def document(folder="detections"):
    return json.loads((Path(folder) / "detections.json").read_text("utf-8"))


def interrupt_at(monkeypatch, number, act):
    """Make the `number`th call of a detector call `act` first."""
    calls, real = [], gd.Detector.__call__

    def call(self, *arguments, **options):
        calls.append(1)
        if len(calls) == number:
            act()
        return real(self, *arguments, **options)

    monkeypatch.setattr(gd.Detector, "__call__", call)


def ctrl_c():
    raise KeyboardInterrupt


def unexpected(errors):
    """The lines of standard error, except the line that says that there is no compiler."""
    return [line for line in errors.splitlines() if not line.startswith("gdino_lib: no compiler")]
