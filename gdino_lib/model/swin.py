"""Swin Transformer (arXiv 2103.14030) as Grounding DINO's authors run it.

Like their code, it pads a feature map before it rolls the map to shift the windows. Images may have any size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class Swin(nn.Module):
    """The backbone: patches of 4 x 4 pixels, then four stages of windowed attention; the grid halves between stages.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        depths: blocks per stage; heads: attention heads per stage.
        window: side of a window in tokens.
        drop_path: share of residuals dropped in the last block in training; the share rises linearly from 0 in the first.
        maps: how many maps `forward` returns: 3, of the later stages, or 4, of all stages.
    """

    def __init__(
        self,
        width: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: int,
        drop_path: float = 0.0,
        maps: int = 3,
    ) -> None:
        super().__init__()
        channels = [width * 2**stage for stage in range(len(depths))]
        self.channels = channels[-maps:]  # of the maps that `forward` returns
        self.patch_embedding = PatchEmbedding(width)
        rates = torch.linspace(0, drop_path, sum(depths)).tolist()
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths):
            shifts = [window // 2 if block % 2 else 0 for block in range(depth)]
            blocks = [SwinBlock(width * 2**stage, heads[stage], window, shift, rates.pop(0)) for shift in shifts]
            self.stages.append(nn.Sequential(*blocks))
        self.mergings = nn.ModuleList(PatchMerging(width * 2**stage) for stage in range(len(depths) - 1))
        self.finest_norm = nn.LayerNorm(width) if maps == len(depths) else None
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in channels[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at strides 8, 16, 32, or at 4, 8, 16, 32 with `maps=4`.

        Args:
            images: float [B, 3, H, W], normalised; padding is treated like any other pixel.

        Returns:
            A map for each stride, float [B, C, ceil(H / stride), ceil(W / stride)] with C = `channels`.
        """
        x = self.stages[0](self.patch_embedding(images))  # (B, h, w, C)
        maps = [] if self.finest_norm is None else [self.finest_norm(x).permute(0, 3, 1, 2).contiguous()]
        for merging, stage, norm in zip(self.mergings, self.stages[1:], self.norms, strict=True):
            x = stage(merging(x))
            maps.append(norm(x).permute(0, 3, 1, 2).contiguous())  # (B, h, w, C) -> (B, C, h, w)
        return maps


class PatchEmbedding(nn.Module):
    """4 x 4 pixels become one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, ceil(H / 4), ceil(W / 4), C]."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % 4, 0, -height % 4))
        return self.norm(self.projection(images).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """2 x 2 tokens become one with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), 2 C]."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP; every other block shifts its windows by half their side."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        side = self.window
        # pad first, then roll, as the official code does; the other order gives other features
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)  # (B, rows, columns, side, side, C)
        x = x.reshape(batch, rows * columns, side * side, channels)
        x = self.attention(x, self._regions(rows, columns, x.device) if self.shift else None)
        x = x.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        x = x.reshape(batch, rows * side, columns * side, channels)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def _regions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Which tokens of a shifted window belong to the same part of the map before the roll.

        Returns:
            bool [windows, side^2, side^2], True = may attend.
        """

        def region(count: int) -> Tensor:
            # Along one side, only the last window joins two parts of the map. 0: tokens of the other windows; in the last
            # window, 1: tokens from the map's end, 2: tokens that the roll moved there from the map's start.
            position = torch.arange(count * self.window, device=device)
            last, wrapped = (count - 1) * self.window, count * self.window - self.shift
            return (position >= last).long() + (position >= wrapped).long()

        label = 3 * region(rows)[:, None] + region(columns)  # (rows * side, columns * side)
        label = label.view(rows, self.window, columns, self.window).transpose(1, 2).reshape(rows * columns, -1)
        return label[:, :, None] == label[:, None, :]


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a learned bias for each offset between two tokens."""

    offset: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        self.relative_position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        y, x = (axis.flatten()[:, None] - axis.flatten() + window - 1 for axis in (y, x))  # offsets, counted from 0
        self.register_buffer("offset", y * (2 * window - 1) + x, persistent=False)  # (side^2, side^2)

    def forward(self, x: Tensor, may_attend: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            x: float [B, windows, tokens, C].
            may_attend: bool [windows, tokens, tokens], True = the first token may attend to the second; None: no mask.

        Returns:
            The same shape as `x`.
        """
        batch, windows, tokens, channels = x.shape
        qkv = self.qkv(x).view(batch, windows, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each (B, windows * heads, tokens, C / heads)
        bias = self.relative_position_bias[self.offset].permute(2, 0, 1).to(q.dtype)  # (heads, tokens, tokens)
        if may_attend is None:
            bias = bias.expand(windows, -1, -1, -1)
        else:
            # the official code adds -100, not -inf; so do we, to get its results in padded windows, too
            bias = bias + torch.where(may_attend, 0.0, -100.0)[:, None].to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1)[None])
        x = x.view(batch, windows, self.heads, tokens, -1).transpose(2, 3)  # (B, windows, tokens, heads, C / heads)
        return self.projection(x.reshape(batch, windows, tokens, channels))
