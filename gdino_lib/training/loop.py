"""The loop that all kinds of training share: seeded batches, steps of AdamW under a schedule, checkpoints.

Everything random in a step is drawn from the seed and the step's number. An interrupted loop therefore continues from its last
checkpoint as if nothing had happened.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch import Tensor, nn

from gdino_lib.data.datasets import SeededDataset
from gdino_lib.data.loader import Batch, EpochOrder, build_loader
from gdino_lib.training import checkpoints
from gdino_lib.training.checkpoints import MODEL, TRAINING, TrainingState, check_keys, check_like
from gdino_lib.training.optimization import MovingAverage, parameter_groups, schedule_factor
from gdino_lib.training.processes import reduce
from gdino_lib.training.settings import TrainingSettings

Losses = Callable[[Batch, int, float], Mapping[str, Tensor]]  # see `TrainingLoop`


def derived_seed(*parts: Any) -> int:
    """A seed made of its parts, the same on every machine."""
    return random.Random("/".join(map(str, parts))).getrandbits(63)


class TrainingLoop:
    """Trains a module step by step; the caller logs, validates and saves between the steps.

    Args:
        module: the module to train; it is changed.
        dataset: the data set to learn from.
        settings: batches, learning rates, schedule, clipping, moving average and seed; with float16, gradients are scaled.
        accelerator: see `gdino_lib.training.processes`; the module is on its device.
        losses: (batch, epoch from 0, normaliser) -> scalars: "total", which is minimised, and other losses for the log. The
            losses of all passes of a step are added; the normaliser is the step's number of boxes, at least 1, per process.
        step_seed: number of a step -> seed of all random choices in the step.
        workers: processes of the loader, see `build_loader`.

    Attributes:
        model: the module as it is distributed over processes; `losses` must call this one.
        optimizer: AdamW.
        average: moving average of the weights; None if the settings ask for none.
        step: number of steps that were made, including those before an interruption.
        steps: number of steps of the whole run; steps_per_epoch: of an epoch.
    """

    def __init__(
        self,
        module: nn.Module,
        dataset: SeededDataset,
        settings: TrainingSettings,
        accelerator: Accelerator,
        losses: Losses,
        step_seed: Callable[[int], int],
        workers: int | None = None,
    ) -> None:
        s = settings
        self.module, self.settings, self.accelerator = module, settings, accelerator
        self._losses, self._step_seed = losses, step_seed
        groups = parameter_groups(module, s.lr, s.lr_scale)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=s.weight_decay)
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=s.precision == "float16")
        self.average = MovingAverage(module, s.ema) if s.ema else None
        self.model = accelerator.prepare_model(module)
        loader = build_loader(
            dataset, s.batch_size // s.accumulation_steps, shuffle=True, workers=workers, drop_last=True
        )
        assert isinstance(loader.sampler, EpochOrder)
        self._order = loader.sampler
        prepared = accelerator.prepare_data_loader(loader)
        assert isinstance(prepared, DataLoaderShard)
        self._loader = prepared
        self.step = 0
        self.steps_per_epoch = len(dataset) // s.batch_size
        self.steps = s.epochs * self.steps_per_epoch

    def epoch(self) -> Iterator[dict[str, Any]]:
        """Make the remaining steps of the current epoch.

        Yields:
            The entry of each step, as `gdino_lib.training.log.read_log` gives it.

        Raises:
            ValueError: losses or gradients that are not finite, with the images' names.
        """
        s, epoch = self.settings, self.step // self.steps_per_epoch
        self._order.start = (self.step - epoch * self.steps_per_epoch) * s.batch_size
        self._loader.set_epoch(epoch)  # sets the epoch of the data set, too
        waiting: list[Batch] = []
        before = time.perf_counter()
        for batch in self._loader:
            waiting.append(batch)
            if len(waiting) < s.accumulation_steps:
                continue
            entry = self._make_step(waiting, epoch)
            waiting, now = [], time.perf_counter()
            entry["images_per_second"], before = s.batch_size / (now - before), now
            yield entry

    def _make_step(self, batches: Sequence[Batch], epoch: int) -> dict[str, Any]:
        """One update of the weights."""
        s = self.settings
        factor = schedule_factor(s, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        torch.manual_seed(self._step_seed(self.step))  # dropout, drop path
        self.optimizer.zero_grad()
        parts = self._backward(batches, epoch)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, s.clip or torch.inf).item()
        total = parts.pop("total")
        if not torch.tensor([total, norm if s.precision != "float16" else 0.0]).isfinite().all():
            names = ", ".join(target.name for batch in batches for target in batch.targets)
            raise ValueError(
                f"step {self.step + 1}: the loss is {total:.4g}, the norm of its gradients {norm:.4g}; nothing was "
                f"changed, the last checkpoint stays; try a lower learning rate or float32; images: {names}"
            )
        self.scaler.step(self.optimizer)  # with float16, a step whose gradients overflowed is left out
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise ValueError(f"step {self.step + 1}: the gradients overflow float16 whatever their scale; try bfloat16")
        if self.average:
            self.average.update()
        self.step += 1
        finite = norm if norm < torch.inf else None  # JSON knows no infinity
        entry = {"step": self.step, "epoch": epoch + 1, "loss": total, "parts": parts, "lr": s.lr * factor}
        return entry | {"gradient_norm": finite}

    def _backward(self, batches: Sequence[Batch], epoch: int) -> dict[str, float]:
        """Add up the gradients of all passes of a step. Returns the losses, averaged over processes."""
        accelerator = self.accelerator
        boxes = sum(len(target.boxes) for batch in batches for target in batch.targets)
        boxes = reduce(accelerator, torch.tensor(float(boxes), device=accelerator.device), "sum").item()
        normaliser = max(boxes, 1) / accelerator.num_processes  # gradients are averaged over processes
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else accelerator.no_sync(self.model):
                losses = self._losses(batch, epoch, normaliser)
                self.scaler.scale(losses["total"]).backward()
            sums = {name: value.detach() + sums.get(name, 0) for name, value in losses.items()}
        values = reduce(accelerator, torch.stack(list(sums.values())), "mean").tolist()
        return dict(zip(sums, values, strict=True))

    def save(self, out: Path, about: Mapping[str, Any]) -> None:
        """Write a checkpoint into the folder of a run; all processes must call it.

        Args:
            about: further entries of its `state.json`.
        """
        if self.accelerator.is_main_process:
            training = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
            if self.average:
                training["average"] = self.average.state_dict()
            state = {"step": self.step, "epoch": self.step / self.steps_per_epoch, "versions": checkpoints.versions()}
            checkpoints.write(out, self.step, self.module.state_dict(), training, state | dict(about))
        self.accelerator.wait_for_everyone()

    def restore(self, saved: TrainingState) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: the checkpoint is damaged, or of another module or optimiser; the message names the file and the fault.
        """
        file, training, groups = saved.folder / TRAINING, saved.training, self.optimizer.state_dict()["param_groups"]
        check_like(saved.folder / MODEL, saved.model, self.module.state_dict())
        expected: dict[str, Any] = {
            "scaler": self.scaler.state_dict(),
            "optimizer": {"state": {}, "param_groups": groups},
        }
        if self.average:
            expected["average"] = self.average.state_dict()
        check_keys(file, training, expected)
        check_keys(file, training["optimizer"], expected["optimizer"], "optimizer")
        for name in expected.keys() - {"optimizer"}:
            check_like(file, training[name], expected[name], name)
        moments = training["optimizer"]["state"]
        there = moments.keys() if isinstance(moments, Mapping) else ()
        weights = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        # the optimiser has no entry for a parameter that has received no gradient so far
        scalar = torch.zeros(())
        like = {n: {"step": scalar, "exp_avg": p, "exp_avg_sq": p} for n, p in weights.items() if n in there}
        check_like(file, moments, like, "optimizer.state")
        if any((entry[name] < 0).any() for entry in moments.values() for name in ("step", "exp_avg_sq")):
            raise ValueError(f"{file}: expected no negative counts and squares in optimizer.state")
        self.module.load_state_dict(saved.model)
        # the parameter groups follow from the settings, which are the same; learning rates are computed in each step
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(training["scaler"])
        if self.average:
            self.average.load_state_dict(training["average"])
        self.step = saved.state["step"]
