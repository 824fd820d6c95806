"""The gradients of one training step: every part that should learn receives one, and all are finite."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from gdino_lib.data.loader import Batch
from gdino_lib.messages import first_line
from gdino_lib.model.grounding_dino import GroundingDINO, GroundingDINOOutput
from gdino_lib.training.doctor.batch import TrainingStep
from gdino_lib.training.doctor.diagnosis import Diagnosis, PartGradient, first_few


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Turn `requires_grad` off for the parameters of `parts`.

    Raises:
        ValueError: a part that no parameter's name begins with.
    """
    for part in parts:
        own = [parameter for name, parameter in model.named_parameters() if _is_within(name, [part])]
        if not own:
            names = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"frozen: no parameter's name begins with {part!r}; the model's parts are {names}")
        for parameter in own:
            parameter.requires_grad_(False)


def examine_gradients(
    diagnosis: Diagnosis, model: GroundingDINO, batch: Batch, frozen: Sequence[str], lr: float, seed: int
) -> bool:
    """Examine the gradients of a training step on a copy of the model; False if overfitting cannot be tried."""
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        diagnosis.add("problem", "gradients", f"weights are not finite (NaN or infinity): {first_few(broken)}")
        return False
    if not any(parameter.requires_grad for parameter in model.parameters()):
        diagnosis.add("problem", "gradients", "every part is frozen (requires_grad is off): nothing can be learned")
        return False
    model = copy.deepcopy(model)
    step = TrainingStep(model, batch, lr, seed)
    try:
        out = step.predict()
        _examine_logits(diagnosis, out, batch)
        step.losses(out)["total"].backward()
        infinite = _infinite_gradients(model)
        if not infinite:  # zeros in new models block the gradients of the parts behind them until the first update
            step.optimizer.step()
            step.optimizer.zero_grad()
            step.losses(step.predict())["total"].backward()
            infinite = _infinite_gradients(model)
    except (ValueError, RuntimeError) as error:
        diagnosis.add("problem", "gradients", f"one step: {first_line(error)}")
        return False
    _examine_parts(diagnosis, model, frozen)
    if infinite:
        diagnosis.add("problem", "gradients", f"gradients are not finite (NaN or infinity): {first_few(infinite)}")
        return False
    unreached = _unreached(model)
    if unreached:
        why = "the loss does not depend on it, or something detaches it on the way"
        diagnosis.add("problem", "gradients", f"no gradient reaches {first_few(unreached)}: {why}")
    else:
        trained = sum(part.trained > 0 for part in diagnosis.parts)
        diagnosis.add("ok", "gradients", f"each of the {trained} parts that train receives a finite gradient")
    return True


def _examine_parts(diagnosis: Diagnosis, model: nn.Module, frozen: Sequence[str]) -> None:
    """Note the gradient of each part, and which parts are frozen."""
    parts = _parameters_by_part(model)
    diagnosis.parts = tuple(
        _part_gradient(part, [parameter for _, parameter in members]) for part, members in parts.items()
    )
    if frozen:
        diagnosis.add("ok", "gradients", f"frozen on purpose: {', '.join(frozen)}")
    unasked = [
        part
        for part, members in parts.items()
        if any(not parameter.requires_grad and not _is_within(name, frozen) for name, parameter in members)
    ]
    if unasked:
        text = f"frozen (requires_grad is off), but not named as frozen: {first_few(unasked)}"
        diagnosis.add("problem", "gradients", f"{text}; turn requires_grad on, or name the part as frozen")


def _examine_logits(diagnosis: Diagnosis, out: GroundingDINOOutput, batch: Batch) -> None:
    """Note images whose words all have the logit -inf, which only padding may have."""
    for image, target in enumerate(batch.targets):
        words = out.phrase_of_token[image] >= 0
        if not words.any() or out.logits[image][:, words].isneginf().all():
            text = f"{target.name}: all logits are those of padding, its phrases reach no query"
            diagnosis.add("problem", "gradients", text)


def _infinite_gradients(model: nn.Module) -> list[str]:
    """The parameters whose gradients are not finite."""
    return [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]


def _unreached(model: nn.Module) -> list[str]:
    """Parts without any gradient, and single parameters of other parts, that should be trained."""
    unreached = []
    for part, members in _parameters_by_part(model).items():
        trained = [(name, parameter) for name, parameter in members if parameter.requires_grad]
        if trained and all(p.grad is None or not p.grad.any() for _, p in trained):
            unreached.append(part)
        else:
            unreached += [name for name, p in trained if p.grad is None]
    return unreached


def _part_gradient(part: str, parameters: list[nn.Parameter]) -> PartGradient:
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    norm = torch.cat(gradients).double().norm().item() if gradients else 0.0
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return PartGradient(part, count, trained, norm if 0 < norm < math.inf else None)


def _parameters_by_part(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """{part: its parameters with their names}.

    A part is a grandchild of the model; each decoder layer, and each layer within an enhancer layer, is a part of its own.
    """
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        depth = 4 if name.startswith("feature_enhancer.layers.") else 3 if name.startswith("decoder.layers.") else 2
        parts.setdefault(".".join(name.split(".")[:depth]), []).append((name, parameter))
    return parts


def _is_within(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
