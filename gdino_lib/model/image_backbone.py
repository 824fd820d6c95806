"""The image backbone: feature maps at several strides become one sequence of tokens over all levels (section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdino_lib.model.position import image_positions
from gdino_lib.model.swin import Swin
from gdino_lib.model.timm_backbone import TimmBackbone


@dataclass(frozen=True)
class ImageTokens:
    """A batch of images as the transformer sees it: all levels in one sequence, the finest first, each row by row.

    Attributes:
        features: float [B, N, D].
        positions: float [B, N, D], sine positions plus the level's embedding.
        mask: bool [B, N], True = real.
        shapes: (height, width) of each of the L levels in tokens.
        valid_ratios: float32 or float64 [B, L, 2], the real part of each level's (width, height), in 0..1.
    """

    features: Tensor
    positions: Tensor
    mask: Tensor
    shapes: list[tuple[int, int]]
    valid_ratios: Tensor

    def with_features(self, features: Tensor) -> ImageTokens:
        """The same tokens with new features."""
        return replace(self, features=features)

    def select(self, images: list[int]) -> ImageTokens:
        """The tokens of some images of the batch, by index."""
        names = ("features", "positions", "mask", "valid_ratios")
        return replace(self, **{name: getattr(self, name)[images] for name in names})


class ImageBackbone(nn.Module):
    """A backbone, projections of its maps to one width, and positions.

    Args:
        backbone: any module that returns maps, each of half the former's size, and lists their channels in `channels`.
        width: D; levels: L, at least the number of maps; each further level is made by a stride-2 convolution.
        temperature: of the sine positions.
    """

    def __init__(self, backbone: Swin | TimmBackbone, width: int, levels: int, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.temperature = temperature
        channels = backbone.channels
        projections = [nn.Conv2d(c, width, kernel_size=1) for c in channels]
        # the first extra level is computed from the backbone's last map, not from its projection
        for inputs in [channels[-1], *[width] * levels][: levels - len(channels)]:
            projections.append(nn.Conv2d(inputs, width, kernel_size=3, stride=2, padding=1))
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        self.projections = nn.ModuleList(nn.Sequential(p, nn.GroupNorm(32, width)) for p in projections)
        self.level_embedding = nn.Parameter(torch.randn(levels, width))

    def forward(self, images: Tensor, mask: Tensor) -> ImageTokens:
        """Encode images.

        Args:
            images: float [B, 3, H, W], normalised, padded at the right and the bottom.
            mask: bool [B, H, W], True = real.
        """
        maps = self.backbone(images)
        projected = [projection(m) for projection, m in zip(self.projections, maps, strict=False)]
        for projection in self.projections[len(maps) :]:
            projected.append(projection(maps[-1] if len(projected) == len(maps) else projected[-1]))

        masks = [F.interpolate(mask[None].float(), size=m.shape[-2:])[0].bool() for m in projected]  # (B, h, w) each
        positions = [
            image_positions(m, level.shape[-1], self.temperature).to(images.dtype) + level
            for m, level in zip(masks, self.level_embedding, strict=True)
        ]
        exact = torch.promote_types(images.dtype, torch.float32)  # half precision is too coarse for locations
        valid = [
            torch.stack([m[:, 0].to(exact).mean(1), m[:, :, 0].to(exact).mean(1)], dim=-1) for m in masks
        ]  # (B, 2)
        return ImageTokens(
            features=torch.cat([m.flatten(2).transpose(1, 2) for m in projected], dim=1),  # (B, D, h, w) -> (B, hw, D)
            positions=torch.cat(positions, dim=1),
            mask=torch.cat([m.flatten(1) for m in masks], dim=1),
            shapes=[(m.shape[2], m.shape[3]) for m in projected],
            valid_ratios=torch.stack(valid, dim=1),
        )
