"""The model's configuration: all sizes and switches, with a comment for each field, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from gdino_lib.ranges import CheckedFields, NonNegativeInt, PositiveFloat, PositiveInt, Range, Share

TextMode = Literal["sub-sentence", "whole-sentence", "word-by-word"]
Side = Annotated[int, Range(1, 10_000)]  # larger images would take all memory
Layers = Annotated[int, Range(0, 200)]  # each takes memory, however small
SomeLayers = Annotated[int, Range(1, 200)]
Epsilon = Annotated[float, Range(0, 0.5, above=True, below=True)]


@dataclass(frozen=True)
class GroundingDINOConfig(CheckedFields):
    """The sizes and switches of a `GroundingDINO`. The defaults are those of the official Swin-T model ("tiny").

    Raises:
        ValueError: a value of another type or out of its range, or a size that is not the multiple it must be; one line with
            the field's name.
    """

    _unknown: ClassVar[str] = "unknown fields in the model's configuration"

    # image
    short_side: Side = 800  # pixels; images are resized to this short side, ...
    long_side: Side = 1333  # ... or to this long side if it would be longer
    backbone: str = "swin"  # "swin", or the name of a timm model that gives features at strides 8, 16 and 32
    swin_width: PositiveInt = 96  # channels after the patch embedding; doubles at each stage
    swin_depths: tuple[SomeLayers, ...] = (2, 2, 6, 2)  # blocks per stage
    swin_heads: tuple[PositiveInt, ...] = (3, 6, 12, 24)  # attention heads per stage
    swin_window: Annotated[int, Range(1, 64)] = 7  # side of an attention window, in tokens
    swin_maps: Annotated[int, Range(3, 4)] = 3  # feature maps taken from Swin: strides 8, 16, 32; a fourth has stride 4
    backbone_drop_path: Share = 0.2  # share of residuals dropped in the last block in training; rises linearly from 0
    levels: Annotated[int, Range(3, 5)] = 4  # feature levels L: the backbone's maps, then maps of stride-2 convolutions

    # text: a BERT
    vocabulary: PositiveInt = 30522  # word pieces of bert-base-uncased
    bert_width: PositiveInt = 768
    bert_layers: Layers = 12
    bert_heads: PositiveInt = 12
    bert_ffn_width: PositiveInt = 3072
    max_tokens: Annotated[int, Range(4)] = 256  # of a prompt; [CLS], one word, its closing "." and [SEP] take 4
    text_mode: TextMode = "sub-sentence"  # what BERT reads as one sequence; the other two modes are ablations
    text_framed: bool = False  # put each sequence between [CLS] and [SEP], which a BERT trained on sentences needs
    landmarks: NonNegativeInt = 0  # number of learned names towards which BERT's features of a phrase move

    # feature enhancer, query selection, decoder
    width: PositiveInt = 256  # D
    heads: PositiveInt = 8  # H, of the attentions of image tokens and of queries
    ffn_width: PositiveInt = 2048
    points: PositiveInt = 4  # P, sampling points per level and head
    encoder_layers: Layers = 6
    decoder_layers: SomeLayers = 6
    queries: PositiveInt = 900  # Q
    text_heads: PositiveInt = 4  # of the enhancer's text layer
    text_ffn_width: PositiveInt = 1024
    fusion_heads: PositiveInt = 4
    fusion_width: PositiveInt = 1024  # inner width of the fusion layer
    fusion: bool = True  # image and text attend to each other in the enhancer; False: ablation
    language_guided: bool = True  # anchors: the image tokens most like the text; False: learned anchors (ablation)
    text_cross_attention: bool = True  # in the decoder; False: ablation
    scaled_logits: bool = False  # MM-Grounding-DINO's head: logits / sqrt(D) + a learned bias
    shared_box_head: bool = True  # one box MLP for all decoder layers; MM-Grounding-DINO has one for each
    position_temperature: PositiveFloat = 20.0  # of the image's sine positions
    logit_epsilon: Epsilon = 1e-3  # boxes are clamped to [eps, 1 - eps] before the inverse sigmoid; Hugging Face: 1e-5

    # training
    dropout: Share = 0.0
    fusion_drop_path: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for total, parts in (
            ("width", "heads"),
            ("width", "text_heads"),
            ("fusion_width", "fusion_heads"),
            ("bert_width", "bert_heads"),
        ):
            if getattr(self, total) % getattr(self, parts):
                raise ValueError(f"{total} {getattr(self, total)} is not a multiple of {parts} {getattr(self, parts)}")
        if self.width % 32:
            raise ValueError(f"width: expected a multiple of 32 (groups of the group norm), got {self.width}")
        if self.backbone == "swin":
            self._check_swin()

    def _check_swin(self) -> None:
        if not len(self.swin_depths) == len(self.swin_heads) == 4:
            raise ValueError(
                f"swin_depths, swin_heads: expected 4 values, one per stage, got {self.swin_depths}, {self.swin_heads}"
            )
        if self.levels < self.swin_maps:
            raise ValueError(f"levels: expected at least the {self.swin_maps} of swin_maps, got {self.levels}")
        for stage, heads in enumerate(self.swin_heads):
            channels = self.swin_width * 2**stage
            if channels % heads:
                raise ValueError(
                    f"swin_heads: {heads} heads do not divide the {channels} channels of stage {stage + 1}"
                )

    @classmethod
    def tiny(cls, **changes: Any) -> GroundingDINOConfig:
        """The official model with a Swin-T backbone; weights `groundingdino_swint_ogc.pth`."""
        return cls(**changes)

    @classmethod
    def base(cls, **changes: Any) -> GroundingDINOConfig:
        """The official model with a Swin-B backbone; weights `groundingdino_swinb_cogcoor.pth`."""
        sizes = {"swin_width": 128, "swin_depths": (2, 2, 18, 2), "swin_heads": (4, 8, 16, 32), "swin_window": 12}
        return cls(**sizes | changes)

    @classmethod
    def large(cls, **changes: Any) -> GroundingDINOConfig:
        """The paper's Swin-L model; its weights were never released.

        The paper (section 4.1) takes four maps from its backbone, strides 4 to 32. As in DINO's model with five levels, a
        convolution adds stride 64.
        """
        sizes = {
            "swin_width": 192,
            "swin_depths": (2, 2, 18, 2),
            "swin_heads": (6, 12, 24, 48),
            "swin_window": 12,
            "swin_maps": 4,
            "levels": 5,
        }
        return cls(**sizes | changes)

    @classmethod
    def nano(cls, **changes: Any) -> GroundingDINOConfig:
        """A model for a laptop's CPU: the same parts with D = 128, 3 + 3 layers, EfficientNet-Lite0 and a 6-layer BERT."""
        sizes = {
            "short_side": 256,  # trained at 160 to 288; it finds as much at 256 as at 288, in less time
            "long_side": 448,
            "backbone": "tf_efficientnet_lite0",
            "levels": 3,
            "bert_width": 384,
            "bert_layers": 6,
            "bert_ffn_width": 1536,
            "text_framed": True,
            "width": 128,
            "heads": 4,
            "ffn_width": 512,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "queries": 100,
            "text_ffn_width": 256,
            "fusion_width": 256,
            "scaled_logits": True,  # scores begin near 0.01, which training from scratch needs
        }
        return cls(**sizes | changes)

    def replace(self, **changes: Any) -> GroundingDINOConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)


PRESETS = {
    "nano": GroundingDINOConfig.nano,
    "tiny": GroundingDINOConfig.tiny,
    "base": GroundingDINOConfig.base,
    "large": GroundingDINOConfig.large,
}
