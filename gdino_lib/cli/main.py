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

from data_prep.arguments import Parser
from gdino_lib import __version__
from gdino_lib.cli import train
from gdino_lib.cli.train import need
from gdino_lib.weights import hub

# names that other tools have for our options
ALIASES = {
    **dict.fromkeys(("--caption", "--classes", "--labels", "--prompt", "--prompts", "--text-prompt"), "--phrases"),
    **dict.fromkeys(("--checkpoint", "--weights"), "--model"),
    **dict.fromkeys(("--iou", "--iou-threshold"), "--nms"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0: done. 1: done, but for inputs of no use; one line on standard error names each. 2: nothing was done, and one
        line says why. 130: interrupted; nothing half-written is left.

    Raises:
        SystemExit: 143, on SIGTERM; nothing half-written is left.
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
    except MemoryError as error:
        reason = " ".join(str(error).split())
        print("error: out of memory" + (f": {reason}" if reason else ""), file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Parser(Parser):
    aliases = ALIASES

    def advice(self, options: argparse.Namespace, rest: str) -> str:
        phrases = getattr(options, "phrases", None)
        words = phrases and not rest.startswith("-")
        return f'; phrases stand in quotes: --phrases "{phrases[-1]} {rest}"' if words else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gdino", description="Grounding DINO: detect whatever a phrase names.")
    parser.add_argument("--version", action="version", version=f"gdino {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "detect",
        help="find what phrases name in images and films",
        description="Find what phrases name. Writes each input with its boxes drawn, detections.json, detections.csv and "
        "detections.coco.json. Ctrl-C keeps what was done until then.",
        epilog="Exit status: 0 done, 1 some inputs could not be read, 2 nothing was done.",
    )
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
    command.add_argument("--overwrite", action="store_true", help="replace the results in DIR")
    command.add_argument(
        "--box-threshold", type=_share, default=0.35, metavar="X", help="for a box's best word, 0..1 (default: 0.35)"
    )
    command.add_argument(
        "--text-threshold", type=_share, default=0.25, metavar="X", help="for a box's phrase, 0..1 (default: 0.25)"
    )
    command.add_argument(
        "--thresholds",
        metavar="FILE",
        help='in place of both: one for each phrase, chosen on validation data; "saved": those beside the weights',
    )
    command.add_argument("--nms", type=_share, metavar="X", help="drop boxes of a phrase that overlap more, 0..1")
    command.add_argument("--top-k", type=_count, metavar="N", help="at most N boxes an image, the surest")
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
        choices=["gdino_lib", "official", "hugging-face"],  # gdino_lib.weights.loading.FORMATS, without its imports
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

    command = commands.add_parser(
        "train",
        help="train or fine-tune a model",
        description="Train or fine-tune. Under `accelerate launch -m gdino_lib train ...` on many GPUs or machines. Ctrl-C and "
        "SIGTERM save after the step under way; --resume goes on, after a kill as well.",
    )
    train.add_options(command)
    command.set_defaults(run=train.run)

    command = commands.add_parser(
        "check",
        help="examine data and model before training",
        description="Examine data and model before training: audit the data, draw a batch with its token map, see that "
        "every part of the model receives a gradient, and learn four images by heart. Writes check.json and pictures. All "
        "parts learn in it, BERT too, which `gdino train` leaves as it is unless told otherwise: see --freeze.",
        epilog="Exit status: 0 healthy, 1 a problem was found, 2 nothing was done.",
    )
    command.add_argument(
        "--data", required=True, metavar="FILE", help="training data: .csv, .json (COCO), .jsonl (ODVG)"
    )
    command.add_argument("--images", required=True, metavar="DIR", help="folder of its images")
    start = command.add_mutually_exclusive_group(required=True)
    start.add_argument("--init", metavar="MODEL", help="nano, tiny, base, a weight file or a folder")
    start.add_argument(
        "--from-scratch", choices=["nano", "tiny", "base", "large"], help="a model of this size with random weights"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the report")
    command.add_argument("--overwrite", action="store_true", help="replace a report in DIR")
    command.add_argument(
        "--freeze",
        action="append",
        metavar="PART",
        help="not to be trained, as text_encoder.bert; repeatable",
    )
    command.add_argument("--no-overfit", action="store_true", help="do not learn a batch by heart")
    command.add_argument(
        "--lr", type=float, default=2e-4, metavar="X", help="learning rate of AdamW for that (default: 2e-4)"
    )
    command.add_argument("--seconds", type=float, default=120.0, metavar="X", help="that it may take (default: 120)")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "eval",
        help="measure a model on a data set",
        description="Measure a model on a data set: average precision, boxes against objects, calibration, boxes for what "
        "is not there, referring expressions.",
        epilog="Forgetting: --json on another data set before fine-tuning, --compare with that file after it.",
    )
    command.add_argument("--data", required=True, metavar="FILE", help=".csv, .json (COCO) or .jsonl (ODVG)")
    command.add_argument("--images", required=True, metavar="DIR", help="folder of its images")
    command.add_argument("--model", required=True, help="nano, tiny, base, a weight file or a folder")
    command.add_argument("--json", metavar="FILE", help="write the figures")
    command.add_argument(
        "--thresholds-out",
        nargs="?",
        const="",
        metavar="FILE",
        help="write the best thresholds (default: beside MODEL)",
    )
    command.add_argument("--compare", metavar="FILE", help="print what has changed since an earlier run's --json")
    command.add_argument("--overwrite", action="store_true", help="replace the files to write")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    command.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="precision (default: float32)"
    )
    command.set_defaults(run=_eval)

    command = commands.add_parser(
        "merge",
        help="interpolate two weight files",
        description="Write (1 - X) * A + X * B, for each weight: between a model before fine-tuning and after it, a "
        "compromise of what was known and what was learned.",
    )
    command.add_argument("first", metavar="A", help=".pth, .safetensors, a Hugging Face folder, or nano, tiny, base")
    command.add_argument("second", metavar="B", help="another file of the same model")
    command.add_argument("--alpha", type=float, required=True, metavar="X", help="share of B, 0..1")
    command.add_argument("target", metavar="OUT", help="a .safetensors file")
    command.add_argument("--overwrite", action="store_true", help="replace OUT")
    command.set_defaults(run=_merge)

    command = commands.add_parser(
        "scenes",
        help="draw pictogram scenes with their boxes",
        description="Draw pictures of named pictograms, and their boxes as VOC, COCO, ODVG or CSV. "
        "The same numbers draw the same pictures. The drawings are OpenMoji's, CC BY-SA 4.0: so is what is made of them.",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    command.add_argument("--count", required=True, type=_count, metavar="N", help="how many pictures")
    command.add_argument("--size", type=_count, default=256, metavar="N", help="their side in pixels (default: 256)")
    command.add_argument(
        "--names", choices=["seen", "unseen"], default="seen", help="in training, or never there (default: seen)"
    )
    command.add_argument("--format", choices=["voc", "coco", "odvg", "csv"], default="coco", help="(default: coco)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other pictures (default: 0)")
    command.add_argument("--overwrite", action="store_true", help="replace DIR")
    command.set_defaults(run=_scenes)

    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in 0..1, got {text[:40]!r}")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text[:40]!r}")
    return value


def _detect(options: argparse.Namespace) -> int:
    words = [name for name in options.images if name.isalnum() and not os.path.exists(name)]
    if options.phrases and "." in options.images and words:  # of "--phrases cat . dog . a.png", all but "cat" is inputs
        raise ValueError(
            f"{words[0]!r} is no file; if it belongs to the phrases, put these in quotes, "
            'as in --phrases "cat . remote control ."; gdino detect --help says more'
        )
    hub.check(options.model)
    if options.thresholds is not None and (options.box_threshold, options.text_threshold) != (0.35, 0.25):
        raise ValueError("--thresholds stands in place of --box-threshold and --text-threshold; give one or the other")
    if sys.stderr.isatty():  # PyTorch takes its time, too
        limits = " (drawn pictograms only; for photographs --model tiny)" if options.model == "nano" else ""
        print(f"loading {options.model}{limits} ...", file=sys.stderr, flush=True)

    from gdino_lib.apps.detect_files import detect_files, read_phrases

    phrases = read_phrases(options.phrases, options.phrases_file)
    if one := next((phrase for phrase in phrases if "," in phrase and options.phrases), None):
        print(f'note: "{one}" is one phrase; "." divides phrases, "," does not', file=sys.stderr)
    return detect_files(
        options.images,
        phrases,
        options.model,
        options.out,
        device=options.device,
        dtype=options.dtype,
        overwrite=options.overwrite,
        thresholds=options.thresholds,
        box_threshold=options.box_threshold,
        text_threshold=options.text_threshold,
        nms_iou=options.nms,
        top_k=options.top_k,
        score=options.score,
    )


def _convert(options: argparse.Namespace) -> int:
    from gdino_lib.weights.loading import convert
    from gdino_lib.weights.names import why_unused

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


def _check(options: argparse.Namespace) -> int:
    need("scipy", "matplotlib")
    import torch
    from rich.console import Console

    from gdino_lib.config import PRESETS
    from gdino_lib.data.datasets import read_records
    from gdino_lib.model.grounding_dino import GroundingDINO
    from gdino_lib.training.doctor.check import check
    from gdino_lib.weights.loading import choose_device, load

    records = read_records(options.data)
    if options.init is None:
        device = choose_device(options.device)
        torch.manual_seed(0)
        model = GroundingDINO(PRESETS[options.from_scratch]()).to(device)
    else:
        model = load(options.init, options.device)
    report = check(
        model,
        records,
        options.images,
        options.out,
        frozen=options.freeze or (),
        overfit=not options.no_overfit,
        lr=options.lr,
        seconds=options.seconds,
        overwrite=options.overwrite,
    )
    report.print(Console())
    print(f"written to {options.out}")
    return 0 if report.is_healthy else 1


def _eval(options: argparse.Namespace) -> int:
    need("pycocotools")
    from gdino_lib.evaluation.report import evaluate_files

    evaluate_files(
        options.data,
        options.images,
        options.model,
        json_file=options.json,
        thresholds_file=options.thresholds_out,
        compare=options.compare,
        device=options.device,
        dtype=options.dtype,
        overwrite=options.overwrite,
    )
    return 0


def _merge(options: argparse.Namespace) -> int:
    from gdino_lib.weights.merge import merge

    merge(options.first, options.second, options.target, options.alpha, options.overwrite)
    print(f"{1 - options.alpha:g} * {options.first} + {options.alpha:g} * {options.second} written to {options.target}")
    return 0


def _scenes(options: argparse.Namespace) -> int:
    from gdino_lib.nano import pictograms
    from gdino_lib.nano.scenes import write_scenes

    dataset = write_scenes(
        options.out,
        options.count,
        things=pictograms.seen() if options.names == "seen" else pictograms.unseen(),
        annotations=options.format,
        seed=options.seed,
        size=options.size,
        overwrite=options.overwrite,
    )
    boxes = sum(len(record.boxes) for record in dataset.images)
    print(f"{len(dataset.images)} images, {boxes} boxes, {len(dataset.categories)} names written to {options.out}")
    print(pictograms.ATTRIBUTION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
