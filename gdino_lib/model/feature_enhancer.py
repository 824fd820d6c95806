"""The feature enhancer (section 3.1): image and text attend to each other, then each to itself, layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.position import sine_embedding
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.ops.deform_attn import MultiScaleDeformableAttention


class FeatureEnhancer(nn.Module):
    """Layers of fusion, text self-attention and deformable image self-attention, in this order.

    Args:
        layers: built `EnhancerLayer`s.
    """

    def __init__(self, layers: list[EnhancerLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, image: ImageTokens, text: TextTokens) -> tuple[ImageTokens, TextTokens]:
        """Enhance the features of image and text; all shapes stay the same."""
        reference = reference_points(image)
        places = text.prompt.positions.to(text.features.dtype)  # (B, T)
        text_positions = sine_embedding(places, text.features.shape[-1])  # (B, T, D)
        for layer in self.layers:
            image, text = layer(image, text, reference, text_positions)
        return image, text


class EnhancerLayer(nn.Module):
    """One layer of the feature enhancer.

    Args:
        fusion: the fusion layer; None leaves out fusion (ablation).
    """

    def __init__(self, fusion: FusionLayer | None, text_layer: TextLayer, image_layer: ImageLayer) -> None:
        super().__init__()
        self.fusion, self.text_layer, self.image_layer = fusion, text_layer, image_layer

    def forward(
        self, image: ImageTokens, text: TextTokens, reference: Tensor, text_positions: Tensor
    ) -> tuple[ImageTokens, TextTokens]:
        """`reference` as from `reference_points`, `text_positions` float [B, T, D]."""
        if self.fusion is not None:
            image_features, text_features = self.fusion(image.features, text.features, image.mask, text.mask)
            image, text = image.with_features(image_features), text.with_features(text_features)
        text = text.with_features(self.text_layer(text.features, text_positions, text.prompt.block_mask))
        image = image.with_features(self.image_layer(image, reference))
        return image, text


class FusionLayer(nn.Module):
    """Image and text attend to each other over one shared matrix of scores (after GLIP, arXiv 2112.03857, section 3.2).

    Both inputs are normalised first, and the residual is added to the normalised input. Only padding is masked, so
    phrases can influence each other here, through the image.

    `readable_forward` is the formula; `forward` gives the same result in less time. Scores and updates are linear in the
    image tokens, and text tokens are fewer. So `forward` multiplies each weight matrix with the text tokens first:
    (W x + b) . k = x . (W^T k) + b . k. With a prompt of ten tokens, a layer of the official size takes a tenth of the time.

    Args:
        width: D; heads: h, of the attention; inner_width: h * c, the width of queries, keys and values.
        dropout: of the attention weights; drop_path: share of samples whose residual is dropped in training.
    """

    def __init__(self, width: int, heads: int, inner_width: int, dropout: float = 0.0, drop_path: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_query, self.text_key = nn.Linear(width, inner_width), nn.Linear(width, inner_width)
        self.image_value, self.text_value = nn.Linear(width, inner_width), nn.Linear(width, inner_width)
        self.image_output, self.text_output = nn.Linear(inner_width, width), nn.Linear(inner_width, width)
        self.image_scale = nn.Parameter(torch.full((width,), 1e-4))
        self.text_scale = nn.Parameter(torch.full((width,), 1e-4))
        self.dropout = nn.Dropout(dropout)
        self.drop_path = StochasticDepth(drop_path, mode="row")
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def readable_forward(
        self, image: Tensor, text: Tensor, image_mask: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """GLIP's formula: one matrix of scores, one softmax over the text and one over the image."""
        over_text, over_image = self.attention_weights(image, text, image_mask, text_mask)
        image, text = self.image_norm(image), self.text_norm(text)
        image_value = self._split(self.image_value(image))  # (B, N, D) -> (B, h, N, c)
        text_value = self._split(self.text_value(text))  # (B, T, D) -> (B, h, T, c)

        image_update = self.dropout(over_text) @ text_value  # (B, h, N, T) x (B, h, T, c) -> (B, h, N, c)
        text_update = self.dropout(over_image).mT @ image_value  # (B, h, T, N) x (B, h, N, c) -> (B, h, T, c)
        image_update = self.image_output(image_update.transpose(1, 2).flatten(2))  # (B, h, N, c) -> (B, N, D)
        text_update = self.text_output(text_update.transpose(1, 2).flatten(2))  # (B, h, T, c) -> (B, T, D)

        image = image + self.drop_path(self.image_scale * image_update)  # (D,) x (B, N, D)
        text = text + self.drop_path(self.text_scale * text_update)  # (D,) x (B, T, D)
        return image, text

    def attention_weights(
        self, image: Tensor, text: Tensor, image_mask: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What image and text read from each other, from one matrix of scores.

        Args:
            image, text, image_mask, text_mask: as `forward` takes them.

        Returns:
            (over_text, float [B, h, N, T]: the weights with which each image token reads the text, of sum 1 over T;
             over_image, float [B, h, N, T]: the weights with which each text token reads the image, of sum 1 over N).
        """
        query = self._split(self.image_query(self.image_norm(image)))  # (B, N, D) -> (B, h, N, c)
        key = self._split(self.text_key(self.text_norm(text)))  # (B, T, D) -> (B, h, T, c)
        scores = query @ key.mT / key.shape[-1] ** 0.5  # (B, h, N, c) x (B, h, c, T) -> (B, h, N, T)
        over_text = scores.masked_fill(~text_mask[:, None, None], -torch.inf).softmax(3)
        over_image = scores.masked_fill(~image_mask[:, None, :, None], -torch.inf).softmax(2)
        return over_text, over_image

    def forward(self, image: Tensor, text: Tensor, image_mask: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, N, D], [B, T, D], bool [B, N], [B, T] (True = real) -> updated [B, N, D], [B, T, D]."""
        image, text = self.image_norm(image), self.text_norm(text)
        key, text_value = self._split(self.text_key(text)), self._split(self.text_value(text))

        matrix, bias = self._heads(self.image_query)  # (h, c, D), (h, c, 1)
        with torch.autocast(image.device.type, enabled=False):  # scores can exceed the range of float16
            exact = torch.promote_types(matrix.dtype, torch.float32)
            key = key.to(exact) / key.shape[-1] ** 0.5
            image_tokens = image.to(exact).transpose(1, 2)  # (B, N, D) -> (B, D, N)
            scores = ((key @ matrix.to(exact)).flatten(1, 2) @ image_tokens).unflatten(
                1, (self.heads, -1)
            )  # (B, h, T, N)
            bias = (key @ bias.to(exact)).masked_fill(~text_mask[:, None, :, None], -torch.inf)  # (B, h, T, 1)
        seen_by_image = scores + bias
        seen_by_image = self.dropout(seen_by_image.softmax(2)).flatten(1, 2).to(text.dtype)  # (B, h * T, N)
        matrix = _matrix(self.image_output).T.unflatten(0, (self.heads, -1))  # (h, c, D)
        image_update = seen_by_image.transpose(1, 2) @ (text_value @ matrix).flatten(1, 2) + self.image_output.bias

        hidden = torch.zeros_like(image_mask, dtype=scores.dtype).masked_fill(~image_mask, -torch.inf)[:, None, None]
        seen_by_text = (scores + hidden).softmax(3)  # no bias: b . k is equal for all image tokens
        seen_by_text = self.dropout(seen_by_text).flatten(1, 2).to(image.dtype)  # (B, h * T, N)
        matrix, bias = self._heads(self.image_value)
        seen = (seen_by_text @ image).unflatten(1, (self.heads, -1)) @ matrix.transpose(1, 2) + bias.transpose(1, 2)
        text_update = self.text_output(seen.transpose(1, 2).flatten(2))  # (B, h, T, c) -> (B, T, h * c)

        image = image + self.drop_path(self.image_scale * image_update)
        text = text + self.drop_path(self.text_scale * text_update)
        return image, text

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, X, h * c) -> (B, h, X, c)

    def _heads(self, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        return _matrix(linear).unflatten(0, (self.heads, -1)), linear.bias.unflatten(0, (self.heads, -1, 1))


class TextLayer(nn.Module):
    """Self-attention within each phrase, then an MLP; a norm follows each residual."""

    def __init__(self, width: int, heads: int, ffn_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Tensor, positions: Tensor, block_mask: Tensor) -> Tensor:
        """float [B, T, D], float [B, T, D], bool [B, T, T] (True = may attend) -> [B, T, D]."""
        query = text + positions
        # (B, T, T) -> (B * h, T, T): all heads of the first prompt, then all heads of the next
        blocked = (~block_mask).repeat_interleave(self.heads, dim=0)
        update, _ = self.attention(query, query, text, attn_mask=blocked, need_weights=False)
        text = self.norm1(text + self.dropout(update))
        update = self.linear2(self.dropout(self.linear1(text).relu()))
        return self.norm2(text + self.dropout(update))


class ImageLayer(nn.Module):
    """Deformable self-attention of the image over all levels, then an MLP; a norm follows each residual."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiScaleDeformableAttention(width, heads, levels, points)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: ImageTokens, reference: Tensor) -> Tensor:
        """`reference` float [B, N, L, 2] -> features float [B, N, D]."""
        x = image.features
        update = self.attention(x + image.positions, reference, x, image.shapes, image.mask)
        x = self.norm1(x + self.dropout(update))
        update = self.linear2(self.dropout(self.linear1(x).relu_()))
        return self.norm2(x + self.dropout(update))


def _matrix(linear: Any) -> Tensor:
    """The weight of an `nn.Linear`, plus those of its LoRA adapters if it has any (`gdino_lib.training.lora`).

    Raises:
        ValueError: the layer is quantized, so its weight is not a tensor.
    """
    weight = linear.weight
    if not isinstance(weight, Tensor):
        raise ValueError(
            "quantize_dynamic: the fusion layers multiply weight matrices and cannot be quantized; quantize "
            'model.text_encoder alone, or use gdino_lib.Detector(model, dtype="bfloat16")'
        )
    for adapter in getattr(linear, "active_adapters", ()):
        weight = weight + linear.get_delta_weight(adapter)
    return weight


def reference_points(image: ImageTokens) -> Tensor:
    """The centre of each image token, in the coordinates of each level.

    Returns:
        float [B, N, L, 2], (x, y) in 0..1 of each padded level.
    """
    centres = []
    for level, (height, width) in enumerate(image.shapes):
        y, x = torch.meshgrid(_centres(height, image.valid_ratios), _centres(width, image.valid_ratios), indexing="ij")
        grid = torch.stack([x.flatten(), y.flatten()], dim=-1)  # (hw, 2), in 0..1 of the padded level
        centres.append(grid / image.valid_ratios[:, None, level])  # (B, hw, 2), in 0..1 of the real image
    return torch.cat(centres, dim=1)[:, :, None] * image.valid_ratios[:, None]  # (B, N, 1, 2) x (B, 1, L, 2)


def _centres(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count
