"""The commands that write files or a folder, with arguments for small inputs."""

from pathlib import Path

import torch
from small_runs import SIDE, model, shapes

from data_prep.__main__ import main as data_prep_main
from data_prep.formats import csv_table, voc
from data_prep.sample import cartoon_faces
from gdino_lib.cli.main import main as gdino_main
from gdino_lib.weights import loading


def make_inputs(folder: Path) -> None:
    """Write pictures, annotations in three formats, and weights."""
    torch.set_num_threads(1)
    records = shapes(folder / "images")
    csv_table.write(records, folder / "boxes.csv")
    voc.write(records, folder / "voc")
    cartoon_faces.write(folder / "faces")
    loading.save(model(), folder / "weights.safetensors")


def commands(inputs: Path, out: Path) -> dict:
    """{name: (main function, arguments)}; `out` is the folder to write, or the file to write without its suffix."""
    table, images, weights = (str(inputs / name) for name in ("boxes.csv", "images", "weights.safetensors"))
    faces = ["--images", str(inputs / "faces" / "images"), "--annotations", str(inputs / "faces" / "annotations")]
    data = ["--data", table, "--images", images]
    train = ["--train", table, "--images", images, "--init", weights, "--batch-size", "4", "--epochs", "1"]
    train += ["--workers", "0", "--device", "cpu", "--denoising", "4", "--no-augmentation", "--short-side", str(SIDE)]
    folders = {
        "sample": (data_prep_main, ["sample", str(out)]),
        "voc-to-csv": (data_prep_main, ["voc-to-csv", *faces, "--train", "2", "--out", str(out)]),
        "csv-to-voc": (data_prep_main, ["csv-to-voc", table, str(out)]),
        "scenes-as-voc": (gdino_main, ["scenes", "--out", str(out), "--count", "2", "--size", "64", "--format", "voc"]),
        "audit": (data_prep_main, ["audit", "--data", table, "--out", str(out)]),
        "scenes": (gdino_main, ["scenes", "--out", str(out), "--count", "2", "--size", "64"]),
        "check": (
            gdino_main,
            ["check", *data, "--init", weights, "--out", str(out), "--no-overfit", "--device", "cpu"],
        ),
        "detect": (gdino_main, ["detect", images, "--phrases", "cat", "--model", weights, "--out", str(out)]),
        "edit": (
            gdino_main,
            ["edit", images, "--find", "cat", "--do", "remove", "--model", weights, "--out", str(out)],
        ),
        "train": (gdino_main, ["train", *train, "--out", str(out)]),
    }
    files = {
        "csv-to-odvg": (data_prep_main, ["csv-to-odvg", table, f"{out}.jsonl"]),
        "csv-to-coco": (data_prep_main, ["csv-to-coco", table, f"{out}.json"]),
        "voc-to-odvg": (data_prep_main, ["voc-to-odvg", str(inputs / "voc"), f"{out}.jsonl"]),
        "convert": (gdino_main, ["convert", weights, f"{out}.safetensors", "--to", "gdino_lib"]),
        "merge": (gdino_main, ["merge", weights, weights, f"{out}.safetensors", "--alpha", "0.5"]),
        "eval": (gdino_main, ["eval", *data, "--model", weights, "--json", f"{out}.json", "--device", "cpu"]),
    }
    return folders | files
