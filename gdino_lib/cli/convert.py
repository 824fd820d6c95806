"""`gdino convert`: write a weight file in another layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from gdino_lib.cli.options import add_overwrite, add_weights
from gdino_lib.messages import printable

HELP = "write a weight file in another layout"
DESCRIPTION = (
    "Write a weight file in another layout; the values of the tensors do not change. The layout of SOURCE is detected. No code in "
    "SOURCE is executed."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    add_weights(command, "source", "SOURCE", "tiny, base")
    command.add_argument("target", metavar="TARGET", type=Path, help="the file to write; for hugging-face, the folder")
    command.add_argument(
        "--to",
        required=True,
        choices=[
            "gdino_lib",
            "official",
            "hugging-face",
        ],  # as gdino_lib.weights.loading.FORMATS, which would import PyTorch
        help="the layout to write: .safetensors, .pth, or a folder",
    )
    add_overwrite(command, "replace TARGET")


def run(options: argparse.Namespace) -> int:
    """Convert, and print which tensors were used. Returns the exit status."""
    from gdino_lib.weights.loading import convert
    from gdino_lib.weights.names import why_unused

    checkpoint = convert(options.source, options.target, options.to, options.overwrite)
    count = len(checkpoint.state)
    print(printable(f"{options.source} ({checkpoint.format}): {count} tensors of the model, all used"))
    reasons: dict[str, list[str]] = {}
    for name in checkpoint.unused:
        reasons.setdefault(why_unused(name) or "", []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more like it" if len(names) > 1 else ""
        print(printable(f"  not used: {names[0]}{more}: {reason}"))
    print(printable(f"written to {options.target} ({options.to})"))
    return 0
