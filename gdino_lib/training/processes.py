"""The device that a run computes on, and the processes that share its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from gdino_lib.weights.loading import choose_device


def build_accelerator(device: str) -> Accelerator:
    """Build the `Accelerator` that distributes a run, on the device that was asked for.

    Args:
        device: "auto" or "cpu".

    Raises:
        ValueError: an unknown device, an earlier run of this process on another device, or a way to distribute other than
            one process per device.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(f"device: expected auto or cpu, got {device!r}; `accelerate launch` chooses among several")
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",  # `TrainingSettings.precision` decides, not accelerate's own configuration
        dataloader_config=DataLoaderConfiguration(split_batches=True),  # batch_size counts all processes' images
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],  # others wait while one validates
    )
    kind = str(accelerator.distributed_type.value)
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ValueError(f"expected one process a device, as accelerate's MULTI_GPU, got {kind}")
    wanted = device if device == "cpu" else choose_device("auto").type
    if accelerator.device.type != wanted:  # accelerate keeps the choice of the first run in a process
        raise ValueError(
            f"device: an earlier run in this process chose {accelerator.device.type}; restart Python for {wanted}"
        )
    return accelerator


def reduce(accelerator: Accelerator, tensor: Tensor, how: str) -> Tensor:
    """The "sum" or "mean" of a tensor over all processes."""
    reduced = accelerator.reduce(tensor, how)
    assert isinstance(reduced, Tensor)  # accelerate returns a tensor for a tensor
    return reduced


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must call this."""
    return bool(reduce(accelerator, torch.tensor([float(flag)], device=accelerator.device), "sum").item())


@contextmanager
def repeatable_sums(device: torch.device) -> Iterator[None]:
    """On a CPU, make sums of gradients independent of the order in which threads finish."""
    if device.type != "cpu":
        yield
        return
    flags: Any = torch.utils.deterministic  # makes its attributes at run time
    mode, fills = torch.get_deterministic_debug_mode(), flags.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    flags.fill_uninitialized_memory = False  # a check of torch's own that costs time
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        flags.fill_uninitialized_memory = fills
