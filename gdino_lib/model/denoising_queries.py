"""Denoising queries: noised ground-truth boxes that are decoded beside the model's own queries, in training only.

See DINO, arXiv 2203.03605, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gdino_lib.model.query_selection import Queries


@dataclass(frozen=True)
class DenoisingQueries:
    """The denoising queries of a batch: M in the image that has the most; the other images are padded to M.

    Attributes:
        features: float [B, M, D]; boxes: float [B, M, 4], cxcywh in 0..1.
        targets: int64 [B, M], index of the ground-truth box, within its image, that a query is made from; -1 for padding.
        positive: bool [B, M], True = the query should find that box; False = it should find nothing, or it is padding.
        groups: int64 [B, M], group of each query; queries of one group may attend to each other; -1 for padding.
    """

    features: Tensor
    boxes: Tensor
    targets: Tensor
    positive: Tensor
    groups: Tensor

    @property
    def weights(self) -> Tensor:
        """float [B, M], weight of each query in the loss: 1 / (number of groups of its image); 0 for padding.

        With these weights all groups of an image together count as one group.
        """
        groups = F.pad(self.groups + 1, (1, 0)).amax(1, keepdim=True)  # (B, 1), 0 without queries
        return (self.groups >= 0).to(self.boxes.dtype) / groups.clamp(min=1)

    def before(self, queries: Queries) -> Queries:
        """The denoising queries followed by `queries`; the proposals of `queries` stay."""
        features, boxes = self.features.to(queries.features), self.boxes.to(queries.boxes)
        return replace(
            queries,
            features=torch.cat([features, queries.features], dim=1),  # (B, M + Q, D)
            boxes=torch.cat([boxes, queries.boxes], dim=1),
        )

    def attention_mask(self, matching: int) -> Tensor:
        """Which query may attend to which, when Q = `matching` queries of the model follow the denoising queries.

        Returns:
            bool [B, M + Q, M + Q], True = the first query may attend to the second. Every query may attend to the model's
            own queries. A denoising query may also attend to its group. No query attends to padding.
        """
        free = self.groups.new_full((len(self.groups), matching), -2)
        group = torch.cat([self.groups, free], dim=1)  # (B, M + Q)
        same = (group[:, :, None] == group[:, None]) & (group >= 0)[:, None]
        return same | (group == -2)[:, None]
