"""`gdino detect`: find what phrases name in images and films."""

from __future__ import annotations

import argparse
import os
import sys

from gdino_lib.cli.options import add_device, add_dtype, add_overwrite, count, model_options, share
from gdino_lib.messages import printable
from gdino_lib.weights import hub

HELP = "find what phrases name in images and films"
DESCRIPTION = (
    "Find what phrases name. Writes each input with its boxes drawn, detections.json, detections.csv and "
    "detections.coco.json. Ctrl-C keeps what was done until then."
)
EPILOG = "Exit status: 0 done, 1 some inputs could not be read, 2 nothing was done."


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("images", nargs="+", metavar="IMAGE", help="an image, a film, a folder or a pattern")
    phrases = command.add_mutually_exclusive_group(required=True)
    phrases.add_argument(
        "--phrases", action="append", metavar="TEXT", help='"cat . remote control .": in quotes, divided by "."'
    )
    phrases.add_argument("--phrases-file", metavar="FILE", help='one phrase a line, which may contain "."')
    nano = "nano" if "nano" in hub.names() else "nano, which is not part of this version"
    models = f"{', '.join(hub.names())}, a weight file or a folder (default: {nano})"
    command.add_argument("--model", default="nano", help=models)
    command.add_argument("--out", default="detections", metavar="DIR", help="folder of results (default: detections)")
    add_overwrite(command, "replace the results in DIR")
    command.add_argument(
        "--box-threshold", type=share, default=0.35, metavar="X", help="for a box's best word, 0..1 (default: 0.35)"
    )
    command.add_argument(
        "--text-threshold", type=share, default=0.25, metavar="X", help="for a box's phrase, 0..1 (default: 0.25)"
    )
    command.add_argument(
        "--thresholds",
        metavar="FILE",
        help='in place of both: one for each phrase, chosen on validation data; "saved": those beside the weights',
    )
    command.add_argument("--nms", type=share, metavar="X", help="drop boxes of a phrase that overlap more, 0..1")
    command.add_argument("--top-k", type=count, metavar="N", help="at most N boxes an image, the surest")
    command.add_argument(
        "--score", choices=["mean", "max"], default="mean", help="a phrase's score, over its words (default: mean)"
    )
    add_device(command)
    add_dtype(command)
    command.set_defaults(advice=_advice)


def run(options: argparse.Namespace) -> int:
    """Detect in files; the command's exit status."""
    _check(options)
    if sys.stderr.isatty():  # PyTorch takes its time, too
        limits = " (drawn pictograms only; for photographs --model tiny)" if options.model == "nano" else ""
        print(printable(f"loading {options.model}{limits} ..."), file=sys.stderr, flush=True)

    from gdino_lib.apps.detect_files import detect_files, read_phrases
    from gdino_lib.prompts import bare

    phrases = read_phrases(options.phrases, options.phrases_file)
    if with_comma := next((phrase for phrase in phrases if "," in bare(phrase) and options.phrases), None):
        note = f'note: "{with_comma}" is one phrase; "." divides phrases, "," does not'
        print(printable(note), file=sys.stderr)
    return detect_files(
        options.images,
        phrases,
        options.model,
        options.out,
        **model_options(options),
        thresholds=options.thresholds,
        box_threshold=options.box_threshold,
        text_threshold=options.text_threshold,
        nms_iou=options.nms,
        top_k=options.top_k,
        score=options.score,
    )


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before PyTorch is imported.

    Raises:
        ValueError, OSError: words of a phrase among the inputs, no such model, thresholds in two ways.
    """
    words = [name for name in options.images if name.isalnum() and not os.path.exists(name)]
    if options.phrases and "." in options.images and words:  # of "--phrases cat . dog . a.png", all but "cat" is inputs
        raise ValueError(
            f"{words[0]!r} is no file; if it belongs to the phrases, put these in quotes, "
            'as in --phrases "cat . remote control ."; gdino detect --help says more'
        )
    hub.check(options.model)
    if options.thresholds is not None and (options.box_threshold, options.text_threshold) != (0.35, 0.25):
        raise ValueError("--thresholds stands in place of --box-threshold and --text-threshold; give one or the other")


def _advice(options: argparse.Namespace, rest: str) -> str:
    """What to say of arguments that have no place: they may be words of a phrase without quotes."""
    if not options.phrases or rest.startswith("-"):
        return ""
    return f'; phrases stand in quotes: --phrases "{options.phrases[-1]} {rest}"'
