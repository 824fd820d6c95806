"""Which query is to find which box: one-to-one Hungarian matching (section 4.1; DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from gdino_lib.data.targets import Target, pad_targets
from gdino_lib.model.grounding_dino import Predictions


@dataclass(frozen=True)
class HungarianMatcher:
    """Pairs queries with boxes so that the sum of the pairs' costs is smallest.

    The cost of a pair is `class_weight` * class + `box_weight` * L1 + `giou_weight` * -GIoU. L1 is the distance of the two
    boxes as cxcywh. The class cost is the focal loss of a token with label 1 minus that with label 0, averaged over the
    phrase's tokens. The default weights are those of the paper's appendix; its section 4.1 has 2, 5, 2.
    """

    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    alpha: float = 0.25  # of the focal loss
    gamma: float = 2.0  # of the focal loss

    @torch.no_grad()
    def __call__(
        self, predictions: Predictions, tokens: Tensor, targets: Sequence[Target]
    ) -> list[tuple[Tensor, Tensor]]:
        """Match each image on its own.

        Args:
            predictions: logits float [B, Q, T], boxes float [B, Q, 4].
            tokens: int64 [B, T], the model's `out.phrase_of_token`.
            targets: one per image.

        Returns:
            For each image (queries, targets), int64 [min(Q, n)] each, on the CPU, by rising query; no index occurs
            twice. If there are more boxes than queries, some boxes get no query, so that the sum of costs is smallest.

        Raises:
            ValueError: logits, boxes or costs that are not finite, with the image's name; a box whose phrase has no
                token.
        """
        boxes, positive, _ = pad_targets(targets, tokens.cpu())
        with torch.autocast(predictions.logits.device.type, enabled=False):
            # logits may be -inf, as those of padding are; a comparison with NaN is False
            sound = predictions.boxes.isfinite().all(-1) & (predictions.logits < torch.inf).all(-1)  # (B, Q)
            costs = self.cost(predictions.logits, predictions.boxes, boxes, positive)  # (B, Q, n)
        pairs = []
        for target, fine, cost in zip(targets, sound.all(1).tolist(), costs.cpu().numpy(), strict=True):
            cost = cost[:, : len(target.boxes)]  # (Q, n)
            if not fine or not np.isfinite(cost).all():
                raise ValueError(f"{target.name}: the model's predictions are not finite, nothing can be matched")
            rows, columns = linear_sum_assignment(cost)
            pairs.append((torch.from_numpy(rows), torch.from_numpy(columns)))
        return pairs

    def cost(self, logits: Tensor, boxes: Tensor, target_boxes: Tensor, positive: Tensor) -> Tensor:
        """The cost of each pair of one image, or of each image of a batch; "..." is nothing, or B.

        Args:
            logits: float [..., Q, T]; boxes: float [..., Q, 4]; target_boxes: float [..., n, 4]; positive: bool
                [..., n, T]. The latter two may be on the CPU.

        Returns:
            float [..., Q, n], float64 if the predictions are, else float32.
        """
        dtype = torch.promote_types(boxes.dtype, torch.float32)
        boxes, target_boxes = boxes.to(dtype), target_boxes.to(boxes.device, dtype)
        # only tokens that name a box enter the cost; other tokens and padding are left out
        named, order = positive.any(-2, keepdim=True).to(torch.uint8).sort(-1, descending=True)  # (..., 1, T)
        columns = order[..., : int(named.sum(-1).amax())]  # (..., 1, P); P = most such tokens of an image
        positive = positive.gather(-1, columns.expand(*positive.shape[:-1], -1)).to(boxes.device, dtype)  # (..., n, P)
        columns = columns.to(boxes.device).expand(*logits.shape[:-1], -1)
        unnamed = ~positive.any(-2, keepdim=True)  # (..., 1, P), the columns that only fill up to P
        logits = logits.gather(-1, columns).to(dtype).masked_fill(unnamed, 0)  # (..., Q, P)
        score = logits.sigmoid()
        to_one = self.alpha * (1 - score) ** self.gamma * F.softplus(-logits)
        to_zero = (1 - self.alpha) * score**self.gamma * F.softplus(logits)
        share = positive / positive.sum(-1, keepdim=True).clamp(min=1)  # of each token in its phrase
        class_cost = (to_one - to_zero) @ share.mT  # (..., Q, P) x (..., P, n) -> (..., Q, n)

        box_cost = torch.cdist(boxes, target_boxes, p=1)
        corners = [box_convert(each, "cxcywh", "xyxy") for each in (boxes, target_boxes)]
        giou_cost = -(generalized_box_iou if boxes.dim() == 2 else torch.vmap(generalized_box_iou))(*corners)
        return self.class_weight * class_cost + self.box_weight * box_cost + self.giou_weight * giou_cost
