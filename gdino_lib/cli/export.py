"""`gdino export`: write a model as a file for other runtimes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gdino_lib.cli.options import add_overwrite, need
from gdino_lib.messages import printable
from gdino_lib.weights import hub

HELP = "write a model as an ONNX or torch.export file, and check the file"
DESCRIPTION = (
    "Write a model as a file for other runtimes. Then run the file on images, and print the largest difference from the model's "
    "own scores and boxes, and the times of both."
)
EPILOG = (
    "Exit status: 0 the file gives the model's results, 1 it differs by more than 0.001 in a score or by more than 1 pixel, "
    "2 nothing was done."
)
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("model", metavar="MODEL", help="nano, tiny, base, a weight file or a folder")
    command.add_argument("--format", choices=list(SUFFIXES), default="onnx", help="kind of the file (default: onnx)")
    text = command.add_mutually_exclusive_group(required=True)
    text.add_argument(
        "--phrases",
        action="append",
        metavar="TEXT",
        help='put these phrases into the file: "cat . remote control ."',
    )
    text.add_argument(
        "--dynamic-text",
        action="store_true",
        help="make the text an input; also writes NAME.text.onnx, which turns phrases into this input",
    )
    size = command.add_mutually_exclusive_group()
    size.add_argument("--size", type=_size, metavar="HxW", help="height and width in pixels of all images")
    size.add_argument("--dynamic", action="store_true", help="take images of any size (the default for onnx)")
    command.add_argument(
        "--precision",
        choices=["fp32", "fp16"],  # as gdino_lib.export.parts.PRECISIONS, which would import PyTorch
        default="fp32",
        help="number format of the stored weights; ONNX Runtime computes in fp32 (default: fp32)",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: the model's name)")
    command.add_argument(
        "--images", nargs="+", metavar="IMAGE", help="images for the check (default: a photograph of matplotlib)"
    )
    add_overwrite(command, "replace FILE")


def run(options: argparse.Namespace) -> int:
    """Export and check. Returns the exit status."""
    if options.format == "torch-export" and (
        options.dynamic_text or options.size is None or options.precision != "fp32"
    ):
        raise ValueError(
            "--format torch-export: expected --phrases and --size HxW, and neither --dynamic-text nor fp16"
        )
    if options.format == "onnx":
        need("onnx", "onnxruntime", extra="export")
    hub.check(options.model)
    out = options.out or Path(f"{Path(options.model).stem}{SUFFIXES[options.format]}")

    from gdino_lib.apps.detect_files import read_phrases
    from gdino_lib.export.check import check_onnx, check_program, photograph
    from gdino_lib.export.onnx_file import ExportOptions, export_onnx
    from gdino_lib.export.program import export_program
    from gdino_lib.images import read_image
    from gdino_lib.weights.loading import load

    phrases = None if options.dynamic_text else tuple(read_phrases(options.phrases, None))
    wanted = ExportOptions(phrases, options.size, options.precision)
    images = [read_image(image) for image in options.images or [photograph()]]
    model = load(options.model, "cpu")
    if options.format == "onnx":
        files = export_onnx(model, out, wanted, options.overwrite)
        lines, good = check_onnx(model, out, images, options.precision)
    else:
        files = [export_program(model, out, wanted, options.overwrite)]
        lines, good = check_program(model, out, wanted, images)
    for file in files:
        print(printable(f"written to {file} ({file.stat().st_size / 1e6:.1f} MB)"))
    print(*map(printable, lines), sep="\n")
    return 0 if good else 1


def _size(text: str) -> tuple[int, int]:
    """The value of `--size`.

    Raises:
        argparse.ArgumentTypeError: something else than two numbers with "x" between them.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected height x width in pixels, as in 800x1200, got {text[:40]!r}")
    return int(match[1]), int(match[2])
