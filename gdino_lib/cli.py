"""The command `gdino`. Each subcommand is a function and a few lines of `_parser`.

Heavy imports stand inside the functions: help and wrong arguments answer at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0: done. 2: nothing was done, and one line on standard error says why. 130 or 143: interrupted; nothing
        half-written is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name must not fail on a terminal that lacks its letters
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that what was begun is removed
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough (`gdino ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again at its exit
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gdino", description="Grounding DINO: detect whatever a phrase names.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "convert",
        help="write a weight file in another layout",
        description="Write a weight file in another layout, bit for bit. Any layout is read; nothing in it is executed.",
    )
    command.add_argument("source", metavar="SOURCE", help=".pth, .safetensors, a Hugging Face folder, or tiny, base")
    command.add_argument("target", metavar="TARGET", type=Path, help="a file, or a folder for hugging-face")
    command.add_argument(
        "--to",
        required=True,
        choices=["gdino_lib", "official", "hugging-face"],  # gdino_lib.weights.FORMATS, without its imports
        help="the layout to write: .safetensors, .pth, or a folder",
    )
    command.add_argument("--overwrite", action="store_true", help="replace TARGET")
    command.set_defaults(run=_convert)

    return parser


def _convert(options: argparse.Namespace) -> int:
    from gdino_lib.weight_names import why_unused
    from gdino_lib.weights import convert

    checkpoint = convert(options.source, options.target, options.to, options.overwrite)
    print(f"{options.source} ({checkpoint.format}): {len(checkpoint.state)} tensors of the model, all used")
    reasons: dict[str, list[str]] = {}
    for name in checkpoint.unused:
        reasons.setdefault(why_unused(name) or "", []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more like it" if len(names) > 1 else ""
        print(f"  not used: {names[0]}{more}: {reason}")
    print(f"written to {options.target} ({options.to})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
