"""Which query answers for which box: one-to-one Hungarian matching (section 4.1; DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from gdino_lib.model.grounding_dino import Predictions
from gdino_lib.training.targets import Target, positive_map


@dataclass(frozen=True)
class HungarianMatcher:
    """Pairs queries with boxes so that the costs of all pairs add up to the least.

    The cost of a pair is `class_weight` * class + `box_weight` * L1 + `giou_weight` * -GIoU, where L1 is that of the two
    boxes as cxcywh, and class is what the focal loss of a token would change from 0 to 1, averaged over the phrase's
    tokens. The weights are the paper's appendix's; its section 4.1 says 2, 5, 2.
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
            tokens: int64 [B, T], the model's `out.tokens`.
            targets: one per image.

        Returns:
            For each image (queries, targets), int64 [min(Q, n)] each, on the CPU, by rising query; no index occurs
            twice. With more boxes than queries, the boxes that would cost most stay without.

        Raises:
            ValueError: logits, boxes or costs that are not finite, with the image's name; a box whose phrase has no
                token.
        """
        device, tokens = predictions.logits.device, tokens.cpu()
        costs = []
        with torch.autocast(device.type, enabled=False):
            # the logits of padding are -inf, and only they; NaN is not below infinity
            sound = predictions.boxes.isfinite().all(-1) & (predictions.logits < torch.inf).all(-1)  # (B, Q)
            for image, target in enumerate(targets):
                positive = positive_map(target, tokens[image])
                costs.append(self.cost(predictions.logits[image], predictions.boxes[image], target.boxes, positive))
        sound = sound.all(1).tolist()
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()  # one transfer
        pairs = []
        for image, cost in enumerate(flat.split([cost.numel() for cost in costs])):
            if not sound[image] or not cost.isfinite().all():
                raise ValueError(
                    f"{targets[image].name}: the model's predictions are not finite, nothing can be matched"
                )
            rows, columns = linear_sum_assignment(cost.view(costs[image].shape).numpy())
            pairs.append((torch.from_numpy(rows), torch.from_numpy(columns)))
        return pairs

    def cost(self, logits: Tensor, boxes: Tensor, target_boxes: Tensor, positive: Tensor) -> Tensor:
        """The cost of each pair of one image.

        Args:
            logits: float [Q, T]; boxes: float [Q, 4]; target_boxes: float [n, 4]; positive: bool [n, T]. The latter two
                may be on the CPU.

        Returns:
            float [Q, n], float64 if the predictions are, else float32.
        """
        dtype = torch.promote_types(boxes.dtype, torch.float32)
        boxes, target_boxes = boxes.to(dtype), target_boxes.to(boxes.device, dtype)
        columns = positive.any(0)  # tokens that name a box: other logits, those of padding among them, cost nothing
        logits, positive = logits[:, columns].to(dtype), positive[:, columns].to(boxes.device, dtype)
        score = logits.sigmoid()
        to_one = self.alpha * (1 - score) ** self.gamma * F.softplus(-logits)
        to_zero = (1 - self.alpha) * score**self.gamma * F.softplus(logits)
        class_cost = (to_one - to_zero) @ (positive / positive.sum(1, keepdim=True)).T  # (Q, T) x (T, n) -> (Q, n)

        box_cost = torch.cdist(boxes, target_boxes, p=1)
        corners = (box_convert(each, "cxcywh", "xyxy") for each in (boxes, target_boxes))
        giou_cost = -generalized_box_iou(*corners)
        return self.class_weight * class_cost + self.box_weight * box_cost + self.giou_weight * giou_cost
