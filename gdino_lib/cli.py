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
from typing import Any, NoReturn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0: done. 1: done, but for inputs of no use; one line on standard error names each. 2: nothing was done, and one
        line says why. 130 or 143: interrupted; nothing half-written is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name must not fail on a terminal that lacks its letters
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that what was begun is removed
    try:
        return options.run(options)
    except KeyboardInterrupt as interrupt:  # a command that kept something says so itself
        print(str(interrupt) or "interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough (`gdino ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again at its exit
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments; options are spelled in full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def parse_known_args(self, *arguments: Any) -> Any:
        try:
            options, others = super().parse_known_args(*arguments)
        except ValueError:
            self.error("'--' is no value")
        values = vars(options).values()  # older versions of argparse make [] of "--nms=--"
        if any(value == [] or (isinstance(value, list) and [] in value) for value in values):
            self.error("'--' is no value")
        return options, others

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; {self.prog} --help says more\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gdino", description="Grounding DINO: detect whatever a phrase names.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "detect",
        help="find what phrases name in images and films",
        description="Find what phrases name. Writes each input with its boxes drawn, detections.json, detections.csv and "
        "detections.coco.json. Ctrl-C keeps what was done until then.",
        epilog="Exit status: 0 done, 1 some inputs could not be read, 2 nothing was done.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="an image, a film, a folder or a quoted pattern")
    phrases = command.add_mutually_exclusive_group(required=True)
    phrases.add_argument("--phrases", action="append", metavar="TEXT", help='"cat . remote control .": "." divides')
    phrases.add_argument("--phrases-file", metavar="FILE", help='one phrase a line, which may contain "."')
    command.add_argument("--model", default="nano", help="nano, tiny, base, a weight file or a folder (default: nano)")
    command.add_argument("--out", default="detections", metavar="DIR", help="folder of results (default: detections)")
    command.add_argument("--overwrite", action="store_true", help="replace the results in DIR")
    command.add_argument(
        "--box-threshold", type=float, default=0.35, metavar="X", help="for a box's best word, 0..1 (default: 0.35)"
    )
    command.add_argument(
        "--text-threshold", type=float, default=0.25, metavar="X", help="for a box's phrase, 0..1 (default: 0.25)"
    )
    command.add_argument("--nms", type=float, metavar="X", help="drop boxes of a phrase that overlap more, 0..1")
    command.add_argument("--top-k", type=int, metavar="N", help="at most N boxes an image, the surest")
    command.add_argument(
        "--score", choices=["mean", "max"], default="mean", help="a phrase's score, over its words (default: mean)"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="precision (default: float32)"
    )
    command.set_defaults(run=_detect)

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

    command = commands.add_parser(
        "build-ops",
        help="compile deformable attention ahead of its first use",
        description="Compile deformable attention ahead of its first use, anew where it is there already.",
    )
    command.add_argument("--cuda", action="store_true", help="for CUDA, too; takes nvcc")
    command.set_defaults(run=_build_ops)

    return parser


def _detect(options: argparse.Namespace) -> int:
    from gdino_lib.detect_files import detect_files, read_phrases

    return detect_files(
        options.images,
        read_phrases(options.phrases, options.phrases_file),
        options.model,
        options.out,
        device=options.device,
        dtype=options.dtype,
        overwrite=options.overwrite,
        box_threshold=options.box_threshold,
        text_threshold=options.text_threshold,
        nms_iou=options.nms,
        top_k=options.top_k,
        score=options.score,
    )


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


def _build_ops(options: argparse.Namespace) -> int:
    import torch

    from gdino_lib.ops import native

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}")
    for device in ("cpu", "cuda") if options.cuda else ("cpu",):
        print(f"{device}: compiler {native.compiler(device) or 'not found'}", flush=True)
        print(f"{device}: written to {native.build(device)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
