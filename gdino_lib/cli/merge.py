"""`gdino merge`: interpolate two weight files."""

from __future__ import annotations

import argparse

from gdino_lib.cli.options import add_overwrite, add_weights
from gdino_lib.messages import printable

HELP = "interpolate two weight files"
DESCRIPTION = (
    "Write (1 - X) * A + X * B for each weight. If A is a model before fine-tuning and B the same model after it, the result "
    "forgets less than B, and has learned less."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_weights(command, "first", "A", "nano, tiny, base")
    command.add_argument("second", metavar="B", help="other weights of the same model")
    command.add_argument("--alpha", type=float, required=True, metavar="X", help="weight of B, 0..1")
    command.add_argument("target", metavar="OUT", help="the .safetensors file to write")
    add_overwrite(command, "replace OUT")


def run(options: argparse.Namespace) -> int:
    """Interpolate. Returns the exit status."""
    from gdino_lib.weights.merge import merge

    merge(options.first, options.second, options.target, options.alpha, options.overwrite)
    formula = f"{1 - options.alpha:g} * {options.first} + {options.alpha:g} * {options.second}"
    print(printable(f"{formula} written to {options.target}"))
    return 0
