"""`gdino eval`: evaluate a model on a data set."""

from __future__ import annotations

import argparse

from gdino_lib.cli import eval_dataset
from gdino_lib.cli.options import FORMATS, add_device, add_dtype, add_model, add_overwrite, model_options, need

HELP = "evaluate a model on a data set"
DESCRIPTION = (
    "Evaluate a model on a data set. With --data: average precision, number of boxes against number of objects, calibration, "
    "boxes of absent classes, referring expressions. With --dataset: the measure in which results on this set are published."
)
EPILOG = (
    "To measure forgetting, evaluate on another data set twice: with --json FILE before fine-tuning, and with --compare FILE after "
    "it."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    data = command.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", metavar="FILE", help=f"data set: {FORMATS}")
    eval_dataset.add_name(data)
    command.add_argument(
        "--images",
        metavar="DIR",
        help="folder of the images; YOLO and labelme name it themselves (--dataset: if not below --root)",
    )
    add_model(command, default=None)
    command.add_argument("--json", metavar="FILE", help="file to write the figures to")
    own = command.add_argument_group("with --data")
    own.add_argument(
        "--thresholds-out",
        nargs="?",
        const="",
        metavar="FILE",
        help="write the best threshold of each class (default for FILE: a file beside MODEL)",
    )
    own.add_argument("--compare", metavar="FILE", help="print the changes since an earlier run, whose --json is FILE")
    eval_dataset.add_options(command.add_argument_group("with --dataset"))
    add_overwrite(command, "replace the files of --json and --thresholds-out")
    add_device(command)
    add_dtype(command)


def run(options: argparse.Namespace) -> int:
    """Evaluate, print and write the figures. Returns the exit status."""
    need("pycocotools")
    if options.dataset is not None:
        return eval_dataset.run(options)
    eval_dataset.check_unused(options)
    from gdino_lib.evaluation.report import evaluate_files

    evaluate_files(
        options.data,
        options.images,
        options.model,
        options.split,
        json_file=options.json,
        thresholds_file=options.thresholds_out,
        compare=options.compare,
        **model_options(options),
    )
    return 0
