"""A batch of a few images: pictures of them as the model sees them, and a training step on them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.loader import Batch, EpochOrder, collate
from gdino_lib.data.records import single_objects
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.prompts import tokenize
from gdino_lib.training import denoising
from gdino_lib.training.doctor.diagnosis import Diagnosis
from gdino_lib.training.doctor.pictures import draw_sample
from gdino_lib.training.losses import Criterion

BATCH_SIZE = 4  # images
PREFERRED_BOXES = 10  # images with more boxes are avoided, because they take longer to learn
DENOISING_QUERIES = 20  # positive ones per image, with as many negative ones; fewer than in training, to save time


def examine_batch(diagnosis: Diagnosis, dataset: GroundingDataset, folder: Path) -> Batch | None:
    """Choose a few images with boxes and draw them; None if there are none, or if their pixels are not finite."""
    counts = {index: len(single_objects(dataset.records[index])) for index in EpochOrder(dataset)}
    with_boxes = (index for index in counts if counts[index])
    chosen = sorted(with_boxes, key=lambda index: max(counts[index], PREFERRED_BOXES))[:BATCH_SIZE]
    if not chosen:
        diagnosis.add("problem", "batch", "no image has a box; expected some to learn from")
        return None
    samples = [dataset[index] for index in chosen]
    for number, sample in enumerate(samples, start=1):
        prompt = tokenize([sample.prompt], dataset.max_tokens)
        draw_sample(folder / f"batch-{number}.png", sample.pixel_values, sample.prompt, sample.target, prompt)
        diagnosis.prompts.append((sample.target.name, sample.prompt))
    batch = collate(samples)
    boxes = sum(len(target.boxes) for target in batch.targets)
    size = " x ".join(str(side) for side in reversed(batch.pixel_values.shape[-2:]))
    text = f"{len(samples)} images with {boxes} boxes, {size} pixels with padding, drawn as batch-*.png"
    diagnosis.add("ok", "batch", text)
    broken = [sample.target.name for sample in samples if not sample.pixel_values.isfinite().all()]
    for name in broken:
        diagnosis.add("problem", "batch", f"{name}: its pixels are not finite (NaN or infinity)")
    return None if broken else batch


class TrainingStep:
    """Predictions and losses of one batch, with the same denoising queries in each step, and an optimiser."""

    def __init__(self, model: GroundingDINO, batch: Batch, lr: float, seed: int) -> None:
        device = next(model.parameters()).device
        prompt = tokenize(batch.prompts, model.config.max_tokens).to(device)
        seeds = [seed + image for image in range(len(batch.targets))]
        noise = partial(denoising.noise_queries, targets=batch.targets, seeds=seeds, queries=DENOISING_QUERIES)
        self.predict = partial(model, batch.pixel_values.to(device), prompt, batch.pixel_mask.to(device), noise)
        self.losses = partial(Criterion(), targets=batch.targets)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
