"""The cross-modality decoder (section 3.3): queries attend to each other, to the text and to the image, and move their boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdino_lib.model.heads import MLP
from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.position import box_positions, inverse_sigmoid
from gdino_lib.model.query_selection import Queries
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.ops.deform_attn import MultiScaleDeformableAttention


class Decoder(nn.Module):
    """Layers that refine queries and their boxes.

    Args:
        layers: built `DecoderLayer`s.
        box_heads: one MLP per layer, or a single one for all.
        width: D.
        logit_epsilon: the epsilon of `inverse_sigmoid`.
    """

    def __init__(self, layers: list[DecoderLayer], box_heads: list[MLP], width: int, logit_epsilon: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.heads = layers[0].heads
        self.box_heads = nn.ModuleList(box_heads)
        self.position_head = MLP(2 * width, width, width)
        self.norm = nn.LayerNorm(width)
        self.logit_epsilon = logit_epsilon

    def forward(
        self, queries: Queries, image: ImageTokens, text: TextTokens, attention_mask: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Refine the queries and their boxes, layer by layer.

        Args:
            queries: the queries to start from.
            image, text: the tokens that the feature enhancer returns.
            attention_mask: bool [Q, Q] or [B, Q, Q], True = the first query may attend to the second; None: every query
                may attend to every query.

        Returns:
            (features float [B, Q, D], boxes float [B, Q, 4] as cxcywh in 0..1) after each layer.
        """
        features, boxes = queries.features, queries.boxes
        # `boxes` is detached and `previous` is not: the loss on a layer's boxes also trains the layer before it
        # ("look forward twice", DINO, section 3.4)
        previous = boxes
        blocked = None if attention_mask is None else self._additive(attention_mask, features)
        states = []
        for number, layer in enumerate(self.layers):
            box_head = self.box_heads[number % len(self.box_heads)]
            ratios = image.valid_ratios.repeat(1, 1, 2)[:, None]  # (B, 1, L, 4)
            reference = boxes[:, :, None] * ratios  # (B, Q, L, 4), in 0..1 of each padded level
            sines = box_positions(reference[:, :, 0], features.shape[-1]).to(features.dtype)
            positions = self.position_head(sines)  # (B, Q, 2 D) -> (B, Q, D)
            features = layer(features, positions, reference, image, text, blocked)

            normed = self.norm(features)
            states.append((normed, (box_head(normed) + inverse_sigmoid(previous, self.logit_epsilon)).sigmoid()))
            if layer is not self.layers[-1]:
                # the next layer's reference box comes from the features before the norm
                previous = (box_head(features) + inverse_sigmoid(boxes, self.logit_epsilon)).sigmoid()
                boxes = previous.detach()
        return states

    def _additive(self, attention_mask: Tensor, features: Tensor) -> Tensor:
        """A mask as numbers to add to the scores: bool [Q, Q] or [B, Q, Q] -> float [Q, Q] or [B * H, Q, Q]."""
        blocked = features.new_zeros(attention_mask.shape).masked_fill(~attention_mask, -torch.inf)
        return blocked.repeat_interleave(self.heads, dim=0) if blocked.dim() == 3 else blocked


class DecoderLayer(nn.Module):
    """Self-attention, text cross-attention, deformable image cross-attention and an MLP; a norm follows each residual.

    Args:
        width: D; heads: H; levels: L; points: P; ffn_width: hidden width of the MLP.
        text_cross_attention: False leaves out the text cross-attention (ablation).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        points: int,
        ffn_width: int,
        dropout: float = 0.0,
        text_cross_attention: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.text_attention = None
        if text_cross_attention:
            self.text_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
            self.text_norm = nn.LayerNorm(width)
        self.image_attention = MultiScaleDeformableAttention(width, heads, levels, points)
        self.image_norm = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        reference: Tensor,
        image: ImageTokens,
        text: TextTokens,
        blocked: Tensor | None,
    ) -> Tensor:
        """Refine the queries once.

        Args:
            x: float [B, Q, D], the queries' features.
            positions: float [B, Q, D], added to the features before each attention.
            reference: float [B, Q, L, 4], cxcywh in 0..1 of each padded level.
            blocked: float [Q, Q] or [B * H, Q, Q], 0 or -inf, added to the scores of the self-attention; None: no mask.

        Returns:
            float [B, Q, D].
        """
        query = x + positions
        update, _ = self.self_attention(query, query, x, attn_mask=blocked, need_weights=False)
        x = self.self_norm(x + self.dropout(update))

        if self.text_attention is not None:
            update, _ = self.text_attention(
                x + positions, text.features, text.features, key_padding_mask=~text.mask, need_weights=False
            )
            x = self.text_norm(x + self.dropout(update))

        update = self.image_attention(x + positions, reference, image.features, image.shapes, image.mask)
        x = self.image_norm(x + self.dropout(update))

        update = self.linear2(self.dropout(self.linear1(x).relu()))
        return self.ffn_norm(x + self.dropout(update))
