"""Options that several commands share, the checks of their values, and the check for packages that a command needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias, TypedDict, TypeVar

if TYPE_CHECKING:
    from gdino_lib.model.grounding_dino import GroundingDINO

MOST_PIXELS = 65_535  # no margin of an image is wider
Number = TypeVar("Number", int, float)
Options: TypeAlias = argparse._ActionsContainer  # a parser, or a group of options


class ModelOptions(TypedDict):
    """Options of the commands that run a model on files."""

    device: str
    dtype: str
    overwrite: bool


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


def add_overwrite(options: Options, text: str) -> None:
    """Add `--overwrite`; `text` is its help."""
    options.add_argument("--overwrite", action="store_true", help=text)


def add_device(options: Options) -> None:
    """Add `--device`."""
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def add_dtype(options: Options) -> None:
    """Add `--dtype`."""
    # as gdino_lib.detect.detector.DTYPES, which would import PyTorch
    choices = ["float32", "bfloat16", "float16"]
    options.add_argument(
        "--dtype", choices=choices, default="float32", help="number format of the computation (default: float32)"
    )


def model_options(options: argparse.Namespace) -> ModelOptions:
    """The values of `--device`, `--dtype` and `--overwrite` as keyword arguments."""
    return {"device": options.device, "dtype": options.dtype, "overwrite": options.overwrite}


def add_images(options: Options) -> None:
    """Add `--images`, the folder of a data set's images."""
    options.add_argument("--images", required=True, metavar="DIR", help="folder of the images")


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


def need(*modules: str) -> None:
    """Refuse to go on without packages of the extra `train`, which detection does not need.

    Raises:
        ValueError: a package is not installed.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed; pip install 'gdino_lib[train]'")
