"""The pictures of a check: each image of the batch with its token map, and the curves of overfitting."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.ops import box_convert

from data_prep.atomic import atomic_file
from gdino_lib.data.targets import Target, positive_map
from gdino_lib.images import IMAGE_MEAN, IMAGE_STD
from gdino_lib.prompts import Prompt, tokenizer

INCHES_PER_LETTER = 0.13  # size of a row or column of the token map


def draw_sample(path: Path, pixel_values: Tensor, phrases: Sequence[str], target: Target, prompt: Prompt) -> None:
    """Draw an image as the model sees it, its boxes, and below them which tokens are positive for which box.

    Args:
        path: a PNG file to write.
        pixel_values: float [3, H, W], normalised, without padding.
        phrases: the image's prompt; prompt: the same as a batch of one, tokenised.
    """
    tokens = prompt.phrases[0]
    words = tokenizer().convert_ids_to_tokens(prompt.ids[0].tolist())
    labels = [
        f"{number} {phrases[phrase]}" for number, phrase in enumerate(target.phrases.tolist(), start=1)
    ]  # of the rows
    longest = max(map(len, words))
    height, width = pixel_values.shape[1:]
    rows = INCHES_PER_LETTER * (len(labels) + longest) + 0.6  # inches
    across = max(6.0, INCHES_PER_LETTER * (len(words) + max(map(len, labels), default=0)) + 1)
    figure = Figure(figsize=(across, 6 * height / max(height, width) + rows), layout="constrained")
    picture, table = figure.subplots(2, 1, height_ratios=[6 * height / max(height, width), rows])

    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    picture.imshow((pixel_values * deviation + mean).nan_to_num().clamp(0, 1).permute(1, 2, 0).numpy())
    picture.set_title(f"{target.name}, {width} x {height}", parse_math=False, fontsize=9)
    picture.axis("off")
    corners = box_convert(target.boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    colours = colormaps["tab10"]
    for (x1, y1, x2, y2), label, phrase in zip(corners.tolist(), labels, target.phrases.tolist(), strict=True):
        colour = colours(phrase % 10)
        picture.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        picture.text(x1, y1, label, fontsize=7, color="white", bbox=box, parse_math=False, va="bottom", clip_on=True)

    if labels:
        table.imshow(positive_map(target, tokens).numpy(), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    table.set_xlim(-0.5, len(words) - 0.5)
    table.set_xticks(range(len(words)), words, rotation=90, fontsize=7, parse_math=False)
    table.set_yticks(range(len(labels)), labels, fontsize=7, parse_math=False)
    table.set_xticks([place - 0.5 for place in range(len(words))], minor=True)
    table.set_yticks([place - 0.5 for place in range(len(labels))], minor=True)
    table.grid(which="minor", color="0.85", linewidth=0.5)
    table.tick_params(which="both", length=0)
    table.set_title("which tokens are positive for which box", fontsize=9)
    save_figure(figure, path)


def draw_curves(path: Path, losses: Sequence[float], recalls: Sequence[float], goal: float) -> None:
    """Draw total loss and recall of each step.

    Args:
        path: a PNG file to write.
        goal: share of the first loss that the last one should be below.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.semilogy(losses)
    above.axhline(losses[0] * goal, color="0.6", linestyle="--", label=f"{goal:.0%} of the start")
    above.set_ylabel("total loss")
    above.legend(fontsize=8)
    below.plot(recalls, color="C1")
    below.set_ylim(-0.05, 1.05)
    below.set_ylabel("recall")
    below.set_xlabel("step")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks are drawn as empty boxes
        with atomic_file(path, "wb") as file:
            figure.savefig(file, dpi=110, format="png")
