"""`gdino train`: options for data, model and folder, and one option for each field of `TrainingSettings`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from gdino_lib.cli.options import FORMATS, Options, add_out, add_overwrite, add_start, need, starting_model
from gdino_lib.messages import printable
from gdino_lib.training.settings import LossSettings, TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from data_prep import Dataset
    from gdino_lib.config import GroundingDINOConfig
    from gdino_lib.data.datasets import GroundingDataset
    from gdino_lib.data.joined import JoinedDataset
    from gdino_lib.model.grounding_dino import GroundingDINO
    from gdino_lib.training.trainer import Trainer
    from gdino_lib.training.validation import Validation


HELP = "train or fine-tune a model"
DESCRIPTION = (
    "Train or fine-tune a model. For several GPUs or machines, use `accelerate launch -m gdino_lib train ...`. After Ctrl-C or "
    "SIGTERM, the run saves a checkpoint at the end of the current step. --resume continues a run that was interrupted or killed."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    data = command.add_argument_group("data and model")
    data.add_argument(
        "--train",
        required=True,
        action="append",
        metavar="FILE",
        help=f"training data: {FORMATS}; may be given more than once",
    )
    data.add_argument(
        "--images",
        action="append",
        metavar="DIR",
        help="folder of the images of --train; once for each --train, unless all of them are YOLO or labelme, which name it",
    )
    data.add_argument(
        "--everywhere",
        action="append",
        metavar="NAMES",
        help='classes that the data set labels wherever they appear, as in "dog . cat", or "all", or "none"; once for each '
        "--train (default: all)",
    )
    data.add_argument(
        "--mix",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="share of each data set in an epoch (default: every image once)",
    )
    data.add_argument(
        "--val",
        metavar="FILE",
        help="validation data, which may be the same data.yaml; without it, no best checkpoint is chosen and the last weights "
        "are the result",
    )
    data.add_argument("--val-images", metavar="DIR", help="folder of the images of --val (default: the first --images)")
    add_start(data, "size of a model with random weights")
    add_out(data, "folder for the run")
    again = data.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue the run in DIR, or start a new run")
    add_overwrite(again, "remove an earlier run in DIR")
    data.add_argument(
        "--negatives", type=int, metavar="N", help="number of absent classes in a prompt (default: as many as fit)"
    )
    data.add_argument("--no-augmentation", action="store_true", help="do not flip, crop or resize at random")
    data.add_argument(
        "--short-side", type=int, metavar="PIXELS", help="short side of an image (default: that of the model)"
    )
    data.add_argument(
        "--workers", type=int, metavar="N", help="number of processes that load images (default: one per core)"
    )
    data.add_argument("--device", choices=["auto", "cpu"], default="auto", help="device (default: auto)")
    _add_settings(command.add_argument_group("settings"))


def run(options: argparse.Namespace) -> int:
    """Train. Returns the exit status."""
    need("accelerate", "scipy", *["peft"] * bool(options.lora_rank), *["pycocotools"] * bool(options.val))
    from gdino_lib.data.datasets import image_folder, read_records
    from gdino_lib.training.trainer import Trainer

    settings = settings_of(options)
    _check_sets(options)
    if options.short_side is not None and not 8 <= options.short_side <= 10_000:
        raise ValueError(f"--short-side: expected 8 to 10000 pixels, got {str(options.short_side)[:40]}")
    given = options.images or [None] * len(options.train)
    folders = [image_folder(file, images) for file, images in zip(options.train, given, strict=True)]
    records = [read_records(file, images, "train") for file, images in zip(options.train, folders, strict=True)]
    validation = _validation(options)
    model = starting_model(options, "cpu", settings.seed)
    _set_short_side(model, options.short_side)
    dataset = _dataset(options, records, folders, model.config, settings.seed)
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
        print(_plan(trainer, dataset, model.config.short_side), flush=True)
    result = trainer.fit()
    if trainer.accelerator.is_main_process:
        best = f", AP {result.best['ap']:.3f} after epoch {result.best['epoch']}" if result.best else ""
        print(printable(f"{result.step} steps; weights: {result.weights}{best}"))
    return 0


def settings_of(options: argparse.Namespace) -> TrainingSettings:
    """The training settings from the options.

    Raises:
        ValueError: a value is out of its range, or a loss is unknown.
    """
    values = {entry.name: getattr(options, entry.name) for entry in fields(TrainingSettings) if entry.name != "loss"}
    values["lr_scale"] = {**TrainingSettings().lr_scale, **dict(options.lr_scale)}
    names = {entry.name for entry in fields(LossSettings)}
    for name, _ in options.loss:
        if name not in names:
            raise ValueError(f"--loss: expected one of {', '.join(sorted(names))}, got {name!r}")
    return TrainingSettings(**values, loss=LossSettings(**dict(options.loss)))


def _validation(options: argparse.Namespace) -> Validation | None:
    from gdino_lib.data.datasets import image_folder, read_records
    from gdino_lib.training.validation import Validation

    if not options.val:
        return None
    images = image_folder(options.val, options.val_images or (options.images or [None])[0])
    return Validation(read_records(options.val, images, "val"), images)


def _set_short_side(model: GroundingDINO, short_side: int | None) -> None:
    """Change the size to which the model resizes images, with the same ratio of the long to the short side."""
    config = model.config
    if short_side is not None:
        long_side = round(config.long_side * (short_side / config.short_side))
        model.config = config.replace(short_side=short_side, long_side=long_side)


def _dataset(
    options: argparse.Namespace,
    records: Sequence[Dataset],
    folders: Sequence[Path],
    config: GroundingDINOConfig,
    seed: int,
) -> GroundingDataset | JoinedDataset:
    """The training data: one data set, or several data sets joined."""
    from gdino_lib.data.datasets import GroundingDataset
    from gdino_lib.data.joined import JoinedDataset
    from gdino_lib.data.transforms import EvaluationTransform, TrainingTransform

    transform = EvaluationTransform if options.no_augmentation else TrainingTransform
    parts = [
        GroundingDataset(
            each,
            images,
            transform(config.short_side, config.long_side),
            negatives=options.negatives,
            everywhere=_everywhere(names),
            seed=seed,
            max_tokens=config.max_tokens,
        )
        for each, images, names in zip(records, folders, options.everywhere or ["all"] * len(records), strict=True)
    ]
    return parts[0] if len(parts) == 1 else JoinedDataset(parts, options.mix, seed=seed)


def _everywhere(text: str) -> list[str] | None:
    """The class names of `--everywhere`; None for all classes."""
    from gdino_lib.prompts import split_phrases

    if text in ("all", "none"):
        return None if text == "all" else []
    return split_phrases(text)


def _check_sets(options: argparse.Namespace) -> None:
    """Check that each option of the data sets is given once for each data set.

    Raises:
        ValueError: an option is not; the message names it.
    """
    sets = len(options.train)
    for name, values in (("--images", options.images), ("--everywhere", options.everywhere), ("--mix", options.mix)):
        if values is not None and len(values) != sets:
            raise ValueError(f"{name}: expected {sets}, one for each --train, got {len(values)}")
    if options.mix is not None and sets == 1:
        raise ValueError("--mix: expected two data sets or more, each with a --train and an --images of its own")


def _plan(trainer: Trainer, dataset: GroundingDataset | JoinedDataset, short_side: int) -> str:
    """One line about the run: device, images, steps."""
    from gdino_lib.data.joined import JoinedDataset

    batch_size = trainer.settings.batch_size
    done = f", {trainer.step} of them done" if trainer.step else ""
    rest = len(dataset) % batch_size
    left = f" ({rest} of them, different ones in each epoch, fill no batch and are left out)" if rest else ""
    of_sets = f" of {len(dataset.parts)} data sets" if isinstance(dataset, JoinedDataset) else ""
    return (
        f"{_place(trainer.accelerator.device, trainer.accelerator.num_processes)}, {trainer.settings.precision}; "
        f"{len(dataset)} images{of_sets}{left}, short side {short_side} pixels at most; "
        f"{trainer.steps} steps of {batch_size} images{done}"
    )


def _place(device: torch.device, processes: int) -> str:
    """The device and the number of processes, in words."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"CPU with {threads} thread{'s' * (threads != 1)}"
    return f"{processes} x {name}" if processes > 1 else name


