"""`gdino check`: what would go wrong in training, said in words before it does.

Four examinations, each of which needs the one before it: the data; a batch of four images, drawn as the model sees it; the
gradients of one step, part by part; and whether the model can learn those four images by heart. A model that cannot, with
data that are in order, will not learn anything else either.
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.ops import box_convert, box_iou
from tqdm import tqdm

import data_prep
from data_prep import ImageRecord
from data_prep.atomic import atomic_file, atomic_folder
from data_prep.audit import KINDS, audit, list_images
from gdino_lib.data.datasets import (
    FRAME,
    Batch,
    EpochOrder,
    GroundingDataset,
    ImageError,
    class_names,
    collate,
    open_image,
    targets,
)
from gdino_lib.data.transforms import TrainingTransform, Transform
from gdino_lib.detect.postprocess import label_boxes
from gdino_lib.images import resized_size
from gdino_lib.model.grounding_dino import GroundingDINO, GroundingDINOOutput
from gdino_lib.prompts import tokenize, word_pieces
from gdino_lib.training import denoising
from gdino_lib.training.losses import Criterion
from gdino_lib.training.pictures import draw_curves, draw_sample

Level = Literal["ok", "warning", "problem"]
About = Literal["data", "batch", "gradients", "overfitting"]

REPORT = "check.json"
IMAGES = 4  # of the batch
BOXES = 10  # images with at most so many are preferred: crowds take longer to learn
NAMED = 5  # of several faults of a kind, so many are named one by one
SMALLEST = 4  # pixels: half a token of the finest level
NOISED = 20  # denoising queries an image, as many positive as negative ones: fewer than training has, to be quick
NEARLY = 0.9  # of the tokens that a prompt holds
CLIP = 0.1  # largest norm of a step's gradients
GOAL = 0.05  # the last loss should be below this share of the first
HALF, SETTLED = 0.5, 100  # or, of a trained model: below this share, and all boxes found in so many steps on end
FLAT = 0.9  # a loss that stays above this share of the first has not moved
ENOUGH = 300  # steps: a nano needs about 190, a smaller model half as many; fewer prove nothing
IOU = 0.5  # overlap from which a box is found
THRESHOLDS = (0.35, 0.25)  # for a box's best token and its phrase: the Detector's


@dataclass(frozen=True)
class Finding:
    """What was found, in one line.

    Attributes:
        level: "ok"; "warning", which training survives; "problem".
        about: which examination found it.
        text: what, where, and what to do about it.
    """

    level: Level
    about: About
    text: str


@dataclass(frozen=True)
class PartGradient:
    """What one step brings to a part of the model.

    Attributes:
        part: beginning of its parameters' names.
        parameters: how many numbers it has; trained: those of them that are not frozen.
        norm: of the gradient; None where nothing arrives, or what arrives is not finite.
    """

    part: str
    parameters: int
    trained: int
    norm: float | None


@dataclass(frozen=True)
class Overfitting:
    """How well the batch was learned by heart.

    Attributes:
        losses, recalls: of each step, before its change of the weights.
        seconds: that it took.
        missing: the boxes that were not found in the end, a line each.
    """

    losses: tuple[float, ...]
    recalls: tuple[float, ...]
    seconds: float
    missing: tuple[str, ...]


@dataclass
class Report:
    """What `check` found.

    Attributes:
        findings: in the order of the examinations.
        classes: {name: boxes}.
        prompts: (image, its phrases) of the batch.
        parts: of the model; empty if there was no step.
        overfitting: None if it was not tried.
    """

    findings: list[Finding] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    prompts: list[tuple[str, list[str]]] = field(default_factory=list)
    parts: tuple[PartGradient, ...] = ()
    overfitting: Overfitting | None = None

    @property
    def problems(self) -> list[Finding]:
        """The findings that training does not survive."""
        return [finding for finding in self.findings if finding.level == "problem"]

    @property
    def is_healthy(self) -> bool:
        """True without problems; warnings do not count."""
        return not self.problems

    def add(self, level: Level, about: About, text: str) -> None:
        """Note a finding; line breaks in it become spaces."""
        self.findings.append(Finding(level, about, " ".join(text.split())))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON's values."""
        overfitting = None if self.overfitting is None else asdict(self.overfitting)
        if overfitting:
            overfitting["losses"] = [loss if math.isfinite(loss) else None for loss in overfitting["losses"]]
        return {
            "healthy": self.is_healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "classes": self.classes,
            "prompts": [{"image": name, "phrases": phrases} for name, phrases in self.prompts],
            "parts": [asdict(part) for part in self.parts],
            "overfitting": overfitting,
        }

    def print(self, console: Console) -> None:
        """Print the findings, a line each, and a table of the parts."""
        colours = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        about = None
        for finding in self.findings:
            if finding.about != about:
                about = finding.about
                console.print(f"[bold]{about}[/bold]")
            mark = f"[{colours[finding.level]}]{finding.level:8}[/]"
            console.print(f"  {mark} {escape(finding.text)}", soft_wrap=True, highlight=False)
        if self.parts:
            table = Table("part", "parameters", "trained", "gradient", title="Gradients", title_justify="left")
            for part in self.parts:
                norm = "-" if part.norm is None else f"{part.norm:.1e}"
                table.add_row(part.part, f"{part.parameters:,}", f"{part.trained:,}", norm)
            console.print(table)
        count = len(self.problems)
        verdict = "[green]healthy[/]" if not count else f"[bold red]{count} problem{'s' if count > 1 else ''}[/]"
        warned = sum(finding.level == "warning" for finding in self.findings)
        console.print(verdict + (f", {warned} warning{'s' if warned > 1 else ''}" if warned else ""), highlight=False)


