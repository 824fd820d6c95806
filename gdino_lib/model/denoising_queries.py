"""Noised queries that are decoded beside the model's own, for training alone (DINO, arXiv 2203.03605, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gdino_lib.model.query_selection import Queries


@dataclass(frozen=True)
class DenoisingQueries:
    """The noised queries of a batch, M for the image with most of them, padded for the others.

    Attributes:
        features: float [B, M, D]; boxes: float [B, M, 4], cxcywh in 0..1.
        targets: int64 [B, M], the box of its image that each one is made of; -1 for padding.
        positive: bool [B, M], True = should find this box, False = should find nothing, or padding.
        groups: int64 [B, M], those that may look at each other; -1 for padding.
    """

    features: Tensor
    boxes: Tensor
    targets: Tensor
    positive: Tensor
    groups: Tensor

    @property
    def weights(self) -> Tensor:
        """float [B, M], what each counts in a loss: 1 / groups of its image; 0 for padding.

        So an image counts as if it had one group.
        """
        groups = F.pad(self.groups + 1, (1, 0)).amax(1, keepdim=True)  # (B, 1), 0 without queries
        return (self.groups >= 0).to(self.boxes.dtype) / groups.clamp(min=1)

    def before(self, queries: Queries) -> Queries:
        """These, then `queries`; the proposals stay."""
        features, boxes = self.features.to(queries.features), self.boxes.to(queries.boxes)
        return replace(
            queries,
            features=torch.cat([features, queries.features], dim=1),  # (B, M + Q, D)
            boxes=torch.cat([boxes, queries.boxes], dim=1),
        )

    def attention_mask(self, matching: int) -> Tensor:
        """Who may look at whom when `matching` = Q queries follow.

        Returns:
            bool [B, M + Q, M + Q], True = the first may look at the second: all at the matching queries, denoising ones
            at those of their own group as well. Nobody looks at padding.
        """
        free = self.groups.new_full((len(self.groups), matching), -2)
        group = torch.cat([self.groups, free], dim=1)  # (B, M + Q)
        same = (group[:, :, None] == group[:, None]) & (group >= 0)[:, None]
        return same | (group == -2)[:, None]
