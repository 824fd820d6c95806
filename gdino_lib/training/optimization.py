"""Which parameters learn and how fast: frozen parts, schedule, moving average, gradient checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gdino_lib.model.decoder import DecoderLayer
from gdino_lib.model.feature_enhancer import EnhancerLayer
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.swin import SwinBlock
from gdino_lib.model.text_encoder import TextEncoder
from gdino_lib.training.settings import TrainingSettings


def parameter_groups(model: nn.Module, lr: float, lr_scale: Mapping[str, float]) -> list[dict]:
    """Divide the parameters by learning rate, and freeze those whose rate is 0.

    Args:
        lr_scale: {beginning of parameters' names: factor of `lr`}. If several beginnings fit a name, the longest counts; if
            none fits, the factor is 1. "text_encoder" means `text_encoder.*`, not `text_encoder_2.*`.

    Returns:
        Groups for an optimiser: "params", and "lr" as well as "peak_lr", which a schedule multiplies. Parameters that
        were frozen before stay so, and are in no group.

    Raises:
        ValueError: a part that no parameter's name begins with; nothing left to train.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    used = set()
    for name, parameter in model.named_parameters():
        fitting = [part for part in lr_scale if name == part or name.startswith(f"{part}.")]
        used.update(fitting)
        factor = lr_scale[max(fitting, key=len)] if fitting else 1.0
        if factor == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault(factor, []).append(parameter)
    if unused := sorted(lr_scale.keys() - used):
        parts = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"lr_scale: no parameter's name begins with {unused[0]!r}; the model's parts are {parts}")
    if not groups:
        raise ValueError("lr_scale: every part is frozen, nothing is left to train")
    return [{"params": group, "lr": lr * factor, "peak_lr": lr * factor} for factor, group in groups.items()]


def schedule_factor(settings: TrainingSettings, step: int, steps: int) -> float:
    """The factor of the learning rates in a step, in 0..1.

    Args:
        step: number of the step, from 0; steps: number of steps of the whole run.
    """
    warmup = min(settings.warmup_steps, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "cosine":
        done = (step - warmup) / max(steps - warmup, 1)
        return (1 + math.cos(math.pi * done)) / 2
    return 0.1 ** sum(step >= drop * steps for drop in settings.drops)


class MovingAverage:
    """An exponential moving average of the parameters that are trained; frozen parameters take no memory.

    The decay rises to its final value, so that the average soon forgets the first weights: it is the smaller one of `decay`
    and (1 + updates) / (10 + updates).

    Args:
        decay: final share of the old average kept in each update, in 0..1.

    Attributes:
        averages: {parameter's name: float tensor}.
        updates: number of updates that were made.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the present parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        new = [parameter.detach() for parameter in self._parameters.values()]
        averages = list(self.averages.values())
        torch._foreach_lerp_(averages, new, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] - has no public name

    @contextmanager
    def applied(self) -> Iterator[None]:
        """In this block the model has the averaged parameters; afterwards its own ones again, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of updates, for a checkpoint."""
        return {"averages": dict(self.averages), "updates": self.updates}

    def load_state_dict(self, state: Mapping) -> None:
        """The inverse of `state_dict`."""
        for name, average in self.averages.items():
            average.copy_(state["averages"][name])
        self.updates = state["updates"]


def train_mode(model: nn.Module) -> None:
    """Set training mode; frozen modules stay in evaluation mode, so that their outputs do not vary from step to step."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def set_dropout(model: GroundingDINO, probability: float) -> None:
    """Set the dropout of enhancer and decoder, in 0..1; image backbone and BERT keep theirs."""
    for part in (model.feature_enhancer, model.decoder):
        for module in part.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = probability


def checkpoint_activations(model: nn.Module) -> None:
    """Gradient checkpointing: the backward pass computes activations again, so that they need not be kept.

    The gradients are the same. Training takes less memory and a third more time. This applies to Swin's blocks, the text
    encoder, and the layers of enhancer and decoder.
    """
    for module in model.modules():
        if isinstance(module, SwinBlock | TextEncoder | EnhancerLayer | DecoderLayer):
            module.forward = partial(_recomputed, module, type(module).forward)


def _recomputed(module: nn.Module, forward, *arguments, **options):  # noqa: ANN001, ANN002, ANN003, ANN202
    if not torch.is_grad_enabled():
        return forward(module, *arguments, **options)
    return checkpoint(forward, module, *arguments, use_reentrant=False, **options)
