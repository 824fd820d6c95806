"""Sine embeddings of positions and boxes, and the inverse sigmoid, which turns boxes into logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_embedding(values: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """Sines and cosines of each value at `width / 2` wavelengths ("Attention is all you need", section 3.5).

    Args:
        values: float [...]; 0..1 spans one period of the shortest wave.
        width: features per value, even.
        temperature: about the ratio of the longest wavelength to the shortest.

    Returns:
        float [..., width]: sin, cos, sin, cos, ... from the shortest wave to the longest.
    """
    exponent = 2 * torch.arange(width // 2, dtype=torch.float32, device=values.device) / width
    exact = values if values.dtype == torch.float64 else values.float()
    angles = exact[..., None] * (2 * math.pi) / temperature**exponent  # (..., width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(values.dtype)


def image_positions(mask: Tensor, width: int, temperature: float) -> Tensor:
    """Sine embedding of each token's row and column, relative to the real part of its image.

    Args:
        mask: bool [B, h, w], True = real.
        width: D; half of it for y, half for x.
        temperature: 20 in Grounding DINO.

    Returns:
        float32 [B, h * w, D].
    """
    y, x = mask.cumsum(1, dtype=torch.float32), mask.cumsum(2, dtype=torch.float32)  # 1, 2, 3, ... over real tokens
    y = y / (y[:, -1:, :] + 1e-6)
    x = x / (x[:, :, -1:] + 1e-6)
    embedded = sine_embedding(torch.stack([y, x], dim=-1), width // 2, temperature)  # (B, h, w, 2, D / 2)
    return embedded.flatten(3).flatten(1, 2)  # (B, h*w, D)


def box_positions(boxes: Tensor, width: int) -> Tensor:
    """Sine embedding of boxes, from which the decoder computes the positions of its queries.

    Args:
        boxes: float [..., 4], cxcywh in 0..1.
        width: D; each of the four numbers gets D / 2 features.

    Returns:
        float [..., 2 * D] in the order y, x, w, h.
    """
    return sine_embedding(boxes[..., [1, 0, 2, 3]], width // 2).flatten(-2)


def inverse_sigmoid(values: Tensor, epsilon: float) -> Tensor:
    """The logit of values in 0..1, log(x / (1 - x)); finite, because x and 1 - x are clamped to at least `epsilon`."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=epsilon) / (1 - values).clamp(min=epsilon))
