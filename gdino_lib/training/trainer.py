"""The training loop, which the authors of Grounding DINO did not release.

A run depends on its settings, data and first weights alone. Everything random in a step is drawn from the seed and the step's
number, so a run that was killed at any moment continues from its last checkpoint as if nothing had happened: bit for bit on a
CPU; on a GPU up to rounding, because a GPU adds numbers in varying order.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from gdino_lib.data.datasets import GroundingDataset, SeededDataset
from gdino_lib.data.joined import JoinedDataset
from gdino_lib.data.loader import Batch
from gdino_lib.data.records import crowded_images
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.dtypes import DTYPES
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.evaluation.coco import AveragePrecision
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.training import checkpoints, denoising, lora, run_folder
from gdino_lib.training.callbacks import Callback
from gdino_lib.training.log import RunLog
from gdino_lib.training.loop import TrainingLoop, derived_seed
from gdino_lib.training.losses import Criterion, zero_loss
from gdino_lib.training.optimization import checkpoint_activations, set_dropout, train_mode
from gdino_lib.training.processes import any_process, build_accelerator, repeatable_sums
from gdino_lib.training.run_folder import BEST, LAST
from gdino_lib.training.settings import TrainingSettings
from gdino_lib.training.stop import InterruptedValidation, StopRequest
from gdino_lib.training.validation import Validation, measure
from gdino_lib.weights import loading


class Result(NamedTuple):
    """How a run ended.

    Attributes:
        weights: the file to use: the best weights by validation, or the last ones if there was no validation.
        best: {"ap", "ap50", "step", "epoch"} of the best validation; None without validation.
        step: number of steps that were made, including those before the run was resumed.
    """

    weights: Path
    best: dict[str, Any] | None
    step: int


class Trainer:
    """Trains a model, on one process or, under `accelerate launch`, on many.

    The folder `out` holds `best.safetensors` (the weights with the best validation AP: the moving average if there is one,
    with adapters merged) with `best.thresholds.json` beside it, `last.safetensors`, `log.jsonl`, `tensorboard/` and
    `checkpoints/`; with LoRA also `best-adapters/` and `last-adapters/`.

    Args:
        model: the model with its first weights; it is changed.
        dataset: the data set to learn from.
        settings: all other numbers and choices.
        out: folder of the run; it must be new or empty, unless `resume` or `overwrite` is set.
        validation: the data to validate on after each epoch; None: no validation, and the last weights count.
        resume: go on from the last checkpoint in `out`, which must be of the same settings and data; `run_folder.MAY_CHANGE`
            names the settings that may differ (other `epochs` move the learning rate's drops). If there is no folder or no
            checkpoint yet, the run begins.
        overwrite: remove an earlier run in `out`.
        workers: processes of the loader, see `build_loader`. On systems that spawn processes (macOS, Windows), a script must
            call `fit` under `if __name__ == "__main__":`.
        device: "auto", or "cpu" to leave a GPU alone.
        progress: show a progress bar, and a line after each epoch.
        callbacks: called after each epoch, in this order.

    Raises:
        FileExistsError: `out` holds files, and neither `resume` nor `overwrite` was asked for; or files that no run wrote.
        BlockingIOError: another run uses `out`.
        FileNotFoundError: an image for validation is missing.
        ValueError: settings that do not go together, too few images, no box to validate on, other settings or data than
            those of the run to resume, or an unsupported way to distribute the work.

    Warns:
        UserWarning: images with more boxes than the model has queries.
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
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.settings, self.validation, self._callbacks = settings, validation, tuple(callbacks)
        self.out, self.config = Path(out), model.config
        _check_request(len(dataset), settings, validation, resume, overwrite)
        self.accelerator = build_accelerator(device)
        _check_division(settings, self.accelerator.num_processes)
        _warn_of_crowded_images(dataset, model.config.queries)
        if validation:
            validation.check()
        self._run = {  # what identifies the run: each checkpoint holds it, and a run that resumes must have the same
            "settings": settings.to_dict(),
            "config": self.config.to_dict(),
            "data": dataset.fingerprint,
            "validation": validation and validation.fingerprint,
            "pictures": {"training": dataset.pictures_digest, "validation": validation and validation.pictures_digest},
            "processes": self.accelerator.num_processes,
        }
        self._resume, self._overwrite = resume, overwrite
        with self._claimed() if self.out.is_dir() else nullcontext():
            self._begins_at = run_folder.last_checkpoint(self.out, resume, overwrite)
            saved = run_folder.read_checkpoint(self._begins_at) if self._begins_at else None
        if saved:
            steps = settings.epochs * (len(dataset) // settings.batch_size)
            run_folder.check_same_run(saved, self._run, steps)

        self.plain_model = _prepare_model(model, settings).to(self.accelerator.device)
        process = self.accelerator.process_index
        self.loop = TrainingLoop(
            self.plain_model,
            dataset,
            settings,
            self.accelerator,
            self._losses,
            lambda step: derived_seed(settings.seed, step, process),
            workers,
        )
        self.criterion = Criterion(settings.loss)
        self.best: dict[str, Any] | None = None
        self.waited, self.judged = 0, 0  # validations since the best one; the step of the last one
        if saved:
            self.loop.restore(saved)
            self.best, self.waited, self.judged = (saved.state[name] for name in ("best", "waited", "judged"))
        self._progress = progress and self.accelerator.is_main_process
        self._stop = StopRequest(self._progress)
        self._prepared = False

    @property
    def step(self) -> int:
        """Number of steps that were made, including those before the run was resumed."""
        return self.loop.step

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.loop.steps

    def fit(self) -> Result:
        """Train until the last epoch, until `patience` runs out, or until a signal asks to stop.

        On SIGTERM or Ctrl-C, the trainer finishes the current step, saves a checkpoint and stops. A validation is broken off
        (with several processes, it is finished), and repeated when the run is resumed.

        Raises:
            KeyboardInterrupt, SystemExit(143): after Ctrl-C, SIGTERM; everything is saved.
            ValueError: predictions, losses or gradients that are not finite, with the images' names. Checkpoints stay.
            ImageError: an image cannot be used.
            BlockingIOError, FileExistsError: another run uses the folder, or has used it since this trainer was made.
            OSError: the disk is full, or the folder cannot be written; the last checkpoint stays.
        """
        with self._claimed():
            self._prepare_folder()
            log = None
            if self.accelerator.is_main_process:
                log = RunLog(self.out, self.step, self.judged, self.steps, self._progress)
            try:
                with self._stop.listening(), repeatable_sums(self.accelerator.device):
                    self._train(log)
            finally:
                if log:
                    log.close()
        return Result(self.out / (BEST if self.best else LAST), self.best, self.step)

    def _train(self, log: RunLog | None) -> None:
        s = self.settings
        if self.step:  # the run may have been stopped before the end of its last epoch's measurements
            self._end_epoch(log)
        while self.step < self.steps and not (s.patience and self.waited >= s.patience):
            self._epoch(log)
            self._end_epoch(log)
            self._checkpoint()
            if self._told_to_stop():
                self._end()
        self._save_weights(LAST)
        if self._told_to_stop():  # while the weights were written
            self._end()

    def _epoch(self, log: RunLog | None) -> None:
        s, per_epoch = self.settings, self.loop.steps_per_epoch
        epoch = self.step // per_epoch
        train_mode(self.loop.model)
        losses = []
        for entry in self.loop.epoch():
            losses.append(entry["loss"])
            stop = self._told_to_stop()
            if log:
                log.step(entry)
            if stop or (self.step % per_epoch and self.step % s.save_every == 0):
                self._checkpoint()
            if stop:
                self._end()
        if log:
            part = "" if len(losses) == per_epoch else f" (of the {len(losses)} steps since it was resumed)"
            log.say(f"epoch {epoch + 1}/{s.epochs}: loss {sum(losses) / len(losses):.3f}{part}")

    def _losses(self, batch: Batch, epoch: int, normaliser: float) -> dict[str, Tensor]:
        s, noise = self.settings, None
        if s.denoising:
            noise = partial(
                denoising.noise_queries,
                targets=batch.targets,
                seeds=[derived_seed(s.seed, epoch, target.name) for target in batch.targets],
                queries=s.denoising,
                box_noise=s.box_noise,
                label_noise=s.label_noise,
            )
        dtype = DTYPES[s.precision]
        with torch.autocast(self.accelerator.device.type, dtype, enabled=dtype != torch.float32):
            out = self.loop.model(batch.pixel_values, batch.prompts, batch.pixel_mask, denoising=noise)
        losses = self.criterion(out, batch.targets, normaliser)
        if not (s.loss.layers and s.loss.proposals):
            losses["total"] = losses["total"] + zero_loss(out)
        return losses

    def _end_epoch(self, log: RunLog | None) -> None:
        """Validate and call the callbacks, unless the run is in the middle of an epoch."""
        epoch, rest = divmod(self.step, self.loop.steps_per_epoch)
        if rest:
            return
        self._validate_when_due(log)
        if self._callbacks and self.accelerator.is_main_process:
            average = self.loop.average
            with average.applied() if average else nullcontext():
                for callback in self._callbacks:
                    callback.on_epoch_end(epoch, self._detector())

    def _validate_when_due(self, log: RunLog | None) -> None:
        """Validate after an epoch that `validate_every` selects, unless that was done already."""
        epoch = self.step // self.loop.steps_per_epoch
        due = epoch % self.settings.validate_every == 0 or epoch == self.settings.epochs
        if not self.validation or not due or self.judged == self.step:
            return
        try:
            text = self._validate(epoch, log)
        except InterruptedValidation:
            self._checkpoint()
            self._end()
        if log:
            log.say(text)

    def _validate(self, epoch: int, log: RunLog | None) -> str:
        """Measure the model, and save its weights if none were better so far. Returns a line for the terminal."""
        average = self.loop.average
        with average.applied() if average else nullcontext():
            # only measuring may be broken off, and only on one process: others would wait for the one that stopped
            with self._stop.immediate(self.accelerator.num_processes == 1):
                precision, thresholds = self._measure()
            entry = {"step": self.step, "epoch": epoch, "ap": precision.ap, "ap50": precision.ap50}
            self.judged = self.step
            self.waited += 1
            better = self.best is None or precision.ap > self.best["ap"]
            if better:
                self.waited = 0
            # of equal results the later one is kept, because the AP of all early ones may be 0
            if self.best is None or precision.ap >= self.best["ap"]:
                self.best = entry
                beside = thresholds_path(self.out / BEST)
                if self.accelerator.is_main_process:
                    beside.unlink(missing_ok=True)  # a run killed here must not leave thresholds of other weights
                self._save_weights(BEST, averaged=True)
                if self.accelerator.is_main_process:
                    thresholds.save(beside)
        if log:
            log.validation(entry | {"classes": {c.name: c.ap for c in precision.classes}})
        words = ", the best so far" if better and precision.ap > 0 else ""
        return f"  AP {precision.ap:.3f}, AP50 {precision.ap50:.3f}{words}"

    def _measure(self) -> tuple[AveragePrecision, Thresholds]:
        """(AP of the model with its present weights, its thresholds)."""
        assert self.validation is not None  # no validation is due without it
        return measure(self._detector(), self.validation, self.accelerator, self._progress)

    def _detector(self) -> Detector:
        return Detector(self.plain_model, self.settings.precision)

    def _checkpoint(self) -> None:
        progress = {"best": self.best, "waited": self.waited, "judged": self.judged}
        self.loop.save(self.out, self._run | progress)

    def _save_weights(self, name: str, averaged: bool = False) -> None:
        """Write weights for use: those of the moving average if there is one, with adapters merged."""
        if not self.accelerator.is_main_process:
            return
        average = self.loop.average
        with average.applied() if average and not averaged else nullcontext():
            model = self.plain_model
            if self.settings.lora_rank:
                lora.save(model, self.out / name.replace(".safetensors", "-adapters"), overwrite=True)
                model = lora.merge(copy.deepcopy(model))
            about = {"step": self.step, "best": self.best, "versions": checkpoints.versions()}
            loading.save(model, self.out / name, about={"training": json.dumps(about)})

    def _claimed(self) -> AbstractContextManager[None]:
        """Keep other runs out of the folder; the main process does so for all processes."""
        return run_folder.claimed(self.out) if self.accelerator.is_main_process else nullcontext()

    def _prepare_folder(self) -> None:
        """Remove an earlier run from the folder. Later calls of `fit` go on with the run and remove nothing."""
        self.accelerator.wait_for_everyone()  # every process has read the folder before it changes
        if self.accelerator.is_main_process and not self._prepared:
            if run_folder.last_checkpoint(self.out, self._resume, self._overwrite) != self._begins_at:
                raise FileExistsError(f"{self.out}: another run has changed the folder meanwhile; start again")
            run_folder.prepare(self.out, self._resume)
        self._prepared = True
        self.accelerator.wait_for_everyone()

    def _told_to_stop(self) -> bool:
        """Whether any process was told to stop."""
        return any_process(self.accelerator, self._stop.requested)

    def _end(self) -> NoReturn:
        self._stop.end(
            f"stopped after step {self.step} of {self.steps}; everything is saved, --resume continues the run"
        )


def _check_request(
    images: int, settings: TrainingSettings, validation: Validation | None, resume: bool, overwrite: bool
) -> None:
    """Refuse arguments that do not go together."""
    if images < settings.batch_size:
        raise ValueError(f"batch_size: expected at most {images}, the number of images, got {settings.batch_size}")
    if resume and overwrite:
        raise ValueError("resume goes on with a run and overwrite removes it; ask for one of them")
    if settings.patience and not validation:
        raise ValueError(
            "patience: needs validation, which tells whether the model gets better; give data to validate on"
        )


def _check_division(settings: TrainingSettings, processes: int) -> None:
    """Refuse a batch that cannot be divided among passes and processes."""
    if settings.batch_size % (settings.accumulation_steps * processes):
        raise ValueError(
            f"batch_size {settings.batch_size} is not a multiple of accumulation_steps x processes, "
            f"{settings.accumulation_steps} x {processes}"
        )


def _warn_of_crowded_images(dataset: SeededDataset, queries: int) -> None:
    """Warn of images with more boxes than queries; a data set that draws its pictures has no records to check."""
    for part in dataset.parts if isinstance(dataset, JoinedDataset) else [dataset]:
        if isinstance(part, GroundingDataset) and (text := crowded_images(part.records, queries)):
            warnings.warn(text, stacklevel=3)


def _prepare_model(model: GroundingDINO, settings: TrainingSettings) -> GroundingDINO:
    """The model with the adapters, dropout and gradient checkpointing of the settings; `model` is changed."""
    if settings.lora_rank:
        torch.manual_seed(derived_seed(settings.seed, "adapters"))
        model = lora.add(model, settings.lora_rank, settings.lora_alpha)
    set_dropout(model, settings.dropout)
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    return model
