"""`gdino merge`: interpolate two weight files."""

from __future__ import annotations

import argparse

from gdino_lib.cli.options import add_overwrite
from gdino_lib.messages import printable

HELP = "interpolate two weight files"
DESCRIPTION = (
    "Write (1 - X) * A + X * B, for each weight: between a model before fine-tuning and after it, a "
    "compromise of what was known and what was learned."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("first", metavar="A", help=".pth, .safetensors, a Hugging Face folder, or nano, tiny, base")
    command.add_argument("second", metavar="B", help="another file of the same model")
    command.add_argument("--alpha", type=float, required=True, metavar="X", help="share of B, 0..1")
    command.add_argument("target", metavar="OUT", help="a .safetensors file")
    add_overwrite(command, "replace OUT")


def run(options: argparse.Namespace) -> int:
    """Interpolate; the command's exit status."""
    from gdino_lib.weights.merge import merge

    merge(options.first, options.second, options.target, options.alpha, options.overwrite)
    sum_of_both = f"{1 - options.alpha:g} * {options.first} + {options.alpha:g} * {options.second}"
    print(printable(f"{sum_of_both} written to {options.target}"))
    return 0
