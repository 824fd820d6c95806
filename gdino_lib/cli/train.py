"""The command `gdino train`: its options are the fields of `TrainingSettings`, then data, model and folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from gdino_lib.training.settings import LossSettings, TrainingSettings

if TYPE_CHECKING:
    import torch


def add_options(command: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    data = command.add_argument_group("data and model")
    data.add_argument("--train", required=True, metavar="FILE", help="to learn from: .csv, .json (COCO), .jsonl (ODVG)")
    data.add_argument("--images", required=True, metavar="DIR", help="folder of its images")
    data.add_argument("--val", metavar="FILE", help="to judge by; without it the last weights count")
    data.add_argument("--val-images", metavar="DIR", help="folder of its images (default: that of --images)")
    start = data.add_mutually_exclusive_group(required=True)
    start.add_argument("--init", metavar="MODEL", help="nano, tiny, base, a weight file or a folder")
    start.add_argument("--from-scratch", choices=["nano", "tiny", "base", "large"], help="random weights of this size")
    data.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    again = data.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in DIR, or begin it")
    again.add_argument("--overwrite", action="store_true", help="remove an earlier run in DIR")
    data.add_argument("--negatives", type=int, metavar="N", help="absent classes in a prompt (default: all that fit)")
    data.add_argument("--no-augmentation", action="store_true", help="no flips, crops and scales")
    data.add_argument("--short-side", type=int, metavar="PIXELS", help="of an image (default: the model's)")
    data.add_argument("--workers", type=int, metavar="N", help="processes that read ahead (default: one a core)")
    data.add_argument("--device", choices=["auto", "cpu"], default="auto", help="(default: auto)")
    settings = command.add_argument_group("settings")
    hints = get_type_hints(TrainingSettings, include_extras=True)
    for entry in fields(TrainingSettings):
        if entry.name != "loss":
            kind, *_, text = get_args(hints[entry.name])
            default = entry.default if entry.default is not MISSING else entry.default_factory()
            _add_option(settings, f"--{entry.name.replace('_', '-')}", kind, default, text)
    names = ", ".join(entry.name for entry in fields(LossSettings))
    settings.add_argument(
        "--loss", nargs="+", type=_pair, default=(), metavar="NAME=X", help=f"weight of a cost or loss: {names}"
    )


def need(*modules: str) -> None:
    """Training and evaluation want more than detection does.

    Raises:
        ValueError: a package that is not installed.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed; pip install 'gdino_lib[train]'")


def run(options: argparse.Namespace) -> int:
    """Train as told; the command's exit status."""
    need("accelerate", "scipy", *["peft"] * bool(options.lora_rank), *["pycocotools"] * bool(options.val))
    import torch

    from gdino_lib.config import PRESETS
    from gdino_lib.data.datasets import GroundingDataset, read_records
    from gdino_lib.data.transforms import EvaluationTransform, TrainingTransform
    from gdino_lib.model.grounding_dino import GroundingDINO
    from gdino_lib.training.trainer import Trainer
    from gdino_lib.training.validation import Validation
    from gdino_lib.weights import loading

    settings = settings_of(options)
    if options.short_side is not None and options.short_side < 8:
        raise ValueError(f"--short-side: expected at least 8 pixels, got {options.short_side}")
    records = read_records(options.train)
    validation = None
    if options.val:
        validation = Validation(read_records(options.val), options.val_images or options.images)
    if options.from_scratch:
        torch.manual_seed(settings.seed)
        model = GroundingDINO(PRESETS[options.from_scratch]())
    else:
        model = loading.load(options.init, "cpu")
    if options.short_side is not None:
        ratio = options.short_side / model.config.short_side
        model.config = model.config.replace(
            short_side=options.short_side, long_side=round(model.config.long_side * ratio)
        )
    config = model.config
    transform = (EvaluationTransform if options.no_augmentation else TrainingTransform)(
        config.short_side, config.long_side
    )
    dataset = GroundingDataset(
        records,
        options.images,
        transform,
        negatives=options.negatives,
        seed=settings.seed,
        max_tokens=config.max_tokens,
    )
    trainer = Trainer(
        model,
        dataset,
        settings,
        options.out,
        validation=validation,
        resume=options.resume,
        overwrite=options.overwrite,
        workers=options.workers,
        device=options.device,
    )
    if trainer.accelerator.is_main_process:
        done = f", {trainer.step} of them done" if trainer.step else ""
        rest = len(dataset) % settings.batch_size
        left = f" ({rest} of them, others each time, in no step of an epoch)" if rest else ""
        print(
            f"{_place(trainer.accelerator.device, trainer.accelerator.num_processes)}, {settings.precision}; "
            f"{len(dataset)} images{left}, short side {config.short_side} pixels at most; "
            f"{trainer.steps} steps of {settings.batch_size} images{done}",
            flush=True,
        )
    result = trainer.fit()
    if trainer.accelerator.is_main_process:
        best = f", AP {result.best['ap']:.3f} after epoch {result.best['epoch']}" if result.best else ""
        print(f"{result.step} steps; the weights: {result.weights}{best}")
    return 0


def settings_of(options: argparse.Namespace) -> TrainingSettings:
    """The settings that the options give.

    Raises:
        ValueError: a value out of its range, an unknown loss.
    """
    values = {entry.name: getattr(options, entry.name) for entry in fields(TrainingSettings) if entry.name != "loss"}
    values["lr_scale"] = TrainingSettings().lr_scale | dict(options.lr_scale)
    known = {entry.name for entry in fields(LossSettings)}
    for name, _ in options.loss:
        if name not in known:
            raise ValueError(f"--loss: expected one of {', '.join(sorted(known))}, got {name!r}")
    return TrainingSettings(**values, loss=LossSettings(**dict(options.loss)))


def _place(device: torch.device, processes: int) -> str:
    """What the run computes on, in words."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"CPU with {threads} thread{'s' * (threads != 1)}"
    return f"{processes} x {name}" if processes > 1 else name


def _add_option(group: argparse._ArgumentGroup, flag: str, kind: Any, default: Any, text: str) -> None:
    if kind is bool:
        group.add_argument(flag, action="store_true", help=text)
    elif get_origin(kind) is Literal:
        group.add_argument(flag, choices=get_args(kind), default=default, help=f"{text} (default: {default})")
    elif get_origin(kind) is tuple:
        shown = " ".join(map(str, default))
        group.add_argument(flag, type=float, nargs="+", default=default, metavar="X", help=f"{text} (default: {shown})")
    elif get_origin(kind) is Mapping:
        shown = " ".join(f"{name}={value:g}" for name, value in default.items())
        group.add_argument(
            flag,
            type=_pair,
            nargs="+",
            default=default,
            metavar="PART=FACTOR",
            help=f"{text}; added to the defaults, {shown}",
        )
    else:
        metavar = "N" if kind is int else "X"
        group.add_argument(flag, type=kind, default=default, metavar=metavar, help=f"{text} (default: {default:g})")


def _pair(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if not equals or not name:
            raise ValueError
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, got {text!r}") from None
