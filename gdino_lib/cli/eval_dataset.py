"""`gdino eval --dataset`: the options for data sets that published results are measured on."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from gdino_lib.cli.options import Options, count, model_options, need

# gdino_lib.evaluation.published_sets.SETS and PROMPTS, without their imports
NAMES = ("coco", "lvis", "odinw13", "odinw35", "folder", "refcoco", "refcoco+", "refcocog", "flickr30k")
PROMPTS = ("names", "written")


def add_name(options: Options) -> None:
    """Add `--dataset`."""
    options.add_argument("--dataset", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")


def add_options(options: Options) -> None:
    """Add the other options, which need `--dataset`."""
    options.add_argument("--root", metavar="DIR", help="folder of the data set, as published")
    options.add_argument(
        "--split", help="part of the data set (default: the one that results are published for; --data data.yaml: val)"
    )
    options.add_argument(
        "--prompts",
        choices=PROMPTS,
        help="ask for classes by their names (default), or in words written for them (ODinW, folder)",
    )
    options.add_argument(
        "--names-per-prompt", type=count, metavar="N", help="ask for N classes at a time (default: all)"
    )


def check_unused(options: argparse.Namespace) -> None:
    """Refuse options that belong to `--dataset` where `--data` is given.

    Raises:
        ValueError: naming the option.
    """
    for name in ("root", "prompts", "names_per_prompt"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --dataset, not with --data")


def run(options: argparse.Namespace) -> int:
    """Measure, print and write the figures; the command's exit status."""
    for name in ("thresholds_out", "compare"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --data, not with --dataset")
    for name, what in (("root", "DIR, the folder of the data set"), ("json", "FILE, which will have the figures")):
        if getattr(options, name) is None:
            raise ValueError(f"--dataset needs --{name} {what}")
    need("accelerate", *(["faster_coco_eval"] if options.dataset == "lvis" else []))
    from gdino_lib.evaluation.benchmark import run_benchmark
    from gdino_lib.evaluation.published_sets import SETS, Choice

    choice = Choice(
        options.dataset,
        Path(options.root),
        options.split or SETS[options.dataset].splits[0],
        None if options.images is None else Path(options.images),
        options.prompts or PROMPTS[0],
        options.names_per_prompt,
    )
    run_benchmark(choice, options.model, options.json, command=_command(options), **model_options(options))
    return 0


def _command(options: argparse.Namespace) -> str:
    """The command line, without options that have their default values."""
    names = ("dataset", "root", "split", "images", "model", "prompts", "names_per_prompt", "json")
    given = [(name, getattr(options, name)) for name in names]
    given += [(name, value) for name, value in (("device", options.device), ("dtype", options.dtype))]
    defaults = {"device": "auto", "dtype": "float32"}
    words = ["gdino", "eval"]
    for name, value in given:
        if value is not None and value != defaults.get(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
