"""`gdino detect`: detect objects that phrases name, in images and films."""

from __future__ import annotations

import argparse
import math
import os
import sys

from gdino_lib.cli.options import EXIT_STATUS, add_detection, announce_model, count, detection_options, share
from gdino_lib.messages import printable
from gdino_lib.weights import hub

HELP = "detect objects that phrases name, in images and films"
DESCRIPTION = (
    "Detect the objects that phrases name. Writes a copy of each input with drawn boxes, and detections.json, detections.csv and "
    "detections.coco.json. After Ctrl-C, the results so far are kept."
)
EPILOG = EXIT_STATUS


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("images", nargs="+", metavar="IMAGE", help="an image, a film, a folder or a pattern")
    phrases = command.add_mutually_exclusive_group(required=True)
    phrases.add_argument(
        "--phrases",
        action="append",
        metavar="TEXT",
        help='phrases in quotes, with "." between them: "cat . remote control ."',
    )
    phrases.add_argument(
        "--phrases-file", metavar="FILE", help='file with one phrase per line; a phrase may contain "."'
    )
    phrases.add_argument(
        "--ontology",
        metavar="FILE",
        help='JSON file of names with their wordings: {"car": ["car", "sedan"]}; the name is the label, and its best wording '
        "counts",
    )
    command.add_argument(
        "--negatives",
        action="append",
        metavar="TEXT",
        help="what is not wanted, like --phrases: a box is dropped if it fits one of these phrases best",
    )
    command.add_argument(
        "--explain",
        action="store_true",
        help="for each box in an image, also write a picture of how the model found it",
    )
    add_detection(command, out="detections")
    command.add_argument(
        "--thresholds",
        metavar="FILE",
        help="file with a threshold for each phrase, chosen on validation data, instead of --box-threshold and --text-threshold; "
        '"saved" is the file beside the weights',
    )
    command.add_argument(
        "--nms",
        type=share,
        metavar="X",
        help="drop boxes that overlap a better box of the same phrase by more than this IoU, 0..1",
    )
    command.add_argument(
        "--score",
        choices=["mean", "max"],
        default="mean",
        help="score of a phrase: mean or maximum over its tokens (default: mean)",
    )
    films = command.add_argument_group("films", "These options need the extra video: pip install 'gdino_lib[video]'.")
    films.add_argument(
        "--track",
        action="store_true",
        help="follow objects from frame to frame: each box gets the id of its track in the picture and in the .jsonl file",
    )
    films.add_argument(
        "--every",
        type=count,
        default=1,
        metavar="N",
        help="with --track: detect in each N-th frame and in the last, and interpolate the boxes of the other frames",
    )
    films.add_argument(
        "--line",
        type=_line,
        action="append",
        metavar="X,Y,X,Y",
        help="with --track: count objects whose centre crosses the line between two points, in pixels. Seen from the first "
        "point to the second, objects that cross to the left count as in, to the right as out. May be repeated",
    )
    films.add_argument(
        "--zone",
        type=_zone,
        action="append",
        metavar="X,Y,...",
        help="with --track: count objects whose centre is in the polygon of three or more points, in pixels. May be repeated",
    )
    command.set_defaults(advice=_advice)


def run(options: argparse.Namespace) -> int:
    """Detect in files. Returns the exit status."""
    _check(options)
    announce_model(options.model)

    from gdino_lib.apps.counting import Tracking
    from gdino_lib.apps.detect_files import detect_files, read_ontology, read_phrases
    from gdino_lib.prompts import bare

    if options.ontology is not None:
        phrases = read_ontology(options.ontology)
    else:
        phrases = read_phrases(options.phrases, options.phrases_file)
    negatives = read_phrases(options.negatives, None) if options.negatives else []
    written = [*(phrases if options.phrases else ()), *negatives]
    if with_comma := next((phrase for phrase in written if "," in bare(phrase)), None):
        note = f'note: "{with_comma}" is one phrase; phrases are separated by ".", not by ","'
        print(printable(note), file=sys.stderr)
    return detect_files(
        options.images,
        phrases,
        options.model,
        options.out,
        **detection_options(options),
        thresholds=options.thresholds,
        negatives=negatives,
        nms_iou=options.nms,
        score=options.score,
        explain=options.explain,
        tracking=Tracking(options.every, options.line or (), options.zone or ()) if options.track else None,
    )


def _check(options: argparse.Namespace) -> None:
    """Check the options that can be checked before PyTorch is imported.

    Raises:
        ValueError, OSError: words of a phrase are among the inputs, the model does not exist, thresholds are given twice, or an
            option needs `--track`.
    """
    words = [name for name in options.images if name.isalnum() and not os.path.exists(name)]
    if (
        options.phrases and "." in options.images and words
    ):  # in "--phrases cat . dog . a.png", argparse takes all but "cat" as inputs
        raise ValueError(
            f"{words[0]!r} is not a file; if it is part of the phrases, put the phrases in quotes, "
            'as in --phrases "cat . remote control ."; see gdino detect --help'
        )
    needs_track = {"--every": options.every > 1, "--line": options.line, "--zone": options.zone}
    if not options.track and any(needs_track.values()):
        raise ValueError(f"{next(filter(needs_track.get, needs_track))} needs --track")
    hub.check(options.model)
    if options.thresholds is not None and (options.box_threshold, options.text_threshold) != (0.35, 0.25):
        raise ValueError("--thresholds replaces --box-threshold and --text-threshold; give one or the other")


def _line(text: str) -> list[tuple[float, float]]:
    points = _points(text)
    if len(points) != 2 or points[0] == points[1]:
        raise argparse.ArgumentTypeError(f"expected two different points, X,Y,X,Y, got {text[:40]!r}")
    return points


def _zone(text: str) -> list[tuple[float, float]]:
    points = _points(text)
    if len(points) < 3:
        raise argparse.ArgumentTypeError(f"expected three or more points, X,Y,X,Y,X,Y, got {text[:40]!r}")
    return points


def _points(text: str) -> list[tuple[float, float]]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"expected points in pixels, X,Y,X,Y, got {text[:40]!r}")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _advice(options: argparse.Namespace, rest: str) -> str:
    """Advice on unexpected arguments, which may be words of a phrase without quotes."""
    if not options.phrases or rest.startswith("-"):
        return ""
    return f'; put phrases in quotes: --phrases "{options.phrases[-1]} {rest}"'
