"""Multi-scale deformable attention (Deformable DETR, section 4.1; Grounding DINO uses it in section 3.1)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdino_lib.ops import native

BACKENDS = ("auto", "native", "reference")


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Sample each level at a few points per query and head, and return the weighted sum of the samples.

    Args:
        value: float [B, N, H, C], the levels one after the other, each row by row.
        spatial_shapes: (height, width) of each level in tokens; N is the sum of their products.
        sampling_locations: float [B, Q, H, L, P, 2], (x, y); a level extends from 0 to 1. Outside a level all values are 0.
        attention_weights: float [B, Q, H, L, P], any numbers. In the model they sum to 1 over levels and points.
        backend: "native", the compiled op (`gdino_lib.ops.native`); "reference", the readable version; or "auto", the
            backend that GDINO_OPS in the environment names. If GDINO_OPS names none, "auto" is the compiled op where it is
            available, and the reference elsewhere.

    Returns:
        [B, Q, H * C], the dtype of `value`.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        OSError: the compiled op is asked for and not available; the message says why.
    """
    choice = (os.environ.get("GDINO_OPS") or "auto") if backend == "auto" else backend
    if choice not in BACKENDS:
        source = "GDINO_OPS in the environment" if backend == "auto" else "backend of ms_deform_attn"
        raise ValueError(f"{source}: expected one of {', '.join(BACKENDS)}, got {choice!r}")
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    if choice == "reference" or not native.load_library(value.device.type):
        if choice == "native":
            raise OSError(f"ms_deform_attn: {native.why_not(value.device.type)}")
        return ms_deform_attn_reference(value, spatial_shapes, sampling_locations, attention_weights)
    return native.ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)


def ms_deform_attn_reference(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`ms_deform_attn` in plain PyTorch, for any device and dtype; every other backend must give its results."""
    batch, _, heads, channels = value.shape
    queries = attention_weights.shape[1]
    exact = torch.promote_types(value.dtype, torch.float32)  # compute half precision in float32, round at the end
    grids = sampling_locations.to(exact) * 2 - 1  # grid_sample takes coordinates in -1..1
    samples = []
    for level, (image, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in spatial_shapes], dim=1), spatial_shapes, strict=True)
    ):
        image = image.permute(0, 2, 3, 1).reshape(
            batch * heads, channels, height, width
        )  # (B, hw, H, C) -> (B*H, C, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B, Q, H, P, 2) -> (B*H, Q, P, 2)
        samples.append(F.grid_sample(image.to(exact), grid, padding_mode="zeros", align_corners=False))
    sampled = torch.stack(samples, dim=-2)  # L x (B*H, C, Q, P) -> (B*H, C, Q, L, P)
    weights = attention_weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B, Q, H, L, P) -> (B*H, 1, Q, L, P)
    output = (sampled * weights.to(exact)).flatten(-2).sum(-1)  # (B*H, C, Q)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype).contiguous()  # (B, Q, H*C)


class MultiScaleDeformableAttention(nn.Module):
    """Attention to a few points, which the query itself places around a reference point or in a reference box.

    Args:
        width: D; heads: H; levels: L; points: P, per level and head.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        # before training, each head samples in a direction of its own, and each further point lies one step further out
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = direction[:, None, None] * steps[:, None]  # (H, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        mask: Tensor,
    ) -> Tensor:
        """Attend from queries to the image.

        Args:
            query: float [B, Q, D], features plus positions.
            reference: float [B, Q, L, 2] points (x, y), or [B, Q, L, 4] boxes (cx, cy, w, h), in 0..1 of each padded
                level.
            memory: float [B, N, D], the image tokens.
            spatial_shapes: (height, width) of each level.
            mask: bool [B, N], True = real; padding contributes zeros.

        Returns:
            [B, Q, D].
        """
        value = self.value_projection(memory) * mask[..., None]
        value = value.view(*value.shape[:2], self.heads, -1)  # (B, N, D) -> (B, N, H, C)
        locations, weights = self.sample(query, reference, spatial_shapes)
        return self.output_projection(ms_deform_attn(value, spatial_shapes, locations, weights))

    def sample(
        self, query: Tensor, reference: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Where each query looks, and how much each of its points counts.

        Args:
            query, reference, spatial_shapes: as `forward` takes them.

        Returns:
            (locations, float32 or float64 [B, Q, H, L, P, 2], (x, y) in 0..1 of each padded level, or outside of it;
             weights, float [B, Q, H, L, P], of sum 1 over levels and points).
        """
        batch, queries, _ = query.shape
        # all coordinates of a head lie in one row, because a CPU computes long rows faster than pairs
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, -1))  # (B, Q, H, L * P * 2)
        offsets = offsets.to(reference.dtype)  # float32 at least: a step of half precision can exceed a token
        weights = self.attention_weights(query).view(batch, queries, self.heads, self.levels * self.points)
        weights = _softmax(weights).view(batch, queries, self.heads, self.levels, self.points)
        centres = self._for_each_point(reference[..., :2])  # (B, Q, 1, L * P * 2)
        if reference.shape[-1] == 2:
            # offsets are in tokens of their level
            sizes = offsets.new_tensor([(width, height) for height, width in spatial_shapes])
            locations = centres + offsets / self._for_each_point(sizes)
        else:
            # offsets are relative to the box: an offset of P is half its width or height
            locations = centres + offsets / self.points * self._for_each_point(reference[..., 2:]) * 0.5
        return locations.view(*weights.shape, 2), weights

    def _for_each_point(self, pairs: Tensor) -> Tensor:
        """Repeat the pair of each level for its P points: [..., L, 2] -> [..., 1, L * P * 2]."""
        return torch.cat([pairs] * self.points, dim=-1).flatten(-2)[..., None, :]


def _softmax(x: Tensor) -> Tensor:
    """Softmax over the last dimension; on a CPU shorter rows are padded to 16, the width of its vector instructions."""
    count = x.shape[-1]
    if x.device.type != "cpu" or count >= 16:
        return x.softmax(-1)
    return F.pad(x, (0, 16 - count), value=-torch.inf).softmax(-1)[..., :count]


def _check_shapes(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value: expected [B, N, H, C], got {list(value.shape)}")
    batch, tokens, heads, _ = value.shape
    if tokens != (total := sum(height * width for height, width in spatial_shapes)):
        raise ValueError(f"value: expected {total} tokens for the levels {list(spatial_shapes)}, got {tokens}")
    expected = (batch, heads, len(spatial_shapes))
    shape = attention_weights.shape
    if len(shape) != 5 or (shape[0], shape[2], shape[3]) != expected or sampling_locations.shape != (*shape, 2):
        raise ValueError(
            f"expected attention_weights [{batch}, Q, {heads}, {len(spatial_shapes)}, P] and sampling_locations of this "
            f"shape and a last axis of 2, got {list(shape)} and {list(sampling_locations.shape)}"
        )
