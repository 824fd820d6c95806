"""The losses (section 4.1): focal loss on query-token logits, L1 and GIoU loss on boxes, for every stage of the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from gdino_lib.data.targets import Target, pad_targets
from gdino_lib.model.denoising_queries import DenoisingQueries
from gdino_lib.model.grounding_dino import GroundingDINOOutput, Predictions
from gdino_lib.training.matcher import HungarianMatcher
from gdino_lib.training.settings import LossSettings


class Criterion:
    """All losses of a step.

    Each stage (the encoder's proposals, each decoder layer) is matched on its own. The label is 1 for a matched query and the
    tokens of its box's phrase, and 0 for all other pairs of a query and a token. Padding does not count. Sums are divided by
    the number of boxes, not of tokens or queries. Denoising queries need no matching, because their boxes are known; an
    image's sums are also divided by its number of denoising groups, so that each image counts as if it had one group.

    Args:
        settings: the weights of costs and losses.
    """

    def __init__(self, settings: LossSettings | None = None) -> None:
        self.settings = s = settings or LossSettings()
        self.matcher = HungarianMatcher(s.match_class, s.match_box, s.match_giou, s.alpha, s.gamma)

    def __call__(
        self, out: GroundingDINOOutput, targets: Sequence[Target], normaliser: float | Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            out: the model's output; all its stages are used.
            targets: one per image.
            normaliser: divisor of all losses; None: the number of boxes in `targets`, at least 1. If the gradients of
                several processes are averaged, pass max(boxes of all processes, 1) / processes.

        Returns:
            "total", and the parts that add up to it, already weighted: "STAGE/class", "STAGE/box" (L1), "STAGE/giou" with
            STAGE = proposals, layer_1, layer_2, ..., denoising_1, denoising_2, ... (the decoder's layers). Each is a
            scalar, float64 if the predictions are, else float32, also under autocast.

        Raises:
            ValueError: another number of targets; predictions that are not finite, with the image's name; a box whose
                phrase has no token.
        """
        if len(targets) != len(out.phrase_of_token):
            raise ValueError(f"targets: expected {len(out.phrase_of_token)}, one per image, got {len(targets)}")
        s, device, tokens = self.settings, out.logits.device, out.phrase_of_token.cpu()
        truth = _Truth(targets, tokens, device)
        if normaliser is None:
            normaliser = max(len(truth.boxes), 1)

        parts = {}
        with torch.autocast(device.type, enabled=False):
            for name, stage, weight in self._stages(out):
                pairs = self.matcher(stage, tokens, targets)
                counts = torch.tensor([len(queries) for queries, _ in pairs])
                images = torch.arange(len(pairs)).repeat_interleave(counts)
                queries, boxes = (torch.cat(indices) for indices in zip(*pairs, strict=True))
                matched = images, queries, boxes + truth.starts[images]
                ones = out.logits.new_ones(stage.logits.shape[:2], dtype=torch.float32)
                parts |= self._compare(name, stage, truth, matched, ones, weight)
            if out.denoising is not None and out.denoising_queries is not None and s.denoising:
                matched, weights = _denoising_pairs(out.denoising_queries, truth.starts), out.denoising_queries.weights
                for number, stage in enumerate(out.denoising, start=1):
                    parts |= self._compare(f"denoising_{number}", stage, truth, matched, weights, s.denoising)
        parts = {name: value / normaliser for name, value in parts.items()}
        return parts | {"total": torch.stack(list(parts.values())).sum()}

    def _stages(self, out: GroundingDINOOutput) -> list[tuple[str, Predictions, float]]:
        """(name, predictions, weight) of each stage that is matched."""
        stages = [("proposals", out.proposals, self.settings.proposals)] if out.proposals is not None else []
        stages += [(f"layer_{number}", layer, self.settings.layers) for number, layer in enumerate(out.layers, start=1)]
        stages.append((f"layer_{len(out.layers) + 1}", out, 1.0))
        return [stage for stage in stages if stage[2]]

    def _compare(
        self,
        name: str,
        stage: Predictions,
        truth: _Truth,
        matched: tuple[Tensor, Tensor, Tensor],
        query_weights: Tensor,
        weight: float,
    ) -> dict[str, Tensor]:
        """The loss sums of one stage. `matched` are (images, queries, boxes), int64 [M]; `query_weights` is float [B, Q]."""
        s = self.settings
        images, queries, numbers = (index.to(truth.boxes.device) for index in matched)
        dtype = torch.promote_types(stage.boxes.dtype, torch.float32)
        logits, boxes = stage.logits.to(dtype), stage.boxes.to(dtype)[images, queries]  # (B, Q, T), (M, 4)
        query_weights = query_weights.to(dtype)

        labels = torch.zeros_like(logits)
        labels[images, queries] = truth.positive[numbers].to(dtype)  # (M, T)
        class_loss = (focal_loss(logits, labels, s.alpha, s.gamma).sum(-1) * query_weights).sum()

        true_boxes, weights = truth.boxes[numbers].to(dtype), query_weights[images, queries]  # (M, 4), (M)
        box_loss = ((boxes - true_boxes).abs().sum(-1) * weights).sum()
        corners, true_corners = (box_convert(each, "cxcywh", "xyxy") for each in (boxes, true_boxes))
        giou = generalized_box_iou_loss(corners, true_corners, eps=0)  # true boxes have an area
        giou_loss = (giou * weights).sum()
        return {
            f"{name}/class": weight * s.class_weight * class_loss,
            f"{name}/box": weight * s.box_weight * box_loss,
            f"{name}/giou": weight * s.giou_weight * giou_loss,
        }


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The sigmoid focal loss (arXiv 1708.02002) of each logit; exactly 0, with gradient 0, where a logit is -inf.

    Args:
        logits, labels: float, the same shape; labels 0 or 1.
    """
    padding = logits.isneginf()
    loss = sigmoid_focal_loss(logits.masked_fill(padding, 0), labels, alpha, gamma)
    return loss.masked_fill(padding, 0)


def zero_loss(out: GroundingDINOOutput) -> Tensor:
    """A loss of 0, with a gradient of 0 for every parameter that the model used.

    `DistributedDataParallel` waits for a gradient of every parameter, even if only losses of weight 0 depend on it.
    """
    stages = [*out.layers, *([out.proposals] if out.proposals else [])]
    zero = out.logits.new_zeros(())
    for stage in stages:
        zero = zero + 0 * (stage.boxes.sum() + stage.logits.masked_fill(stage.logits.isneginf(), 0).sum())
    return zero


class _Truth:
    """The targets of a batch in one row: boxes float [n, 4], positive bool [n, T]; `starts` int64 [B], first box by image."""

    def __init__(self, targets: Sequence[Target], tokens: Tensor, device: torch.device) -> None:
        boxes, positive, real = pad_targets(targets, tokens)
        self.boxes, self.positive = boxes[real].to(device), positive[real].to(device)
        counts = real.sum(1)
        self.starts = counts.cumsum(0) - counts


def _denoising_pairs(queries: DenoisingQueries, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(images, queries, boxes) of the positive denoising queries; the negative ones should find nothing."""
    images, numbers = queries.positive.nonzero(as_tuple=True)
    return images, numbers, queries.targets[images, numbers] + starts.to(images.device)[images]