def check(
    model: GroundingDINO,
    records: data_prep.Dataset,
    images: Path | str,
    out: Path | str,
    *,
    transform: Transform | None = None,
    frozen: Sequence[str] = (),
    overfit: bool = True,
    lr: float = 2e-4,
    seconds: float = 120.0,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Examine a model and its training data.

    The model is copied first and stays as it is, on the device where it is.

    Args:
        records: the training data, as read from CSV, COCO or ODVG.
        images: folder that the file names are relative to.
        out: folder for `check.json`, `batch-1.png` ... `batch-4.png` and `overfitting.png`.
        transform: what training does to an image; None: `TrainingTransform` of the model's size.
        frozen: beginnings of names of parameters that are not to be trained, as "text_encoder.bert". Others that do not
            require a gradient are a problem.
        overfit: learn the batch by heart; False leaves that out.
        lr: learning rate of AdamW for this, constant for half of the time, then falling to 0.
        seconds: that this may take.
        seed: of the choice of images, of augmentation and noise.
        overwrite: replace an earlier report in `out`.

    Returns:
        What was found, faults of the data and of single images included.

    Raises:
        FileNotFoundError: `images` is not a folder.
        FileExistsError: `out` holds something, or with `overwrite` something else than a report.
        ValueError: `frozen` names no part, `lr` or `seconds` is not above 0.
        OSError: `out` is not writable.
    """
    for name, value in (("lr", lr), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
    _check_replaceable(Path(out))
    patient = copy.deepcopy(model).eval()  # no dropout, no dropped paths: each step sees the same network
    patient.zero_grad()
    _freeze(patient, frozen)
    report = Report()
    with atomic_folder(out, overwrite) as folder:
        usable = _examine_data(report, records, images, model, progress)
        transform = transform or TrainingTransform(model.config.short_side, model.config.long_side)
        dataset = _build_dataset(report, usable, images, transform, seed, model.config.max_tokens)
        batch = None if dataset is None else _examine_batch(report, dataset, folder)
        if batch is None:
            report.add("warning", "batch", "no gradients and no overfitting were checked: mend the data first")
        elif _examine_gradients(report, patient, batch, frozen, lr, seed) and overfit:
            _examine_overfitting(report, patient, batch, lr, seconds, seed, progress)
            if report.overfitting:
                draw_curves(folder / "overfitting.png", report.overfitting.losses, report.overfitting.recalls, GOAL)
        with atomic_file(folder / REPORT) as file:
            json.dump(report.to_json(), file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")
    return report


def _check_replaceable(out: Path) -> None:
    """A folder is replaced whole: one with other things in it is somebody's."""
    if out.is_dir():
        own = {REPORT, "overfitting.png", *(f"batch-{number}.png" for number in range(1, IMAGES + 1))}
        others = {path.name for path in out.iterdir()} - own
        if others:
            raise FileExistsError(f"{out} holds more than a report ({min(others)}); choose another folder")


def _freeze(model: nn.Module, parts: Sequence[str]) -> None:
    for part in parts:
        own = [p for name, p in model.named_parameters() if name == part or name.startswith(f"{part}.")]
        if not own:
            names = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"frozen: no parameter's name begins with {part!r}; the model's parts are {names}")
        for parameter in own:
            parameter.requires_grad_(False)


