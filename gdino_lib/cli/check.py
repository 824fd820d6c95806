"""`gdino check`: check data and model before training."""

from __future__ import annotations

import argparse

from gdino_lib.cli.options import (
    FORMATS,
    add_device,
    add_images,
    add_out,
    add_overwrite,
    add_start,
    need,
    starting_model,
)
from gdino_lib.messages import printable

HELP = "check data and model before training"
DESCRIPTION = (
    "Check data and model before training: audit the data, draw a batch with its token map, test that every part of the "
    "model receives a gradient, and overfit four images. Writes check.json and pictures. In the last test all parts learn, "
    "BERT too, which `gdino train` freezes by default; --freeze text_encoder.bert does the same here."
)
EPILOG = "Exit status: 0 no problem was found, 1 a problem was found, 2 nothing was done."


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("--data", required=True, metavar="FILE", help=f"training data: {FORMATS}")
    add_images(command)
    add_start(command, "a model of this size with random weights")
    add_out(command, "folder for the report")
    add_overwrite(command, "replace an earlier report in DIR")
    command.add_argument(
        "--freeze",
        action="append",
        metavar="PART",
        help="part of the model to freeze, such as text_encoder.bert; may be given more than once",
    )
    command.add_argument("--no-overfit", action="store_true", help="do not overfit a batch")
    command.add_argument(
        "--lr", type=float, default=2e-4, metavar="X", help="learning rate of AdamW for overfitting (default: 2e-4)"
    )
    command.add_argument(
        "--seconds", type=float, default=120.0, metavar="X", help="time limit for overfitting in seconds (default: 120)"
    )
    add_device(command)


def run(options: argparse.Namespace) -> int:
    """Run the checks, write and print the report. Returns the exit status."""
    need("scipy", "matplotlib")
    from rich.console import Console

    from gdino_lib.data.datasets import image_folder, read_records
    from gdino_lib.training.doctor.check import check

    images = image_folder(options.data, options.images)
    records = read_records(options.data, images, "train")
    report = check(
        starting_model(options, options.device, seed=0),
        records,
        images,
        options.out,
        frozen=options.freeze or (),
        overfit=not options.no_overfit,
        lr=options.lr,
        seconds=options.seconds,
        overwrite=options.overwrite,
    )
    report.print(Console())
    print(printable(f"written to {options.out}"))
    return 0 if report.is_healthy else 1
