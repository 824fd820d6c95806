"""Can the model learn one batch by heart? A model that cannot will not learn anything else either."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou
from tqdm import tqdm

from gdino_lib.data.loader import Batch
from gdino_lib.data.targets import Target
from gdino_lib.detect.postprocess import label_boxes
from gdino_lib.messages import first_line
from gdino_lib.model.grounding_dino import GroundingDINO, GroundingDINOOutput
from gdino_lib.training.doctor.batch import TrainingStep
from gdino_lib.training.doctor.diagnosis import MAX_LISTED, Diagnosis, Level, Overfitting, PartGradient, first_few

MAX_GRADIENT_NORM = 0.1
LOSS_GOAL_SHARE = 0.05  # the last loss should be below this share of the first
TRAINED_LOSS_SHARE = 0.5  # for a model that is trained already, the last loss should be below this share, ...
TRAINED_STEPS = 100  # ... with all boxes found in this many successive steps
FLAT_LOSS_SHARE = 0.9  # a loss that stays above this share of the first has not moved
CONCLUSIVE_STEPS = 300  # with fewer steps, a failure proves nothing: nano needs about 190, a smaller model half as many
FOUND_IOU = 0.5  # overlap from which a box counts as found
BOX_THRESHOLD, TEXT_THRESHOLD = 0.35, 0.25  # the Detector's defaults, for a box's best token and its phrase


def examine_overfitting(
    diagnosis: Diagnosis,
    model: GroundingDINO,
    batch: Batch,
    lr: float,
    seconds: float,
    seed: int,
    progress: bool,
) -> Overfitting | None:
    """Train the model on the batch and note how well it learns; None if the device has too little memory."""
    try:
        result, fault = _learn_by_heart(model, batch, lr, seconds, seed, progress)
    except torch.cuda.OutOfMemoryError:
        text = f"the device has too little memory for {len(batch.targets)} images"
        diagnosis.add("problem", "overfitting", text)
        return None
    diagnosis.overfitting = result
    level, text = _verdict(result, fault, lr, diagnosis.parts)
    diagnosis.add(level, "overfitting", text)
    if level == "problem":
        for line in result.missing[:MAX_LISTED]:
            diagnosis.add("problem", "overfitting", line)
        if len(result.missing) > MAX_LISTED:
            text = f"{len(result.missing) - MAX_LISTED} more boxes are not found"
            diagnosis.add("problem", "overfitting", text)
        for name, phrases in diagnosis.prompts:
            diagnosis.add("warning", "overfitting", f"{name} was asked for: {' . '.join(phrases)}")
    return result


def _verdict(result: Overfitting, fault: str | None, lr: float, parts: Sequence[PartGradient]) -> tuple[Level, str]:
    """(level, text) of what `_learn_by_heart` returned."""
    steps, share, recall = len(result.losses), result.losses[-1] / result.losses[0], result.recalls[-1]
    learned = f"recall {recall:.2f}, loss {result.losses[0]:.3g} -> {result.losses[-1]:.3g}, {share:.1%} of its start"
    learned += f" ({steps} steps, {result.seconds:.0f} s)"
    if fault:
        return "problem", f"diverged in step {steps}: {fault}; a learning rate below {lr:g} may help"
    if recall == 1 and share < LOSS_GOAL_SHARE:
        return "ok", f"the batch is learned by heart: {learned}"
    if recall == 1 and share < TRAINED_LOSS_SHARE:
        text = f"all boxes are found; a trained model's loss has less far to fall than to {LOSS_GOAL_SHARE:.0%}"
        return "ok", f"{text}: {learned}"
    if recall == 1:
        return "warning", f"all boxes are found, but the loss hardly falls: {learned}"
    if steps < CONCLUSIVE_STEPS:
        why = "give it more time, or a GPU"
        return "warning", f"the time was too short, which proves nothing: {learned}; {why}"
    if share > FLAT_LOSS_SHARE:
        idle = [part.part for part in parts if part.trained < part.parameters or part.norm is None]
        why = f"all parts train: the learning rate, {lr:g}, may not suit them"
        if idle:
            why = f"these do not train: {first_few(idle)}"
        return "problem", f"the loss is flat: {learned}; {why}"
    return "problem", f"the batch is not learned: {learned}"


def _learn_by_heart(
    model: GroundingDINO, batch: Batch, lr: float, seconds: float, seed: int, progress: bool
) -> tuple[Overfitting, str | None]:
    """Train on one batch until it is learned or time is up; (how well it was learned, the error that stopped it, if any)."""
    step = TrainingStep(model, batch, lr, seed)
    losses, recalls, missing, fault = [], [], [], None
    start = time.monotonic()
    bar_format = "{desc} |{bar}| {n:.0f} of at most {total:.0f} s{postfix}"
    hidden = None if progress else True  # None: shown on terminals only
    with tqdm(total=seconds, desc="learning by heart", bar_format=bar_format, leave=False, disable=hidden) as bar:
        while True:
            try:
                out = step.predict()
                parts = step.losses(out)
            except ValueError as error:  # predictions that are not finite, with the image's name
                losses.append(math.nan)
                recalls.append(recalls[-1] if recalls else 0.0)
                fault = first_line(error)
                break
            losses.append(parts["total"].item())
            recall, missing = measure_recall(out, batch)
            recalls.append(recall)
            bar.set_postfix_str(f", step {len(losses)}, loss {losses[-1]:.3g}, recall {recall:.2f}", refresh=False)
            bar.n = min(time.monotonic() - start, seconds)
            bar.refresh()
            elapsed = time.monotonic() - start
            if _is_learned(losses, recalls) or elapsed >= seconds:
                break
            for group in step.optimizer.param_groups:  # constant, then falling to 0, so that boxes settle
                group["lr"] = lr * min(1, 2 * (1 - elapsed / seconds))
            step.optimizer.zero_grad()
            parts["total"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            step.optimizer.step()
    return Overfitting(tuple(losses), tuple(recalls), time.monotonic() - start, tuple(missing)), fault


def _is_learned(losses: Sequence[float], recalls: Sequence[float]) -> bool:
    share = losses[-1] / losses[0]
    has_settled = list(recalls[-TRAINED_STEPS:]) == [1.0] * TRAINED_STEPS
    return recalls[-1] == 1 and (share < LOSS_GOAL_SHARE or (share < TRAINED_LOSS_SHARE and has_settled))


@torch.no_grad()
def measure_recall(out: GroundingDINOOutput, batch: Batch) -> tuple[float, list[str]]:
    """(share of the boxes that are found with their phrase, matched one to one; a line for each box that is not found)."""
    missing, count = [], 0
    for image, target in enumerate(batch.targets):
        prompt = batch.prompts[image]
        logits, boxes, tokens = out.logits[image], out.boxes[image], out.phrase_of_token[image]
        boxes, phrase, *_ = label_boxes(logits, boxes, tokens, len(prompt), BOX_THRESHOLD, TEXT_THRESHOLD)
        boxes, phrase = boxes.cpu(), phrase.cpu()
        truth = box_convert(target.boxes, "cxcywh", "xyxy")
        overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), truth)  # (n, boxes)
        right = ((overlap >= FOUND_IOU) & (phrase[:, None] == target.phrases)).numpy()
        rows, columns = linear_sum_assignment(right, maximize=True)
        found = set(columns[right[rows, columns]].tolist())
        count += len(truth)
        for box in range(len(truth)):
            if box not in found:
                missing.append(_describe_miss(target, box, prompt, phrase, overlap[:, box]))
    return 1 - len(missing) / max(count, 1), missing


def _describe_miss(target: Target, box: int, prompt: list[str], phrase: Tensor, overlap: Tensor) -> str:
    """A line on a box that is not found; phrase int64 [n] and overlap float [n] are those of the boxes that are found."""
    label = prompt[int(target.phrases[box])]
    others = {prompt[index] for index in phrase[overlap >= FOUND_IOU].tolist()} - {label}
    own = overlap[phrase == target.phrases[box]]
    best = f"the best {label!r} overlaps it by {own.max():.2f}" if len(own) else f"no {label!r} is sure enough"
    seen = f", it is taken for {first_few(others)}" if others else ""
    return f"{target.name}: box {box + 1}, {label!r}, is not found: {best}{seen}"
