"""`gdino eval`: measure a model on a data set."""

from __future__ import annotations

import argparse

from gdino_lib.cli.options import add_device, add_dtype, add_images, add_overwrite, model_options, need

HELP = "measure a model on a data set"
DESCRIPTION = (
    "Measure a model on a data set: average precision, boxes against objects, calibration, boxes for what "
    "is not there, referring expressions."
)
EPILOG = "Forgetting: --json on another data set before fine-tuning, --compare with that file after it."


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("--data", required=True, metavar="FILE", help=".csv, .json (COCO) or .jsonl (ODVG)")
    add_images(command)
    command.add_argument("--model", required=True, help="nano, tiny, base, a weight file or a folder")
    command.add_argument("--json", metavar="FILE", help="write the figures")
    command.add_argument(
        "--thresholds-out",
        nargs="?",
        const="",
        metavar="FILE",
        help="write the best thresholds (default: beside MODEL)",
    )
    command.add_argument("--compare", metavar="FILE", help="print what has changed since an earlier run's --json")
    add_overwrite(command, "replace the files to write")
    add_device(command)
    add_dtype(command)


def run(options: argparse.Namespace) -> int:
    """Measure, print and write the figures; the command's exit status."""
    need("pycocotools")
    from gdino_lib.evaluation.report import evaluate_files

    evaluate_files(
        options.data,
        options.images,
        options.model,
        json_file=options.json,
        thresholds_file=options.thresholds_out,
        compare=options.compare,
        **model_options(options),
    )
    return 0
