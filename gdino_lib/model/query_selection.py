"""Language-guided query selection (section 3.2): the decoder starts where the image is most like the text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdino_lib.model.heads import ContrastiveHead, box_head
from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.text_encoder import TextTokens


@dataclass(frozen=True)
class Queries:
    """The queries that the decoder starts from.

    Attributes:
        features: float [B, Q, D]; boxes: float [B, Q, 4], cxcywh in 0..1 of the image without its padding, detached.
        proposal_logits: float [B, Q, T], similarity of the chosen image tokens with the text; None if queries are static.
        proposal_boxes: float [B, Q, 4], `boxes` with their gradient; None if queries are static.
        image_tokens: int64 [B, Q], index of the image token that proposed each box; None if queries are static.
    """

    features: Tensor
    boxes: Tensor
    proposal_logits: Tensor | None = None
    proposal_boxes: Tensor | None = None
    image_tokens: Tensor | None = None


class QuerySelection(nn.Module):
    """Each image token proposes a box; the boxes of the tokens most like any text token become the queries' anchors.

    The contents of the queries are learned and the same for every image; only the anchors depend on image and text.

    Args:
        width: D; queries: Q; an image with fewer than Q tokens gets one query per token.
        scaled_logits: use MM-Grounding-DINO's head, see `ContrastiveHead`.
    """

    def __init__(self, width: int, queries: int, scaled_logits: bool = False) -> None:
        super().__init__()
        self.contents = nn.Parameter(torch.randn(queries, width))
        self.projection = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.contrastive_head = ContrastiveHead(scaled_logits)
        self.box_head = box_head(width)

    def forward(self, image: ImageTokens, text: TextTokens) -> Queries:
        """Choose the queries of each image."""
        anchors, usable = token_anchors(image)
        features, logits = self.compare(image, text, usable)

        contents = self.contents[: features.shape[1]]  # (Q, D)
        # the score of an image token is its largest logit over all text tokens
        chosen = logits.max(-1).values.topk(contents.shape[0], dim=1).indices  # (B, Q)
        features, anchors, logits = (
            of_all.gather(1, chosen[..., None].expand(-1, -1, of_all.shape[-1]))
            for of_all in (features, anchors, logits)
        )
        boxes = (self.box_head(features) + anchors).sigmoid()  # (B, Q, 4), computed for the chosen tokens only
        return Queries(
            features=contents.expand(len(chosen), -1, -1),
            boxes=boxes.detach(),
            proposal_logits=logits,
            proposal_boxes=boxes,
            image_tokens=chosen,
        )

    def compare(self, image: ImageTokens, text: TextTokens, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Compare each image token with each text token.

        Args:
            image, text: tokens of B images and B prompts.
            usable: bool [B, N], see `token_anchors`; the features of other tokens are set to 0.

        Returns:
            (features for the box head, float [B, N, D]; logits, float [B, N, T], -inf at padding tokens of the text).
        """
        features = self.norm(self.projection(image.features * usable[..., None]))
        return features, self.contrastive_head(features, text.features, text.mask)


class StaticQueries(nn.Module):
    """Learned anchors, the same for every image and text: the ablation of query selection."""

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.contents = nn.Parameter(torch.randn(queries, width))
        self.anchors = nn.Parameter(torch.rand(queries, 4).logit(1e-3))

    def forward(self, image: ImageTokens, text: TextTokens) -> Queries:  # noqa: ARG002 - called as `QuerySelection` is
        """The same queries for each image of the batch."""
        batch = len(image.features)
        return Queries(self.contents.expand(batch, -1, -1), self.anchors.sigmoid().expand(batch, -1, -1))


def token_anchors(image: ImageTokens) -> tuple[Tensor, Tensor]:
    """The anchor box of each image token, before the box head refines it.

    The box lies around the token's centre. At the finest level it is a twentieth of the image wide and high; the size doubles
    from level to level.

    Returns:
        (logits of cxcywh, float [B, N, 4], infinite where not usable;
         usable, bool [B, N]: real tokens whose centre, width and height lie between 0.01 and 0.99).
    """
    anchors = []
    for level, (height, width) in enumerate(image.shapes):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.stack([x.flatten(), y.flatten()], dim=-1).to(image.valid_ratios) + 0.5  # (hw, 2), in tokens
        # the number of real tokens along each side; it is an integer, so rounding makes it exact
        real = (image.valid_ratios[:, None, level] * centres.new_tensor([width, height])).round()
        centres = centres / real  # (B, hw, 2), in 0..1 of the real image
        sizes = torch.full_like(centres, 0.05 * 2.0**level)
        anchors.append(torch.cat([centres, sizes], dim=-1))
    boxes = torch.cat(anchors, dim=1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1) & image.mask
    logits = torch.log(boxes / (1 - boxes))
    return logits.masked_fill(~usable[..., None], torch.inf), usable
