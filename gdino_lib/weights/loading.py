"""Load, save and convert the weights of a model.

`gdino_lib.weights.layouts` translates between the layouts of weight files, `gdino_lib.weights.files` reads and writes them.
Loading accounts for every tensor and every parameter: it refuses a tensor that is neither used nor known to be useless, and
a file that leaves a parameter unfilled.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gdino_lib.companion import require_data_prep
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.messages import first_line, one_line
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.timm_backbone import has_folded_batch_norms
from gdino_lib.weights.files import State, read_json, read_tensors, write_pth, write_safetensors
from gdino_lib.weights.hub import FILES as HUB_FILES
from gdino_lib.weights.hub import locate
from gdino_lib.weights.layouts import FORMATS, Checkpoint, from_layout, hugging_face_config, raise_faults, to_layout
from gdino_lib.weights.names import hub_name, why_unused

_METADATA = "gdino_lib"  # the metadata's key under which our own files keep their configuration

SPARE = (
    10**9
)  # numbers that a model may have beyond its file's, so that the message can name the tensors that are missing

SCALE = (
    ".scale"  # ends the name of the factors, one per row, of a tensor in 8 bits, as nano's word embeddings are stored
)

_UNUSED_PREFIX = "unused."  # our own files keep unused tensors under this prefix, so that converting back loses nothing


def load(
    path_or_name: str | os.PathLike[str], device: str | torch.device = "auto", config: GroundingDINOConfig | None = None
) -> GroundingDINO:
    """Build a model and fill it from a weight file.

    Args:
        path_or_name: "nano" (embedded; drawn pictograms only), "tiny" or "base" (fetched from the Hugging Face hub), or a
            `.pth` or `.safetensors` file, or a Hugging Face folder. Never unpickles code.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU; see `choose_device`.
        config: the configuration to use instead of the file's own.

    Returns:
        The model in float32, in evaluation mode, ready to be trained. For inference alone,
        `gdino_lib.model.timm_backbone.fold_batch_norms` makes a timm backbone such as nano's faster;
        `Detector.from_pretrained` does so.

    Raises:
        TypeError: `path_or_name` is neither a name nor a path.
        FileNotFoundError: no such file; weights that cannot be fetched, or were never released.
        ValueError: not a weight file of Grounding DINO, or one that does not fit `config` (the message lists the names); a
            device that cannot be used.

    Warns:
        UserWarning: weights that are NaN or infinite, with which a model finds nothing.
    """
    place = choose_device(device)  # a wrong device is refused before minutes of fetching and reading
    checkpoint = read(locate(path_or_name))
    model = _unfilled(config or checkpoint.config, str(path_or_name), _largest_model(checkpoint.state))
    fill(model, checkpoint, str(path_or_name))
    _warn_of_broken_weights(checkpoint, str(path_or_name))
    return model.eval().to(place)


def choose_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is CUDA, Apple's MPS or the CPU, whichever this machine has first.

    Raises:
        ValueError: no device has this name, or it cannot be used here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected auto, cpu, cuda, cuda:1 or mps, got {device!r}") from None
    try:
        torch.zeros(1, device=chosen).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"device: {str(chosen)!r} cannot be used here: {first_line(error)}") from None
    return chosen


def fill(model: GroundingDINO, checkpoint: Checkpoint, source: str = "the file") -> None:
    """Copy all tensors of a checkpoint into all tensors of a model, in the precision of the model.

    Raises:
        ValueError: tensors that are missing, unexpected, or of another shape or kind; the model stays as it was.
    """
    _check_fit(model, checkpoint.state, source)
    model.load_state_dict(checkpoint.state)


def save(model: GroundingDINO, path: str | Path, about: Mapping[str, str] | None = None) -> None:
    """Write a model as a `.safetensors` file of our own layout, which holds the configuration, too.

    Args:
        about: further metadata of the file for its readers; loading ignores it.

    Raises:
        ValueError: `path` has another suffix; the model's batch norms are folded.
        FileExistsError: `path` is a folder.
        OSError: the file cannot be written; no half-written file is left.
    """
    if has_folded_batch_norms(model):
        raise ValueError(
            f"cannot write {path}: this model is for inference, its batch norms are folded into its convolutions; "
            "save the model of gdino_lib.load"
        )
    _check_target(Path(path), "gdino_lib")
    _write_ours(Checkpoint(dict(model.state_dict()), model.config, "gdino_lib"), Path(path), about)


def convert(source: str | Path, target: str | Path, to: str, overwrite: bool = False) -> Checkpoint:
    """Write a weight file in another layout; tensors stay bit for bit, half precision stays half.

    Args:
        source: anything that `load` takes.
        target: a `.safetensors` file ("gdino_lib"), a `.pth` file ("official") or a folder ("hugging-face").
        to: one of `FORMATS`.
        overwrite: replace an existing `target`.

    Returns:
        The checkpoint as it was read.

    Raises:
        ValueError: an unknown layout, a model that the layout cannot hold, or a source that `load` would refuse.
        FileNotFoundError: as `load`.
        FileExistsError: `target` exists and `overwrite` is off; a folder in place of a file; a folder with other files.
        OSError: `target` cannot be written; no half-written file is left, and an earlier `target` stays as it was.
    """
    require_data_prep()  # loading does not need it
    from data_prep.atomic import reserved

    if to not in FORMATS:
        raise ValueError(f"unknown layout {to!r}; expected one of {', '.join(FORMATS)}")
    target = Path(target)
    _check_target(target, to)
    with reserved(target, overwrite):
        return _convert(source, target, to, overwrite)


def _convert(source: str | Path, target: Path, to: str, overwrite: bool) -> Checkpoint:
    from data_prep.atomic import atomic_folder

    checkpoint = read(locate(source))
    model = _unfilled(checkpoint.config, str(source), _largest_model(checkpoint.state))
    _check_fit(model, checkpoint.state, str(source))
    if to == "gdino_lib":
        _write_ours(checkpoint, target)
    elif to == "official":
        write_pth(target, to_layout(checkpoint, to))
    else:
        state = {hub_name(name): tensor for name, tensor in to_layout(checkpoint, to).items()}
        with atomic_folder(target, overwrite, HUB_FILES) as folder:
            write_safetensors(folder / "model.safetensors", state)
            hugging_face_config(checkpoint.config).save_pretrained(folder)
    return checkpoint


def read(path: str | Path) -> Checkpoint:
    """Read a weight file of any layout. `fill` checks later whether the file fills a whole model.

    Raises:
        FileNotFoundError: there is no weight file at `path`.
        ValueError: a file that is damaged, holds pickled code, belongs to another model or is a training checkpoint; a
            tensor that is neither used nor known to be useless.
    """
    path = Path(path)
    state, metadata = read_tensors(path)
    if _METADATA in metadata:
        return _from_ours(state, metadata[_METADATA], str(path))
    if "feat_map.weight" in state:
        return from_layout(state, "official", source=str(path))
    if "model.text_projection.weight" in state:
        file = (path if path.is_dir() else path.parent) / "config.json"
        return from_layout(state, "hugging-face", read_json(file) if file.is_file() else None, str(path))
    if any(name.startswith("feature_enhancer.") for name in state):
        raise ValueError(
            f"{path} has our tensors but no configuration, like a training checkpoint: finish its run with --resume, "
            "or use the run's best.safetensors or last.safetensors; gdino_lib.weights.loading.save writes both"
        )
    raise ValueError(f"{path} holds no Grounding DINO: none of its {len(state)} tensors is a text projection")


def _check_fit(model: GroundingDINO, state: State, source: str) -> None:
    """Refuse tensors that do not fill the model, name by name."""
    wanted = model.state_dict()
    both = [(name, state[name], wanted[name]) for name in sorted(wanted.keys() & state.keys())]
    raise_faults(
        source,
        {
            "missing": sorted(wanted.keys() - state.keys()),
            "unexpected": sorted(state.keys() - wanted.keys()),
            "of another shape": [
                f"{n} {list(given.shape)} instead of {list(own.shape)}"
                for n, given, own in both
                if given.shape != own.shape
            ],
            "of another kind": [
                f"{n} {given.dtype}" for n, given, own in both if given.is_floating_point() != own.is_floating_point()
            ],
        },
    )


def _warn_of_broken_weights(checkpoint: Checkpoint, source: str) -> None:
    # a sum with NaN or infinity is not finite, and takes no copy of the tensor
    sums = {name: tensor.sum(dtype=torch.float32) for name, tensor in checkpoint.state.items()}
    broken = [name for name, total in sums.items() if not total.isfinite()]
    if broken:
        message = f"{source}: {len(broken)} tensors hold NaN or infinity, so the model finds nothing; the first is {broken[0]}"
        warnings.warn(message, stacklevel=3)


def _check_target(target: Path, layout: str) -> None:
    if layout != "hugging-face":
        if (target.suffix == ".safetensors") != (layout == "gdino_lib"):
            expected = "a .safetensors file" if layout == "gdino_lib" else "a .pth file"
            raise ValueError(f"cannot write {target}: the {layout} layout is {expected}")
        if target.is_dir():
            raise FileExistsError(f"{target} is a folder; expected a file to write")
        return
    others = {file.name for file in target.iterdir()} if target.is_dir() else set()
    if others := others - set(HUB_FILES):  # the whole folder would be replaced, and these files would be lost
        raise FileExistsError(f"{target} holds other files ({min(others)}); choose another folder")


class _NoRandomWeights(TorchFunctionMode):
    """Leaves parameters uninitialised: drawing 172 million random numbers takes ten times as long as the rest of building.

    Args:
        most: how many numbers may be allocated in this block. A tensor that would exceed this limit is refused before it
            takes memory.
    """

    SKIPPED = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"})
    ALLOCATING = frozenset({"empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace"})

    def __init__(self, most: float) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]
        if name in self.ALLOCATING:
            self.left -= function(*args, **kwargs | {"device": "meta"}).numel()
            if self.left < 0:
                raise ValueError("it is larger than the file's tensors")
        return function(*args, **kwargs)


def _unfilled(config: GroundingDINOConfig, source: str, most: float = math.inf) -> GroundingDINO:
    """A model with arbitrary weights, to be filled, or to compare names and shapes with.

    Args:
        most: how many numbers its tensors may have.

    Raises:
        ValueError: no such model can be built, or it would be larger.
    """
    try:
        with _NoRandomWeights(most):
            return GroundingDINO(config)
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = one_line(error)[:300]
        raise ValueError(f"{source}: no model can be built as its configuration says: {reason}") from None


def _largest_model(state: State) -> int:
    """How many numbers a model for these tensors may have, including buffers that it computes itself."""
    return 2 * sum(tensor.numel() for tensor in state.values()) + SPARE


def _write_ours(checkpoint: Checkpoint, path: Path, about: Mapping[str, str] | None = None) -> None:
    state = checkpoint.state | {_UNUSED_PREFIX + name: tensor for name, tensor in checkpoint.unused.items()}
    write_safetensors(path, state, {**(about or {}), **our_metadata(checkpoint.config)})


def our_metadata(config: GroundingDINOConfig) -> dict[str, str]:
    """The metadata that marks a safetensors file as one of ours, and holds the model's configuration."""
    return {_METADATA: json.dumps(config.to_dict())}


