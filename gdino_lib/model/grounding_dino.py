"""Grounding DINO (arXiv 2303.05499): the only place where the parts are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.decoder import Decoder, DecoderLayer
from gdino_lib.model.denoising_queries import DenoisingQueries
from gdino_lib.model.feature_enhancer import EnhancerLayer, FeatureEnhancer, FusionLayer, ImageLayer, TextLayer
from gdino_lib.model.heads import ContrastiveHead, box_head
from gdino_lib.model.image_backbone import ImageBackbone, ImageTokens
from gdino_lib.model.query_selection import QuerySelection, StaticQueries
from gdino_lib.model.swin import Swin
from gdino_lib.model.text_encoder import TextEncoder, TextTokens, build_bert
from gdino_lib.model.timm_backbone import TimmBackbone
from gdino_lib.prompts import Prompt, tokenize


@dataclass(frozen=True)
class Predictions:
    """The predictions of one stage of the model: a decoder layer, or the encoder's proposals.

    Attributes:
        logits: float [B, Q, T], raw similarity of each query with each token; -inf at padding tokens.
        boxes: float [B, Q, 4], cxcywh in 0..1 of each image without its padding.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class GroundingDINOOutput(Predictions):
    """The last decoder layer's predictions, and everything else that a loss needs.

    Attributes:
        phrase_of_token: int64 [B, T], phrase index of each token; -1 for special tokens, closing "." and padding.
        layers: predictions of each decoder layer but the last.
        proposals: predictions of the encoder's proposals; None if queries are static.
        denoising: predictions for the denoising queries, one per decoder layer; None without denoising.
        denoising_queries: the denoising queries as they enter the decoder; None without denoising.
    """

    phrase_of_token: Tensor
    layers: list[Predictions]
    proposals: Predictions | None
    denoising: list[Predictions] | None = None
    denoising_queries: DenoisingQueries | None = None


