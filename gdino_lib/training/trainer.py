"""The training loop: what the authors of Grounding DINO did not release.

A run depends on its settings, data and first weights alone. Everything random in a step is drawn from the seed and the step's
number, so that a run which was killed at any moment goes on from its last checkpoint: bit for bit on a CPU, but for rounding
on a GPU, which adds up in an order that varies.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor

import data_prep
from gdino_lib.data.datasets import SeededDataset
from gdino_lib.data.loader import Batch, build_loader
from gdino_lib.data.records import check_distinct, check_files, class_names, single_objects
from gdino_lib.detect.detector import DTYPES, Detector
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.evaluation.calibration import choose_thresholds
from gdino_lib.evaluation.coco import AveragePrecision, average_precision
from gdino_lib.evaluation.detect_all import detect_all, detection_records
from gdino_lib.evaluation.matching import match_all
from gdino_lib.model.grounding_dino import GroundingDINO, GroundingDINOOutput
from gdino_lib.training import checkpoints, denoising, lora
from gdino_lib.training.log import LOG, RunLog
from gdino_lib.training.losses import Criterion
from gdino_lib.training.optimization import (
    MovingAverage,
    checkpoint_activations,
    parameter_groups,
    schedule_factor,
    set_dropout,
    train_mode,
)
from gdino_lib.training.settings import TrainingSettings
from gdino_lib.weights import loading

BEST, LAST = "best.safetensors", "last.safetensors"
WRITTEN = {  # by a run, and removed by `overwrite`
    *(BEST, LAST, "best.thresholds.json", "best-adapters", "last-adapters", LOG, "tensorboard", "checkpoints")
}
MAY_CHANGE = {  # when a run goes on
    *("epochs", "patience", "save_every", "validate_every", "accumulation_steps", "gradient_checkpointing")
}


class Validation(NamedTuple):
    """What a run is judged by.

    Attributes:
        records: detection records.
        images: folder that their file names are relative to.
        negatives: classes that an image is asked for besides its own, see `detect_all`; None: all of them.
    """

    records: data_prep.Dataset
    images: Path | str
    negatives: int | None = None


class Result(NamedTuple):
    """How a run ended.

    Attributes:
        weights: the file to use: the best by validation, or the last without it.
        best: {"ap", "ap50", "step", "epoch"} of the best validation; None without one.
        step: how many steps were made, earlier ones of a resumed run included.
    """

    weights: Path
    best: dict[str, Any] | None
    step: int


class Trainer:
    """Trains a model, on one process or, under `accelerate launch`, on many.

    The folder `out` holds: `best.safetensors` (by validation AP, the moving average where there is one, adapters merged)
    with `best.thresholds.json` beside it, `last.safetensors`, `log.jsonl`, `tensorboard/`, `checkpoints/`; with LoRA also
    `best-adapters/` and `last-adapters/`.

    Args:
        model: with the weights to begin with; it is changed.
        dataset: to learn from.
        settings: everything else.
        out: folder of the run; new, unless `resume` or `overwrite`.
        validation: to judge by after each epoch; None: no judgement, the last weights count.
        resume: go on from the last checkpoint in `out`, which must be of the same settings and data; `MAY_CHANGE` names
            the settings that may differ (other `epochs` move the learning rate's drops). Without a checkpoint yet, or a
            folder, the run begins.
        overwrite: remove an earlier run in `out`.
        workers: processes of the loader, see `build_loader`. Where processes are spawned (macOS, Windows), a script must
            call `fit` under `if __name__ == "__main__":`.
        device: "auto", or "cpu" to leave a GPU alone.
        progress: show a bar and a line an epoch.

    Raises:
        FileExistsError: `out` holds something, and neither `resume` nor `overwrite` was asked for.
        FileNotFoundError: an image to validate by that is missing.
        ValueError: settings that do not go together, too few images, nothing to validate by, other settings or data than
            those of the run to go on with, a way to distribute that is not made for this.
    """

    def __init__(
        self,
        model: GroundingDINO,
        dataset: SeededDataset,
        settings: TrainingSettings,
        out: Path | str,
        *,
        validation: Validation | None = None,
        resume: bool = False,
        overwrite: bool = False,
        workers: int | None = None,
        device: str = "auto",
        progress: bool = True,
    ) -> None:
        self.settings, self.validation = settings, validation
        self.out, self.config, s = Path(out), model.config, settings
        self.steps_per_epoch = len(dataset) // s.batch_size
        self.steps = s.epochs * self.steps_per_epoch
        if not self.steps_per_epoch:
            raise ValueError(f"batch_size: expected at most {len(dataset)}, the number of images, got {s.batch_size}")
        if device not in ("auto", "cpu"):
            raise ValueError(f"device: expected auto or cpu, got {device!r}; `accelerate launch` chooses among several")
        if resume and overwrite:
            raise ValueError("resume goes on with a run and overwrite removes it; ask for one of them")
        if s.patience and not validation:
            raise ValueError("patience: nothing tells whether anything gets better; give data to validate by")
        self.accelerator = _accelerator(device)
        processes = self.accelerator.num_processes
        if s.batch_size % (s.accumulation_steps * processes):
            raise ValueError(
                f"batch_size {s.batch_size} is not a multiple of accumulation_steps x processes, "
                f"{s.accumulation_steps} x {processes}"
            )
        self._identity = dataset.fingerprint
        if validation:
            _check_validation(validation)
        checkpoint = self._find(resume, overwrite)

        if s.lora_rank:
            torch.manual_seed(_number(s.seed, "adapters"))
            model = lora.add(model, s.lora_rank, s.lora_alpha)
        set_dropout(model, s.dropout)
        if s.gradient_checkpointing:
            checkpoint_activations(model)
        model.to(self.accelerator.device)
        groups = parameter_groups(model, s.lr, s.lr_scale)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=s.weight_decay)
        self.scaler = torch.amp.GradScaler(self.accelerator.device.type, enabled=s.precision == "float16")
        self.criterion = Criterion(s.loss)
        self.step, self.best, self.waited, self.judged = 0, None, 0, 0
        if checkpoint:
            model.load_state_dict(checkpoint.model)
        self.average = MovingAverage(model, s.ema) if s.ema else None
        if checkpoint:
            self._restore(checkpoint)
        self.model = self.accelerator.prepare_model(model)
        loader = build_loader(
            dataset, s.batch_size // s.accumulation_steps, shuffle=True, workers=workers, drop_last=True
        )
        self._order = loader.sampler
        self.loader = self.accelerator.prepare_data_loader(loader)
        self._progress = progress and self.accelerator.is_main_process
        self._signal: int | None = None
        self._judging = False
        self._make_folder(resume)

    @property
    def plain_model(self) -> GroundingDINO:
        """The model without what distributes it."""
        return self.accelerator.unwrap_model(self.model)

    def fit(self) -> Result:
        """Train until the last epoch, until nothing gets better, or until told to stop.

        SIGTERM and Ctrl-C save a checkpoint after the step under way and stop; a validation under way is broken off
        (on several processes: ended) and done again when the run goes on.

        Raises:
            KeyboardInterrupt, SystemExit(143): after Ctrl-C, SIGTERM; everything is saved.
            ValueError: predictions, losses or gradients that are not finite, with the images' names. Checkpoints stay.
            ImageError: an image that cannot be used.
            OSError: a full disk or the like; the last checkpoint stays.
        """
        s = self.settings
        log = None
        if self.accelerator.is_main_process:
            log = RunLog(self.out, self.step, self.judged, self.steps, self._progress)
        try:
            with self._stop_on_signals(), _repeatable(self.accelerator.device):
                self._judge(log)  # if the run was stopped before it was
                while self.step < self.steps and not (s.patience and self.waited >= s.patience):
                    self._epoch(log)
                    self._judge(log)
                    self._checkpoint()
                    if self._any(self._signal is not None):
                        self._stop()
                self._save_weights(LAST)
                if self._any(self._signal is not None):  # while they were written
                    self._stop()
        finally:
            if log:
                log.close()
        return Result(self.out / (BEST if self.best else LAST), self.best, self.step)

    def _epoch(self, log: RunLog | None) -> None:
        s, epoch = self.settings, self.step // self.steps_per_epoch
        end = (epoch + 1) * self.steps_per_epoch
        self._order.start = (self.step - epoch * self.steps_per_epoch) * s.batch_size
        self.loader.set_epoch(epoch)  # the data set's, too
        train_mode(self.model)
        waiting: list[Batch] = []
        before, losses = time.perf_counter(), []
        for batch in self.loader:
            waiting.append(batch)
            if len(waiting) < s.accumulation_steps:
                continue
            entry, stop = self._step(waiting, epoch)
            waiting, now = [], time.perf_counter()
            entry["images_per_second"], before = s.batch_size / (now - before), now
            losses.append(entry["loss"])
            if log:
                log.step(entry)
            if stop or (self.step < end and self.step % s.save_every == 0):
                self._checkpoint()
            if stop:
                self._stop()
        if log:
            part = "" if len(losses) == self.steps_per_epoch else f" (of the {len(losses)} steps since it was resumed)"
            log.say(f"epoch {epoch + 1}/{s.epochs}: loss {sum(losses) / len(losses):.3f}{part}")

    def _judge(self, log: RunLog | None) -> None:
        """Validate, where an epoch has ended that is to be judged and was not."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        due = epoch % self.settings.validate_every == 0 or epoch == self.settings.epochs
        if not self.validation or rest or not due or self.judged == self.step:
            return
        try:
            text = self._validate(epoch, log)
        except _Stopped:
            self._checkpoint()
            self._stop()
        if log:
            log.say(text)

    def _step(self, batches: Sequence[Batch], epoch: int) -> tuple[dict[str, Any], bool]:
        """One update of the weights. Returns the log's entry, and whether any process was told to stop."""
        s, accelerator = self.settings, self.accelerator
        factor = schedule_factor(s, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        torch.manual_seed(_number(s.seed, self.step, accelerator.process_index))  # dropout, drop path
        boxes = sum(len(target.boxes) for batch in batches for target in batch.targets)
        boxes = accelerator.reduce(torch.tensor(float(boxes), device=accelerator.device), "sum").item()
        normaliser = max(boxes, 1) / accelerator.num_processes  # gradients are averaged over processes

        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else accelerator.no_sync(self.model):
                losses = self._losses(batch, epoch, normaliser)
                self.scaler.scale(losses["total"]).backward()
            sums = {name: value.detach() + sums.get(name, 0) for name, value in losses.items()}
        values = accelerator.reduce(torch.stack(list(sums.values())), "mean").tolist()
        parts = dict(zip(sums, values, strict=True))

        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, s.clip or torch.inf).item()
        total = parts.pop("total")
        if not torch.tensor([total, norm if s.precision != "float16" else 0.0]).isfinite().all():
            names = ", ".join(target.name for batch in batches for target in batch.targets)
            raise ValueError(
                f"step {self.step + 1}: the loss is {total:.4g}, the norm of its gradients {norm:.4g}; nothing was "
                f"changed, the last checkpoint stands; try a lower learning rate or float32; images: {names}"
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
        return entry | {"gradient_norm": finite}, self._any(self._signal is not None)

    def _losses(self, batch: Batch, epoch: int, normaliser: float) -> dict[str, Tensor]:
        s, noise = self.settings, None
        if s.denoising:
            noise = partial(
                denoising.noise_queries,
                targets=batch.targets,
                seeds=[_number(s.seed, epoch, target.name) for target in batch.targets],
                queries=s.denoising,
                box_noise=s.box_noise,
                label_noise=s.label_noise,
            )
        with self._autocast():
            out = self.model(batch.pixel_values, batch.prompts, batch.pixel_mask, denoising=noise)
        losses = self.criterion(out, batch.targets, normaliser)
        if not (s.loss.layers and s.loss.proposals):
            losses["total"] = losses["total"] + _nothing(out)
        return losses

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.settings.precision]
        return torch.autocast(self.accelerator.device.type, dtype, enabled=dtype != torch.float32)

    def _validate(self, epoch: int, log: RunLog | None) -> str:
        """Measure; keep the weights if none were better so far. Returns words for the log."""
        with self.average.applied() if self.average else nullcontext():
            # what follows the measuring is not broken off; on several processes the others would wait for one that stopped
            self._judging = self.accelerator.num_processes == 1
            try:
                precision, thresholds = self._measure()
            finally:
                self._judging = False
            entry = {"step": self.step, "epoch": epoch, "ap": precision.ap, "ap50": precision.ap50}
            self.judged = self.step
            self.waited += 1
            better = self.best is None or precision.ap > self.best["ap"]
            if better:
                self.waited = 0
            if better or precision.ap == self.best["ap"]:  # of equals the one that has learned longer: all may be 0
                self.best = entry
                self._save_weights(BEST, averaged=True)
                if self.accelerator.is_main_process:
                    thresholds.save(thresholds_path(self.out / BEST))
        if log:
            log.validation(entry | {"classes": {c.name: c.ap for c in precision.classes}})
        words = ", the best so far" if better and precision.ap > 0 else ""
        return f"  AP {precision.ap:.3f}, AP50 {precision.ap50:.3f}{words}"

    def _measure(self) -> tuple[AveragePrecision, Thresholds]:
        """AP of the model as it is; each process detects in its share of the images."""
        records, images, negatives = self.validation
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = replace(records, images=records.images[process::processes])
        detector = Detector(self.plain_model, self.settings.precision)
        found = detect_all(
            detector, share, images, phrases=class_names(records), negatives=negatives, progress=self._progress
        )
        found = {name: boxes for part in gather_object([found]) for name, boxes in part.items()}
        return average_precision(records, found), choose_thresholds(match_all(records, found))

    def _checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            training = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
            if self.average:
                training["average"] = self.average.state_dict()
            state = {
                "step": self.step,
                "epoch": self.step / self.steps_per_epoch,
                "best": self.best,
                "waited": self.waited,
                "judged": self.judged,
                "settings": self.settings.to_dict(),
                "config": self.config.to_dict(),
                "data": self._identity,
                "validation": _fingerprint(self.validation),
                "processes": self.accelerator.num_processes,
                "versions": checkpoints.versions(),
            }
            checkpoints.write(self.out, self.step, self.plain_model.state_dict(), training, state)
        self.accelerator.wait_for_everyone()

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        self.optimizer.load_state_dict(checkpoint.training["optimizer"])
        self.scaler.load_state_dict(checkpoint.training["scaler"])
        if self.average:
            self.average.load_state_dict(checkpoint.training["average"])
        names = ("step", "best", "waited", "judged")
        self.step, self.best, self.waited, self.judged = (checkpoint.state[name] for name in names)

    def _save_weights(self, name: str, averaged: bool = False) -> None:
        """Write the weights for use: a plain model's, the moving average where there is one."""
        if not self.accelerator.is_main_process:
            return
        with self.average.applied() if self.average and not averaged else nullcontext():
            model = self.plain_model
            if self.settings.lora_rank:
                lora.save(model, self.out / name.replace(".safetensors", "-adapters"), overwrite=True)
                model = lora.merge(copy.deepcopy(model))
            about = {"step": self.step, "best": self.best, "versions": checkpoints.versions()}
            loading.save(model, self.out / name, about={"training": json.dumps(about)})

    def _find(self, resume: bool, overwrite: bool) -> checkpoints.Checkpoint | None:
        """The checkpoint to go on with; refuses a folder that this run must not touch, and changes nothing."""
        out = self.out
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"{out} is a file; expected a folder for the run")
        held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        others = [name for name in held if not _is_ours(name)]
        if held and not (resume or overwrite):
            raise FileExistsError(
                f"{out} is not empty; choose another folder, or ask for resume, to go on with the run in it, or overwrite "
                "(on the command line --resume, --overwrite)"
            )
        if others and (overwrite or len(others) == len(held)):
            raise FileExistsError(f"{out} holds {others[0]!r}, which no run wrote; choose another folder")
        found = checkpoints.steps(out) if resume else []
        if not found:
            if resume and LAST in held:  # a run begun anew would take the place of its weights
                raise FileExistsError(
                    f"{out} has a run that is over, without checkpoints to go on from; choose another folder"
                )
            return None
        try:
            checkpoint = checkpoints.read(found[-1])
        except (ValueError, FileNotFoundError) as error:
            before = f"; remove {found[-1]} to go on from {found[-2].name}" if len(found) > 1 else ""
            raise ValueError(f"{error}{before}") from None
        self._check_same(checkpoint)
        if checkpoint.state["step"] > self.steps:
            raise ValueError(
                f"{out}: its run has made {checkpoint.state['step']} steps, and {self.settings.epochs} epochs are "
                f"{self.steps}; resume with more epochs"
            )
        return checkpoint

    def _make_folder(self, resume: bool) -> None:
        """Make the run's folder, without an earlier run unless that goes on, and without what a killed one left half-written."""
        self.accelerator.wait_for_everyone()  # all have looked
        if self.accelerator.is_main_process:
            self.out.mkdir(parents=True, exist_ok=True)
            for path in self.out.iterdir():
                if _is_ours(path.name) and (not resume or path.name not in WRITTEN):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.accelerator.wait_for_everyone()

    def _check_same(self, checkpoint: checkpoints.Checkpoint) -> None:
        state, now = checkpoint.state, json.loads(json.dumps(self.settings.to_dict()))
        for name, value in now.items():
            then = state["settings"].get(name)
            if name not in MAY_CHANGE and then != value:
                raise ValueError(f"{self.out}: its run has {name} = {then}, not {value}; resume with the same settings")
        if state["config"] != json.loads(json.dumps(self.config.to_dict())):
            raise ValueError(f"{self.out}: its run trains a model of another configuration")
        for name, now in (("data", self._identity), ("validation", _fingerprint(self.validation))):
            if state[name] != now:
                kind = "training data" if name == "data" else "validation data"
                raise ValueError(f"{self.out}: its run has other {kind}; resume with the same")
        if state["processes"] != self.accelerator.num_processes:
            text = f"{state['processes']} processes, not {self.accelerator.num_processes}"
            warnings.warn(f"the run was begun on {text}: it goes on, though not bit for bit", stacklevel=4)

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Let the step under way end first; a second signal does not wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        self._signal = None  # of an earlier call

        def note(number: int, _: Any) -> None:
            self._signal = number
            for each, handler in previous.items():
                signal.signal(each, handler)
            if self._judging:
                raise _Stopped
            if self._progress:
                print("stopping after this step ...", file=sys.stderr)

        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in previous:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        text = f"stopped after step {self.step} of {self.steps}; everything is saved, --resume goes on"
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt(text)
        if self._progress:
            print(text, file=sys.stderr)
        raise SystemExit(143)

    def _any(self, flag: bool) -> bool:
        told = torch.tensor([float(flag)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, "sum").item())


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU, let sums of gradients not depend on which thread comes first."""
    if device.type != "cpu":
        yield
        return
    mode, fills = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a check of torch's own that costs time
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fills


class _Stopped(BaseException):
    """A signal came while nothing needs to be finished."""


def _accelerator(device: str) -> Accelerator:
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",  # the settings say, whatever accelerate's own configuration says
        dataloader_config=DataLoaderConfiguration(split_batches=True),  # batch_size counts all processes' images
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],  # one process may validate for long
    )
    kind = str(accelerator.distributed_type.value)
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ValueError(f"expected one process a device, as accelerate's MULTI_GPU, got {kind}")
    wanted = device if device == "cpu" else loading.choose_device("auto").type
    if accelerator.device.type != wanted:  # accelerate keeps the choice of the first run in a process
        raise ValueError(
            f"device: an earlier run in this process chose {accelerator.device.type}; restart Python for {wanted}"
        )
    return accelerator


def _is_ours(name: str) -> bool:
    """Whether a run wrote this, or was killed while it wrote it."""
    return name in WRITTEN or any(name.startswith(f".{written}.") for written in WRITTEN)


def _nothing(out: GroundingDINOOutput) -> Tensor:
    """0, which depends on every stage: several processes wait for a gradient of every parameter."""
    stages = [*out.layers, *([out.proposals] if out.proposals else [])]
    return sum(0 * (stage.boxes.sum() + stage.logits.masked_fill(stage.logits.isneginf(), 0).sum()) for stage in stages)


def _fingerprint(validation: Validation | None) -> str | None:
    return validation and hashlib.sha256(repr((validation.records, validation.negatives)).encode()).hexdigest()


def _check_validation(validation: Validation) -> None:
    """Say now, not after an epoch, what would stop the first validation."""
    records = detection_records(validation.records)
    if not any(single_objects(record) for record in records):
        raise ValueError(f"validation: none of {len(records)} records with classes has a box to measure precision by")
    check_distinct(class_names(validation.records))
    check_files(records, Path(validation.images))


def _number(*parts: Any) -> int:
    """A seed made of its parts, the same on every machine."""
    return random.Random("/".join(map(str, parts))).getrandbits(63)