# the data


def _examine_data(
    report: Report, records: data_prep.Dataset, images: Path | str, model: GroundingDINO, progress: bool
) -> data_prep.Dataset:
    """Note what is wrong; return the records whose images can be used, with boxes as they are."""
    config = model.config
    repaired, audited = audit(records)
    report.classes = repaired.class_counts
    boxes = sum(report.classes.values())
    report.add("ok", "data", f"{len(records.images)} images, {boxes} boxes: {_some(report.classes)}")

    usable = _examine_images(report, records, images, progress)
    for kind, count in audited.counts().items():
        if count:
            first = next(finding for finding in audited.findings if finding.kind == kind)
            where = f"{first.file}, object {first.object}: {first.detail} ({first.action})"
            report.add("warning", "data", f"{kind} ({count}): {KINDS[kind]}; the first is {where}")
    _examine_boxes(report, records, repaired, config.short_side, config.long_side)
    _examine_words(report, repaired, config.max_tokens)
    return usable


def _examine_images(
    report: Report, records: data_prep.Dataset, images: Path | str, progress: bool
) -> data_prep.Dataset:
    """Open every image as training would."""
    present = set(list_images(images))
    unnamed = present - {record.file_name for record in records.images}
    if unnamed:
        report.add("warning", "data", f"{len(unnamed)} images have no record and are not used: {_first(unnamed)}")

    def fault(record: ImageRecord) -> str | None:
        try:
            open_image(record, images)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter's lock while it decodes
        results = pool.map(fault, records.images)
        bar = tqdm(results, "opening images", len(records.images), unit="image", delay=1, disable=_hidden(progress))
        faults = list(bar)
    texts = list(dict.fromkeys(text for text in faults if text))
    for text in texts[:NAMED]:
        report.add("problem", "data", text)
    if len(texts) > NAMED:
        report.add("problem", "data", f"{len(texts) - NAMED} more images cannot be used")
    usable = [record for record, text in zip(records.images, faults, strict=True) if text is None]
    return replace(records, images=tuple(usable))


def _examine_boxes(
    report: Report, records: data_prep.Dataset, repaired: data_prep.Dataset, short_side: int, long_side: int
) -> None:
    without = [record.file_name for record in repaired.images if not record.boxes]
    if without:
        names = f"{len(without)} of {len(repaired.images)} images have no boxes ({_first(without)})"
        report.add("warning", "data", f"{names}: right only if they show none of the classes")
    coordinates = [value for record in records.images for box in record.boxes for value in box.xyxy]
    if coordinates and max(coordinates) <= 1:
        report.add("problem", "data", "all coordinates are at most 1: fractions, where pixels were expected")
        return
    tiny, count = [], 0
    for record in repaired.images:
        width, height = resized_size(record.width, record.height, short_side, long_side)
        for box in targets(record):
            sides = (box.x2 - box.x1) * width / record.width, (box.y2 - box.y1) * height / record.height
            count += 1
            if min(sides) < SMALLEST:
                tiny.append(f"{record.file_name}: {box.label} of {sides[0]:.1f} x {sides[1]:.1f}")
    if tiny:
        share = (
            f"{len(tiny)} of {count} boxes have a side below {SMALLEST} pixels at the model's short side {short_side}"
        )
        report.add("warning", "data", f"{share} and will hardly be found, the first is {tiny[0]}")


def _examine_words(report: Report, records: data_prep.Dataset, max_tokens: int) -> None:
    classes = class_names(records)
    unused = [name for name in classes if not report.classes.get(name)]
    if unused:
        report.add(
            "warning", "data", f"{len(unused)} classes have no box, and are asked for as absent: {_first(unused)}"
        )

    def length(phrases: Iterable[str]) -> int:
        return FRAME + sum(len(word_pieces(phrase)) + 1 for phrase in phrases)

    if classes:
        tokens = length(classes)
        report.add("ok", "data", f"the {len(classes)} classes take {tokens} of the {max_tokens} tokens of a prompt")
        if tokens > NEARLY * max_tokens:
            rest = "each prompt has the classes that its image shows, and as many others as fit in"
            report.add(
                "warning", "data", f"all classes together ({tokens} tokens) fill a prompt ({max_tokens}): {rest}"
            )
    own = [(length({box.label for box in targets(record)}), record) for record in records.images]
    longest, record = max(own, key=lambda item: item[0], default=(0, None))
    if longest > NEARLY * max_tokens:
        text = f"the phrases that {record.file_name} shows take {longest} of the {max_tokens} tokens of a prompt"
        report.add("warning", "data", text)