class GroundingDINO(nn.Module):
    """The detector: the five parts of the paper's figure, in order.

    Args:
        config: sizes and switches. Weights are random; `gdino_lib.load` gives a model with trained weights.
        text_encoder, image_backbone, feature_enhancer, query_selection, decoder: built modules that replace the parts
            described by `config`.
    """

    def __init__(
        self,
        config: GroundingDINOConfig,
        *,
        text_encoder: nn.Module | None = None,
        image_backbone: nn.Module | None = None,
        feature_enhancer: nn.Module | None = None,
        query_selection: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = text_encoder or build_text_encoder(config)
        self.image_backbone = image_backbone or build_image_backbone(config)
        self.feature_enhancer = feature_enhancer or build_feature_enhancer(config)
        self.query_selection = query_selection or build_query_selection(config)
        self.decoder = decoder or build_decoder(config)
        self.contrastive_heads = nn.ModuleList(
            ContrastiveHead(config.scaled_logits) for _ in range(config.decoder_layers)
        )

    def _replicate_for_data_parallel(self) -> GroundingDINO:
        """Refuse `nn.DataParallel` on several devices, which calls this: it can split pixels, but not phrases."""
        raise RuntimeError(
            "nn.DataParallel cannot split prompts among devices; "
            "run one process per device: accelerate launch -m gdino_lib train ..."
        )

    def forward(
        self,
        pixel_values: Tensor,
        prompts: Sequence[Sequence[str]] | Prompt,
        pixel_mask: Tensor | None = None,
        denoising: Callable[[TextTokens], DenoisingQueries] | None = None,
    ) -> GroundingDINOOutput:
        """Find the objects that the phrases name.

        Args:
            pixel_values: float [B, 3, H, W], RGB, normalised with ImageNet's mean and standard deviation, padded at the
                right and the bottom.
            prompts: a list of phrases for each image, or the tokenized prompts.
            pixel_mask: bool [B, H, W], True = real; None: no padding.
            denoising: for training only, see `ground`.

        Raises:
            TypeError: a string where a list of phrases is expected.
            ValueError: a wrong shape or dtype; not one prompt per image; a prompt without phrases, or with more than
                `config.max_tokens` tokens.
        """
        pixel_mask = _checked_mask(pixel_values, prompts, pixel_mask)
        prompt = prompts if isinstance(prompts, Prompt) else tokenize(prompts, self.config.max_tokens)
        text = self.text_encoder(prompt.to(pixel_values.device))
        image = self.image_backbone(pixel_values, pixel_mask)
        return self.ground(image, text, denoising)

    def ground(
        self,
        image: ImageTokens,
        text: TextTokens,
        denoising: Callable[[TextTokens], DenoisingQueries] | None = None,
    ) -> GroundingDINOOutput:
        """The part of `forward` that combines image and text.

        Its inputs each depend on the image or the text alone, so a caller can compute them once and reuse them.

        Args:
            image, text: tokens of B images and B prompts.
            denoising: for training only: a function from the enhanced text to denoising queries, which are decoded beside
                the model's own queries. The model's own queries cannot attend to them. The function is
                `gdino_lib.training.denoising.noise_queries` with its targets and seeds bound.
        """
        image, text = self.feature_enhancer(image, text)
        queries = self.query_selection(image, text)
        noised, mask = denoising(text) if denoising else None, None
        if noised:
            queries, mask = noised.before(queries), noised.attention_mask(queries.boxes.shape[1])
        states = self.decoder(queries, image, text, mask)

        stages = [
            Predictions(head(features, text.features, text.mask), boxes)
            for head, (features, boxes) in zip(self.contrastive_heads, states, strict=True)
        ]
        denoised = None
        if noised:
            count = noised.boxes.shape[1]
            denoised = [Predictions(stage.logits[:, :count], stage.boxes[:, :count]) for stage in stages]
            stages = [Predictions(stage.logits[:, count:], stage.boxes[:, count:]) for stage in stages]
        proposals = None
        if queries.proposal_logits is not None and queries.proposal_boxes is not None:
            proposals = Predictions(queries.proposal_logits, queries.proposal_boxes)
        *layers, last = stages
        return GroundingDINOOutput(last.logits, last.boxes, text.prompt.phrases, layers, proposals, denoised, noised)


def build_text_encoder(config: GroundingDINOConfig) -> TextEncoder:
    """The text encoder that `config` describes."""
    bert = build_bert(config)
    return TextEncoder(bert, config.bert_width, config.width, config.text_mode, config.text_framed, config.landmarks)


def build_image_backbone(config: GroundingDINOConfig) -> ImageBackbone:
    """The image backbone that `config` describes."""
    if config.backbone == "swin":
        backbone = Swin(
            config.swin_width,
            config.swin_depths,
            config.swin_heads,
            config.swin_window,
            config.backbone_drop_path,
            config.swin_maps,
        )
    else:
        backbone = TimmBackbone(config.backbone)
    return ImageBackbone(backbone, config.width, config.levels, config.position_temperature)


def build_feature_enhancer(config: GroundingDINOConfig) -> FeatureEnhancer:
    """The feature enhancer that `config` describes."""
    c = config

    def layer() -> EnhancerLayer:
        fusion = (
            FusionLayer(c.width, c.fusion_heads, c.fusion_width, c.dropout, c.fusion_drop_path) if c.fusion else None
        )
        text_layer = TextLayer(c.width, c.text_heads, c.text_ffn_width, c.dropout)
        return EnhancerLayer(
            fusion, text_layer, ImageLayer(c.width, c.heads, c.levels, c.points, c.ffn_width, c.dropout)
        )

    return FeatureEnhancer([layer() for _ in range(c.encoder_layers)])


def build_query_selection(config: GroundingDINOConfig) -> QuerySelection | StaticQueries:
    """The query selection that `config` describes."""
    if config.language_guided:
        return QuerySelection(config.width, config.queries, config.scaled_logits)
    return StaticQueries(config.width, config.queries)


def build_decoder(config: GroundingDINOConfig) -> Decoder:
    """The decoder that `config` describes."""
    c = config
    layers = [
        DecoderLayer(c.width, c.heads, c.levels, c.points, c.ffn_width, c.dropout, c.text_cross_attention)
        for _ in range(c.decoder_layers)
    ]
    heads = [box_head(c.width) for _ in range(1 if c.shared_box_head else c.decoder_layers)]
    return Decoder(layers, heads, c.width, c.logit_epsilon)


def _checked_mask(pixel_values: Tensor, prompts: Sequence[Sequence[str]] | Prompt, pixel_mask: Tensor | None) -> Tensor:
    shape = list(pixel_values.shape)
    if len(shape) != 4 or shape[1] != 3 or not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values: expected float [B, 3, H, W], got {pixel_values.dtype} {shape}")
    count = len(prompts.ids) if isinstance(prompts, Prompt) else len(prompts)
    if isinstance(prompts, str) or count != shape[0]:
        given = "a string" if isinstance(prompts, str) else f"{count}"
        raise ValueError(f"prompts: expected {shape[0]} lists of phrases, one per image, got {given}")
    wanted = [shape[0], *shape[2:]]
    if pixel_mask is None:
        return pixel_values.new_ones(wanted, dtype=torch.bool)
    if pixel_mask.dtype != torch.bool or list(pixel_mask.shape) != wanted:
        raise ValueError(f"pixel_mask: expected bool {wanted}, got {pixel_mask.dtype} {list(pixel_mask.shape)}")
    return pixel_mask
