"""Interpolate the weights of two models, to keep abilities that fine-tuning would lose."""

from __future__ import annotations

from pathlib import Path

import torch

from gdino_lib.companion import require_data_prep
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.weights.loading import load, save


def merge(
    first: str | Path, second: str | Path, target: str | Path, alpha: float, overwrite: bool = False
) -> GroundingDINO:
    """Write (1 - alpha) * first + alpha * second, computed in float32 for each weight.

    If the two are a model before and after fine-tuning, `alpha` trades old abilities for new ones (WiSE-FT, arXiv
    2109.01903).

    Args:
        first, second: anything that `gdino_lib.load` takes; both must have the same configuration.
        target: a `.safetensors` file.
        alpha: in 0..1; 0 gives the first, 1 the second.
        overwrite: replace an existing `target`.

    Returns:
        The model that was written, in evaluation mode on the CPU.

    Raises:
        ValueError: `alpha` outside 0..1; `target` with another suffix; two different models, or one that `load` refuses.
        FileNotFoundError: as `load`.
        FileExistsError: `target` exists and `overwrite` is off, or it is a folder.
        OSError: `target` cannot be written; no half-written file is left, and an earlier `target` stays as it was.
    """
    require_data_prep()
    from data_prep.atomic import reserved

    target = Path(target)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in 0..1, got {alpha}")
    if target.suffix != ".safetensors":
        raise ValueError(f"cannot write {target}: expected a .safetensors file")
    with reserved(target, overwrite):
        merged = _merged(first, second, alpha)
        save(merged, target)
    return merged


def _merged(first: str | Path, second: str | Path, alpha: float) -> GroundingDINO:
    merged, other = load(first, "cpu"), load(second, "cpu")
    sizes, other_sizes = merged.config.to_dict(), other.config.to_dict()
    different = [f"{name} {sizes[name]} and {other_sizes[name]}" for name in sizes if sizes[name] != other_sizes[name]]
    if different:
        raise ValueError(f"{first} and {second} are different models: {', '.join(different[:4])}")
    with torch.no_grad():
        weights = other.state_dict()
        for name, tensor in merged.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_((1 - alpha) * tensor + alpha * weights[name])
            elif not torch.equal(tensor, weights[name]):
                raise ValueError(f"{name} holds whole numbers that differ between {first} and {second}")
    return merged