def _from_ours(state: State, config: str, source: str) -> Checkpoint:
    def refuse_constant(constant: str) -> None:
        raise ValueError(f"{constant} is no size")

    try:
        sizes = GroundingDINOConfig.from_dict(json.loads(config, parse_constant=refuse_constant))
        if ":" in sizes.backbone:  # timm would look for it on the network
            raise ValueError(f"backbone {sizes.backbone!r}")
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: its configuration is damaged, or of another version: {one_line(error)}") from None
    for name in [name for name in state if name.endswith(SCALE) and name.removesuffix(SCALE) in state]:
        tensor, scale = state[name.removesuffix(SCALE)], state.pop(name)
        if tensor.dim() != 2 or scale.shape != (len(tensor), 1):  # other shapes could be broadcast to any size
            shapes = f"{list(scale.shape)} beside {list(tensor.shape)}"
            raise ValueError(f"{source}: {name}: expected one number for each row of the tensor, got {shapes}")
        state[name.removesuffix(SCALE)] = tensor.float() * scale.float()
    unused = {
        name.removeprefix(_UNUSED_PREFIX): state.pop(name) for name in list(state) if name.startswith(_UNUSED_PREFIX)
    }
    raise_faults(source, {"unexpected": [_UNUSED_PREFIX + name for name in unused if not why_unused(name)]})
    return Checkpoint(state, sizes, "gdino_lib", unused)
