"""Measure exported files beside the model: `python benchmarks/export.py --photos DIR --json FILE [--model FILE]`.

DIR holds sets in COCO format; each set is a folder with annotations.json and images/. The script exports the model with text as
an input, in float32, with weights in float16, and in int8 (calibrated on the images of `--calibration`). For each file it
measures its size; the largest difference from the model on `--images` photographs, with prompts of 1, 20 and 80 phrases; the
time for one photograph, all of them in turns with the model's own; and AP50 on `--ap` photographs of `--set`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from results import report, times_in_turns

from data_prep import Dataset
from data_prep.formats import coco
from gdino_lib.data.records import class_names
from gdino_lib.detect.detector import Detector
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all, detection_records
from gdino_lib.export.check import THINGS, Difference, OpenedFile, difference
from gdino_lib.export.detector import OnnxDetector, text_file
from gdino_lib.export.onnx_file import ExportOptions, export_onnx
from gdino_lib.export.quantize import quantize
from gdino_lib.model.timm_backbone import fold_batch_norms
from gdino_lib.weights import loading

COLOURS = ("red", "blue", "green", "old", "new", "big", "small", "broken")
MANY = [
    f"{colour} {thing}" for colour in COLOURS for thing in THINGS
]  # 80 phrases of 3 tokens: they fit into one prompt
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--model", default="nano", help="a name, a weight file or a folder (default: nano)")
    parser.add_argument("--set", default="voc07", help="set to measure on (default: voc07)")
    parser.add_argument("--calibration-set", default="coco_mini", metavar="SET", help="(default: coco_mini)")
    parser.add_argument("--calibration", type=int, default=64, metavar="N", help="calibration images (default: 64)")
    parser.add_argument("--images", type=int, default=50, metavar="N", help="photographs to compare (default: 50)")
    parser.add_argument(
        "--ap", type=int, default=0, metavar="N", help="photographs for AP50 (default: 0, not measured)"
    )
    options = parser.parse_args()
    model = loading.load(options.model, "cpu")
    records, photographs = read(options.photos / options.set)
    names = list(class_names(records))
    with tempfile.TemporaryDirectory() as folder:
        detectors = export(model, Path(folder), options, names)
        figures: dict[str, Any] = {
            "on": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, "
            f"onnxruntime {onnxruntime.__version__}",
            "model": str(options.model),
            "megabytes": {
                name: [round(file.stat().st_size / 1e6, 1) for file in (each.path, text_file(each.path))]
                for name, each in detectors.items()
            },
            "difference": differences(model, detectors, photographs[: options.images], names),
        }
        everyone: dict[str, Any] = {"model": Detector(fold_batch_norms(model)), **detectors}
        figures["time"] = times(everyone, photographs[0], names)
        if options.ap:
            part = replace(records, images=records.images[: options.ap])
            figures["ap50"] = {
                name: average_precision(part, detect_all(each, part, options.photos / options.set / "images")).ap50
                for name, each in everyone.items()
                if name != "fp32"  # it gives the model's boxes
            }
    report(figures, options.json)


def read(folder: Path) -> tuple[Dataset, list[Path]]:
    """(the records of a set, the paths of its photographs)."""
    records = coco.read(folder / "annotations.json")
    return records, [folder / "images" / record.file_name for record in detection_records(records)]


def export(model: Any, folder: Path, options: argparse.Namespace, names: list[str]) -> dict[str, OnnxDetector]:
    """The exported files, by precision."""
    for precision in ("fp32", "fp16"):
        export_onnx(model, folder / f"{precision}.onnx", ExportOptions(precision=precision))
    _, calibration = read(options.photos / options.calibration_set)
    quantize(folder / "fp32.onnx", folder / "int8.onnx", calibration[: options.calibration], names)
    return {name: OnnxDetector(folder / f"{name}.onnx", torch.get_num_threads()) for name in ("fp32", "fp16", "int8")}


def differences(
    model: Any, detectors: dict[str, OnnxDetector], photographs: list[Path], names: list[str]
) -> dict[str, Any]:
    """The largest differences from the model: {precision: {prompt: fields of `Difference`}}."""
    prompts = {"1 phrase": names[:1], f"{len(names)} phrases": names, "80 phrases": MANY}
    result: dict[str, Any] = {}
    for name, detector in detectors.items():
        opened = OpenedFile(detector.path, torch.get_num_threads())
        for prompt, phrases in prompts.items():
            found = [difference(model, opened, photograph, phrases) for photograph in photographs]
            names_and_columns = zip(Difference._fields, zip(*found, strict=True), strict=True)
            result.setdefault(name, {})[prompt] = {field: max(column) for field, column in names_and_columns}
    return result


def times(detectors: dict[str, Any], photograph: Path, names: list[str]) -> dict[str, Any]:
    """Milliseconds for one photograph, in turns; medians, and their ratios to the model's."""
    runs: dict[str, Callable[[], Any]] = {
        name: lambda detector=detector: detector(photograph, names) for name, detector in detectors.items()
    }
    medians = {name: 1000 * statistics.median(taken) for name, taken in times_in_turns(runs, REPEATS).items()}
    return {
        "median_ms": {name: round(value, 1) for name, value in medians.items()},
        "of_the_model": {name: round(value / medians["model"], 3) for name, value in medians.items()},
    }


if __name__ == "__main__":
    main()
