"""Nano's first training stage: contrastive learning of names, after CLIP (arXiv 2103.00020).

Detection losses teach names slowly, because a prompt holds few names and most of the gradient moves boxes. Therefore the image
backbone and the projections of image and text are first trained on pictures of a single thing. The image tokens inside the
thing's box are pooled into a feature. The loss asks that this feature be more similar to the thing's own phrase than to the
other phrases of the batch, measured by the scaled dot product that the detector uses, too. The stage adds no parameters and
does not change the rest of the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, roi_align
from tqdm import tqdm

from gdino_lib.data.loader import Batch
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.text_encoder import TextEncoder
from gdino_lib.nano.scene_dataset import SceneDataset
from gdino_lib.prompts import tokenize
from gdino_lib.training import checkpoints
from gdino_lib.training.loop import TrainingLoop, derived_seed
from gdino_lib.training.processes import build_accelerator
from gdino_lib.training.run_folder import claimed, with_later_fields
from gdino_lib.training.settings import TrainingSettings


def learn_names(
    model: GroundingDINO,
    dataset: SceneDataset,
    settings: TrainingSettings,
    out: Path | str,
    workers: int | None = None,
) -> list[float]:
    """Train the image backbone and both projections on the names of single things, or resume an interrupted training.

    Args:
        model: holds the weights to start from; it is changed, and moved to a GPU if there is one.
        dataset: scenes of one thing (`most=1`) and prompts of one phrase (`PromptSettings(negatives=0)`).
        settings: used are `batch_size`, `accumulation_steps`, `epochs`, `lr`, `lr_scale` (names inside `image_backbone`),
            `schedule`, `warmup_steps`, `weight_decay`, `clip`, `dropout` (on each thing's feature), `save_every` and `seed`.
            The forward pass runs in bfloat16.
        out: folder of the checkpoints.
        workers: processes of the loader, see `build_loader`.

    Returns:
        For each step of this call, the share of things whose own phrase was the most similar phrase, 0..1.

    Raises:
        ValueError: the checkpoint in `out` was made with other data or settings, several processes run, or a loss is not
            finite.
    """
    s, out = settings, Path(out)
    accelerator = build_accelerator("auto")
    if accelerator.num_processes > 1:
        raise ValueError(
            f"expected one process to learn names, got {accelerator.num_processes}; start it without a distributed launcher"
        )
    model.to(accelerator.device)

    def losses(batch: Batch, _epoch: int, _normaliser: float) -> dict[str, Tensor]:
        loss, share = naming_loss(model, batch, s.dropout)
        return {"total": loss / s.accumulation_steps, "right": loss.new_tensor(share / s.accumulation_steps)}

    encoder = text_encoder(model)
    learned = nn.ModuleDict({"image_backbone": model.image_backbone, "projection": encoder.projection})
    loop = TrainingLoop(learned, dataset, s, accelerator, losses, lambda step: derived_seed(s.seed, step), workers)
    model.eval()
    encoder.bert.requires_grad_(False)
    shares = []
    with claimed(out), tqdm(total=loop.steps, desc="names", unit="step", disable=None) as bar:
        _resume(loop, out, dataset)
        bar.update(loop.step)
        while loop.step < loop.steps:
            for entry in loop.epoch():
                shares.append(entry["parts"]["right"])
                bar.update()
                bar.set_postfix_str(f"loss {entry['loss']:.2f}, {shares[-1]:.0%} right", refresh=False)
                if loop.step % s.save_every == 0 or loop.step == loop.steps:
                    right = sum(shares[-100:]) / len(shares[-100:])
                    loop.save(out, {"right": right, "data": dataset.fingerprint, "settings": s.to_dict()})
                    if bar.disable:
                        print(f"names: step {loop.step}/{loop.steps}, {right:.0%} right", flush=True)
    model.requires_grad_(True)
    return shares


def _resume(loop: TrainingLoop, out: Path, dataset: SceneDataset) -> None:
    """Restore the last checkpoint in `out`, if there is one."""
    if earlier := checkpoints.steps(out):
        saved = checkpoints.read(earlier[-1])
        settings = json.loads(json.dumps(loop.settings.to_dict()))
        then = with_later_fields(saved.state.get("settings", {}), TrainingSettings())
        if saved.state.get("data") != dataset.fingerprint or then != settings:
            raise ValueError(f"{earlier[-1]}: made with other data or settings; remove {out} to start again")
        loop.restore(saved)


def naming_loss(model: GroundingDINO, batch: Batch, dropout: float = 0.0) -> tuple[Tensor, float]:
    """Cross-entropy over the similarities of each thing to all distinct phrases of the batch.

    Args:
        model: its image backbone and text encoder are used.
        batch: pictures, prompts and targets, on any device.
        dropout: share of each thing's feature that is dropped, 0..1.

    Returns:
        (loss, a scalar; share of things whose own phrase is the most similar phrase, 0..1).
    """
    device, encoder = next(model.parameters()).device, text_encoder(model)
    prompt = tokenize(batch.prompts).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        image = model.image_backbone(batch.pixel_values.to(device), batch.pixel_mask.to(device))
        words = encoder.projection(encoder.encode(prompt))  # (B, T, D)
    things = F.dropout(object_features(image, [target.boxes for target in batch.targets]), dropout)  # (n, D)
    distinct: dict[str, int] = {}
    where, wanted = [], []  # (image, index in its prompt) of the S distinct phrases; number of each thing's phrase
    for number, (texts, target) in enumerate(zip(batch.prompts, batch.targets, strict=True)):
        for place, text in enumerate(texts):
            if text not in distinct:
                distinct[text] = len(distinct)
                where.append((number, place))
        wanted += [distinct[texts[place]] for place in target.phrases.tolist()]
    number, place = torch.tensor(where, device=device).T
    tokens = (prompt.phrases[number] == place[:, None]).float()  # (S, T), 1 at the phrase's tokens
    phrases = (tokens[:, None] @ words[number].float())[:, 0] / tokens.sum(1, keepdim=True)  # (S, D)
    width = things.shape[-1]
    logits = things @ F.layer_norm(phrases, (width,)).T / width**0.5  # (n, S)
    labels = torch.tensor(wanted, device=device)
    return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean().item()


def object_features(image: ImageTokens, boxes: Sequence[Tensor]) -> Tensor:
    """Pool the image tokens inside each box into one feature.

    Each level is sampled at the four points of a 2 x 2 grid over the box, with bilinear interpolation between tokens, and
    the four samples are averaged. The levels are added up and normalised.

    Args:
        image: the image backbone's tokens of B images.
        boxes: for each image float [n, 4], cxcywh in 0..1 of an image without padding.

    Returns:
        float32 [sum of n, D]; each row has mean 0 and variance 1.
    """
    corners = box_convert(torch.cat(list(boxes)), "cxcywh", "xyxy").to(image.features.device)  # (n, 4)
    number = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes])).to(corners)  # (n)
    batch, _, width = image.features.shape
    total = image.features.new_zeros(())
    for tokens, (h, w) in zip(image.features.split([h * w for h, w in image.shapes], dim=1), image.shapes, strict=True):
        level = tokens.transpose(1, 2).reshape(batch, width, h, w).float()  # (B, hw, D) -> (B, D, h, w)
        scaled = torch.cat([number[:, None], corners * corners.new_tensor([w, h, w, h])], dim=1)  # (n, 5)
        total = total + roi_align(level, scaled, 1, sampling_ratio=2, aligned=True).flatten(1)
    return F.layer_norm(total, (width,))


def text_encoder(model: GroundingDINO) -> TextEncoder:
    """The model's text encoder. `GroundingDINO` takes any module in its place, but nano's training needs a `TextEncoder`."""
    assert isinstance(model.text_encoder, TextEncoder)
    return model.text_encoder
