"""Options that several commands share, the checks of their values, and the check for packages that a command needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias, TypedDict, TypeVar

from gdino_lib.messages import printable
from gdino_lib.weights import hub

if TYPE_CHECKING:
    from gdino_lib.model.grounding_dino import GroundingDINO

# the data sets that commands read, for help texts
FORMATS = ".csv, .json (COCO), .jsonl (ODVG), data.yaml (YOLO) or another format of data_prep"
EXIT_STATUS = "Exit status: 0 all inputs are done, 1 some inputs could not be used, 2 nothing was done."
MOST_PIXELS = 65_535  # no margin of an image is wider
Number = TypeVar("Number", int, float)
Options: TypeAlias = argparse._ActionsContainer  # a parser, or a group of options


class ModelOptions(TypedDict):
    """Options of the commands that run a model on files."""

    device: str
    dtype: str
    overwrite: bool


class DetectionOptions(ModelOptions):
    """Options of the commands that detect in files."""

    box_threshold: float
    text_threshold: float
    top_k: int | None


def share(text: str) -> float:
    """Parse the value of an option that takes a number in 0..1.

    Raises:
        argparse.ArgumentTypeError: the text is anything else.
    """
    return _parse(text, float, "a number in 0..1", lambda value: 0 <= value <= 1)


def count(text: str) -> int:
    """Parse the value of an option that takes a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: the text is anything else.
    """
    return _parse(text, int, "a whole number of at least 1", lambda value: value >= 1)


def pixels(text: str) -> int:
    """The value of an option that takes a whole number of pixels, 0 among them.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    return _parse(text, int, f"a whole number of pixels in 0..{MOST_PIXELS}", lambda value: 0 <= value <= MOST_PIXELS)


def _parse(text: str, kind: Callable[[str], Number], expected: str, is_in_range: Callable[[Number], bool]) -> Number:
    try:
        value = kind(text)
        if is_in_range(value):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {expected}, got {text[:40]!r}")


def add_model(options: Options, default: str | None = "nano") -> None:
    """Add `--model`; without a default, the user must give it."""
    known = f"{', '.join(hub.names())}, a weight file or a folder"
    if default is None:
        options.add_argument("--model", required=True, help=known)
        return
    missing = "" if default in hub.names() else ", which is not part of this version"
    options.add_argument("--model", default=default, help=f"{known} (default: {default}{missing})")


def announce_model(model: str) -> None:
    """Say on a terminal that a model is being loaded, before the import of PyTorch, which takes seconds, too."""
    if sys.stderr.isatty():
        limits = " (for drawn pictograms only; for photographs use --model tiny)" if model == "nano" else ""
        print(printable(f"loading {model}{limits} ..."), file=sys.stderr, flush=True)


def add_detection(options: Options, out: str) -> None:
    """Add the options of the commands that detect in files; `out` is the default of `--out`.

    They are `--model`, `--out`, `--overwrite`, `--box-threshold`, `--text-threshold`, `--top-k`, `--device` and `--dtype`.
    """
    add_model(options)
    add_out(options, "folder for the results", out)
    add_overwrite(options, "replace earlier results in DIR")
    options.add_argument(
        "--box-threshold",
        type=share,
        default=0.35,
        metavar="X",
        help="least score of the best token of a box, 0..1 (default: 0.35)",
    )
    options.add_argument(
        "--text-threshold",
        type=share,
        default=0.25,
        metavar="X",
        help="least score of the phrase of a box, 0..1 (default: 0.25)",
    )
    options.add_argument(
        "--top-k", type=count, metavar="N", help="keep the N boxes with the highest scores in each image"
    )
    add_device(options)
    add_dtype(options)


def add_weights(options: Options, name: str, metavar: str, models: str) -> None:
    """Add an argument for weights to read; `models` lists the models that it may name."""
    text = f"a .pth or .safetensors file, a Hugging Face folder, or the name of a model: {models}"
    options.add_argument(name, metavar=metavar, help=text)


def add_out(options: Options, text: str, default: str | None = None) -> None:
    """Add `--out`, a folder; `text` is its help. Without a default, the user must give it."""
    if default is None:
        options.add_argument("--out", required=True, metavar="DIR", help=text)
    else:
        options.add_argument("--out", default=default, metavar="DIR", help=f"{text} (default: {default})")


def add_overwrite(options: Options, text: str) -> None:
    """Add `--overwrite`; `text` is its help."""
    options.add_argument("--overwrite", action="store_true", help=text)


def add_device(options: Options) -> None:
    """Add `--device`."""
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def add_dtype(options: Options) -> None:
    """Add `--dtype`."""
    # as gdino_lib.detect.options.DTYPES, which would import PyTorch
    choices = ["float32", "bfloat16", "float16"]
    options.add_argument(
        "--dtype", choices=choices, default="float32", help="number format of the computation (default: float32)"
    )


def model_options(options: argparse.Namespace) -> ModelOptions:
    """The values of `--device`, `--dtype` and `--overwrite` as keyword arguments."""
    return {"device": options.device, "dtype": options.dtype, "overwrite": options.overwrite}


def detection_options(options: argparse.Namespace) -> DetectionOptions:
    """The values that the functions for files take as keyword arguments, of the options that `add_detection` adds."""
    return {
        **model_options(options),
        "box_threshold": options.box_threshold,
        "text_threshold": options.text_threshold,
        "top_k": options.top_k,
    }


def add_images(options: Options) -> None:
    """Add `--images`, the folder of a data set's images."""
    options.add_argument("--images", metavar="DIR", help="folder of the images; YOLO and labelme name it themselves")


def add_start(options: Options, from_scratch: str) -> None:
    """Add `--init` and `--from-scratch`, of which the user must give one; `from_scratch` is the help of `--from-scratch`."""
    start = options.add_mutually_exclusive_group(required=True)
    start.add_argument(
        "--init", metavar="MODEL", help="model to start from: nano, tiny, base, a weight file or a folder"
    )
    # as gdino_lib.config.PRESETS
    start.add_argument("--from-scratch", choices=["nano", "tiny", "base", "large"], help=from_scratch)


def starting_model(options: argparse.Namespace, device: str, seed: int) -> GroundingDINO:
    """The model that `--init` or `--from-scratch` names, on `device`; `seed` determines random weights.

    Raises:
        ValueError, OSError: the weights or the device cannot be used.
    """
    import torch

    from gdino_lib.config import PRESETS
    from gdino_lib.model.grounding_dino import GroundingDINO
    from gdino_lib.weights.loading import choose_device, load

    if options.init is not None:
        return load(options.init, device)
    place = choose_device(device)
    torch.manual_seed(seed)
    return GroundingDINO(PRESETS[options.from_scratch]()).to(place)


def need(*modules: str, extra: str = "train") -> None:
    """Refuse to go on without packages of an extra, which detection does not need.

    Raises:
        ValueError: a package is not installed.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed; pip install 'gdino_lib[{extra}]'")