def _build_dataset(
    report: Report, usable: data_prep.Dataset, images: Path | str, transform: Transform, seed: int, max_tokens: int
) -> GroundingDataset | None:
    """The data set as training would build it; None, and a problem noted, where it cannot."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = GroundingDataset(usable, images, transform, seed=seed, max_tokens=max_tokens)
        except (ValueError, OSError) as error:
            report.add("problem", "data", str(error))
            return None
    for warning in caught:
        report.add("warning", "data", str(warning.message))
    return dataset


# the batch


def _examine_batch(report: Report, dataset: GroundingDataset, folder: Path) -> Batch | None:
    """Draw a few images that have boxes; None where there are none, or their pixels are of no use."""
    counts = {index: len(targets(dataset.records[index])) for index in EpochOrder(dataset)}
    chosen = sorted((index for index in counts if counts[index]), key=lambda index: max(counts[index], BOXES))[:IMAGES]
    if not chosen:
        report.add("problem", "batch", "no image has a box; expected some to learn from")
        return None
    samples = [dataset[index] for index in chosen]
    for number, sample in enumerate(samples, start=1):
        prompt = tokenize([sample.prompt], dataset.max_tokens)
        draw_sample(folder / f"batch-{number}.png", sample.pixel_values, sample.prompt, sample.target, prompt)
        report.prompts.append((sample.target.name, sample.prompt))
    batch = collate(samples)
    boxes = sum(len(target.boxes) for target in batch.targets)
    size = " x ".join(str(side) for side in reversed(batch.pixel_values.shape[-2:]))
    report.add(
        "ok", "batch", f"{len(samples)} images with {boxes} boxes, {size} pixels with padding, drawn as batch-*.png"
    )
    sound = True
    for sample in samples:
        if not sample.pixel_values.isfinite().all():
            report.add("problem", "batch", f"{sample.target.name}: its pixels are not finite (NaN or infinity)")
            sound = False
    return batch if sound else None


# the gradients


def _examine_gradients(
    report: Report, patient: GroundingDINO, batch: Batch, frozen: Sequence[str], lr: float, seed: int
) -> bool:
    """Take one step's gradients; False where overfitting cannot be tried."""
    broken = [name for name, tensor in patient.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        report.add("problem", "gradients", f"weights are not finite (NaN or infinity): {_first(broken)}")
        return False
    if not any(parameter.requires_grad for parameter in patient.parameters()):
        report.add("problem", "gradients", "every part is frozen (requires_grad is off): nothing can be learned")
        return False
    patient = copy.deepcopy(patient)
    step, optimiser = _Step(patient, batch, seed), _optimiser(patient, lr)
    try:
        out = step.predict()
        _examine_logits(report, out, batch)
        step.losses(out)["total"].backward()
        infinite = _infinite(patient)
        if not infinite:  # new models hold zeros that let no gradient through to what lies behind them until they move
            optimiser.step()
            optimiser.zero_grad()
            step.losses(step.predict())["total"].backward()
            infinite = _infinite(patient)
    except (ValueError, RuntimeError) as error:
        report.add("problem", "gradients", f"one step: {_reason(error)}")
        return False
    _examine_parts(report, patient, frozen)
    if infinite:
        report.add("problem", "gradients", f"gradients are not finite (NaN or infinity): {_first(infinite)}")
        return False
    unreached = _unreached(patient)
    if unreached:
        why = "the loss does not depend on it, or something detaches it on the way"
        report.add("problem", "gradients", f"no gradient reaches {_first(unreached)}: {why}")
    else:
        trained = sum(part.trained > 0 for part in report.parts)
        report.add("ok", "gradients", f"each of the {trained} parts that train receives a finite gradient")
    return True


def _examine_parts(report: Report, patient: nn.Module, frozen: Sequence[str]) -> None:
    """List the parts with their gradients; say which are frozen."""
    parts: dict[str, list[nn.Parameter]] = {}
    unasked = {}
    for name, parameter in patient.named_parameters():
        parts.setdefault(_part(name), []).append(parameter)
        if not parameter.requires_grad and not _begins(name, frozen):
            unasked[_part(name)] = None
    report.parts = tuple(_gradient(part, parameters) for part, parameters in parts.items())

    if frozen:
        report.add("ok", "gradients", f"frozen on purpose: {', '.join(frozen)}")
    if unasked:
        report.add(
            "problem",
            "gradients",
            f"frozen (requires_grad is off), which nobody asked for: {_first(list(unasked))}; let it train, or name it as frozen",
        )


def _unreached(model: nn.Module) -> list[str]:
    """Parts, and single parameters of other parts, that should train and get no gradient."""
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts.setdefault(_part(name), []).append((name, parameter))
    unreached = []
    for part, members in parts.items():
        if all(p.grad is None or not p.grad.any() for _, p in members):
            unreached.append(part)
        else:
            unreached += [name for name, p in members if p.grad is None]
    return unreached


def _examine_logits(report: Report, out: GroundingDINOOutput, batch: Batch) -> None:
    """Padding says -inf; words must not."""
    for image, target in enumerate(batch.targets):
        words = out.phrase_of_token[image] >= 0
        if not words.any() or out.logits[image][:, words].isneginf().all():
            report.add(
                "problem", "gradients", f"{target.name}: all logits are those of padding, its phrases reach no query"
            )


def _infinite(model: nn.Module) -> list[str]:
    """The parameters whose gradients are not finite."""
    return [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]


def _gradient(part: str, parameters: list[nn.Parameter]) -> PartGradient:
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    norm = torch.cat(gradients).double().norm().item() if gradients else 0.0
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return PartGradient(part, count, trained, norm if 0 < norm < math.inf else None)


def _part(name: str) -> str:
    """The part that a parameter belongs to: a child of the model's children; of the layers, each by itself."""
    depth = 4 if name.startswith("feature_enhancer.layers.") else 3 if name.startswith("decoder.layers.") else 2
    return ".".join(name.split(".")[:depth])


def _begins(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


# overfitting


class _Step:
    """Predictions and losses of one batch, with the same denoising queries each time."""

    def __init__(self, model: GroundingDINO, batch: Batch, seed: int) -> None:
        device = next(model.parameters()).device
        prompt = tokenize(batch.prompts, model.config.max_tokens).to(device)
        seeds = [seed + image for image in range(len(batch.targets))]
        noise = partial(denoising.noise_queries, targets=batch.targets, seeds=seeds, queries=NOISED)
        self.predict = partial(model, batch.pixel_values.to(device), prompt, batch.pixel_mask.to(device), noise)
        self.losses = partial(Criterion(), targets=batch.targets)


def _optimiser(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)


def _examine_overfitting(
    report: Report, patient: GroundingDINO, batch: Batch, lr: float, seconds: float, seed: int, progress: bool
) -> None:
    try:
        result, fault = _learn_by_heart(patient, batch, lr, seconds, seed, progress)
    except torch.cuda.OutOfMemoryError:
        report.add("problem", "overfitting", f"the device has too little memory for {len(batch.targets)} images")
        return
    report.overfitting = result
    steps, share, recall = len(result.losses), result.losses[-1] / result.losses[0], result.recalls[-1]
    learned = f"recall {recall:.2f}, loss {result.losses[0]:.3g} -> {result.losses[-1]:.3g}, {share:.1%} of its start"
    learned += f" ({steps} steps, {result.seconds:.0f} s)"
    if fault:
        report.add(
            "problem", "overfitting", f"diverged in step {steps}: {fault}; a learning rate below {lr:g} may help"
        )
    elif recall == 1 and share < GOAL:
        report.add("ok", "overfitting", f"the batch is learned by heart: {learned}")
        return
    elif recall == 1 and share < HALF:
        text = f"all boxes are found; a trained model's loss has less far to fall than to {GOAL:.0%}"
        report.add("ok", "overfitting", f"{text}: {learned}")
        return
    elif recall == 1:
        report.add("warning", "overfitting", f"all boxes are found, but the loss hardly falls: {learned}")
        return
    elif steps < ENOUGH:
        why = "give it more time, or a GPU"
        report.add("warning", "overfitting", f"the time was too short, which proves nothing: {learned}; {why}")
        return
    elif share > FLAT:
        idle = [part.part for part in report.parts if part.trained < part.parameters or part.norm is None]
        why = (
            f"these do not train: {_first(idle)}"
            if idle
            else f"all parts train: the learning rate, {lr:g}, may not suit them"
        )
        report.add("problem", "overfitting", f"the loss is flat: {learned}; {why}")
    else:
        report.add("problem", "overfitting", f"the batch is not learned: {learned}")
    for line in result.missing[:NAMED]:
        report.add("problem", "overfitting", line)
    if len(result.missing) > NAMED:
        report.add("problem", "overfitting", f"{len(result.missing) - NAMED} more boxes are not found")
    for name, phrases in report.prompts:
        report.add("warning", "overfitting", f"{name} was asked for: {' . '.join(phrases)}")


def _learn_by_heart(
    patient: GroundingDINO, batch: Batch, lr: float, seconds: float, seed: int, progress: bool
) -> tuple[Overfitting, str | None]:
    """Train on one batch until it is learned or time is up; (how far it came, what stopped it early)."""
    step = _Step(patient, batch, seed)
    optimiser = _optimiser(patient, lr)
    losses, recalls, missing, fault = [], [], (), None
    start = time.monotonic()
    bar_format = "{desc} |{bar}| {n:.0f} of at most {total:.0f} s{postfix}"
    with tqdm(
        total=seconds, desc="learning by heart", bar_format=bar_format, leave=False, disable=_hidden(progress)
    ) as bar:
        while True:
            try:
                out = step.predict()
                parts = step.losses(out)
            except ValueError as error:  # predictions that are not finite, with the image's name
                losses.append(math.nan)
                recalls.append(recalls[-1] if recalls else 0.0)
                fault = _reason(error)
                break
            losses.append(parts["total"].item())
            recall, missing = _recall(out, batch)
            recalls.append(recall)
            bar.set_postfix_str(f", step {len(losses)}, loss {losses[-1]:.3g}, recall {recall:.2f}", refresh=False)
            bar.n = min(time.monotonic() - start, seconds)
            bar.refresh()
            elapsed = time.monotonic() - start
            share, settled = losses[-1] / losses[0], recalls[-SETTLED:] == [1.0] * SETTLED
            learned = recall == 1 and (share < GOAL or (share < HALF and settled))
            if learned or elapsed >= seconds:
                break
            for group in optimiser.param_groups:  # constant for half of the time, then falling to 0: boxes come to rest
                group["lr"] = lr * min(1, 2 * (1 - elapsed / seconds))
            optimiser.zero_grad()
            parts["total"].backward()
            nn.utils.clip_grad_norm_(patient.parameters(), CLIP)
            optimiser.step()
    return Overfitting(tuple(losses), tuple(recalls), time.monotonic() - start, tuple(missing)), fault


@torch.no_grad()
def _recall(out: GroundingDINOOutput, batch: Batch) -> tuple[float, list[str]]:
    """Share of the boxes that are found with their phrase, one to one; a line for each of the others."""
    missing, count = [], 0
    for image, target in enumerate(batch.targets):
        prompt = batch.prompts[image]
        boxes, phrase, _, _ = (
            each.cpu()
            for each in label_boxes(
                out.logits[image], out.boxes[image], out.phrase_of_token[image], len(prompt), *THRESHOLDS
            )
        )
        truth = box_convert(target.boxes, "cxcywh", "xyxy")
        overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), truth)  # (n, boxes)
        right = (overlap >= IOU) & (phrase[:, None] == target.phrases)
        rows, columns = linear_sum_assignment(right.numpy(), maximize=True)
        found = set(columns[right.numpy()[rows, columns]].tolist())
        count += len(truth)
        for box in sorted(set(range(len(truth))) - found):
            label = prompt[int(target.phrases[box])]
            others = {prompt[index] for index in phrase[overlap[:, box] >= IOU].tolist()} - {label}
            own = overlap[phrase == target.phrases[box], box]
            best = f"the best {label!r} overlaps it by {own.max():.2f}" if len(own) else f"no {label!r} is sure enough"
            seen = f", it is taken for {_first(others)}" if others else ""
            missing.append(f"{target.name}: box {box + 1}, {label!r}, is not found: {best}{seen}")
    return 1 - len(missing) / max(count, 1), missing


# words


def _first(names: Iterable[str], count: int = 4) -> str:
    """The first of several names, and how many more there are."""
    names = list(names) if isinstance(names, Sequence) else sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _some(counts: dict[str, int]) -> str:
    return _first([f"{name} {count}" for name, count in Counter(counts).most_common()], 12) or "no classes"


def _reason(error: Exception) -> str:
    """The first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _hidden(progress: bool) -> bool | None:
    """tqdm's `disable`: None shows a bar on terminals only."""
    return None if progress else True