def _add_settings(options: Options) -> None:
    """Add an option for each field of `TrainingSettings`; the annotation of the field holds its type and its help."""
    hints = get_type_hints(TrainingSettings, include_extras=True)
    for entry in fields(TrainingSettings):
        if entry.name != "loss":
            kind, *_, text = get_args(hints[entry.name])
            flag = f"--{entry.name.replace('_', '-')}"
            options.add_argument(flag, **_argument(kind, _default(entry), text))
    names = ", ".join(entry.name for entry in fields(LossSettings))
    options.add_argument(
        "--loss",
        nargs="+",
        type=_pair,
        default=(),
        metavar="NAME=X",
        help=f"weights of costs and losses; NAME is one of {names}",
    )


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _argument(kind: Any, default: Any, text: str) -> dict[str, Any]:
    """The keyword arguments of `add_argument` for a field of type `kind`."""
    if kind is bool:
        return {"action": "store_true", "help": text}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "default": default, "help": f"{text} (default: {default})"}
    if get_origin(kind) is tuple:
        shown = " ".join(map(str, default))
        look = {"metavar": "X", "help": f"{text} (default: {shown})"}
        return {"type": float, "nargs": "+", "default": default} | look
    if get_origin(kind) is Mapping:
        shown = " ".join(f"{name}={value:g}" for name, value in default.items())
        look = {"metavar": "PART=FACTOR", "help": f"{text}; added to the defaults, {shown}"}
        return {"type": _pair, "nargs": "+", "default": default} | look
    metavar = "N" if kind is int else "X"
    return {"type": kind, "default": default, "metavar": metavar, "help": f"{text} (default: {default:g})"}


def _pair(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if not equals or not name:
            raise ValueError
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, got {text!r}") from None
