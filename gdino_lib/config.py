"""Every size and switch of the model, a comment a field, and the presets that know them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

TextMode = Literal["sub-sentence", "whole-sentence", "word-by-word"]


@dataclass(frozen=True)
class GroundingDINOConfig:
    """What a `GroundingDINO` is built from. The defaults are the official Swin-T model ("tiny").

    Raises:
        ValueError: an unknown name, or sizes that do not divide.
    """

    # image
    short_side: int = 800  # pixels; images are resized to this ...
    long_side: int = 1333  # ... unless their long side would exceed this
    backbone: str = "swin"  # "swin", or the name of a timm model that gives features at strides 8, 16 and 32
    swin_width: int = 96  # channels after the patch embedding; doubles at each stage
    swin_depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks per stage
    swin_heads: tuple[int, ...] = (3, 6, 12, 24)  # attention heads per stage
    swin_window: int = 7  # side of an attention window, in tokens
    backbone_drop_path: float = 0.2  # share of residual branches dropped in the last block in training, linear from 0
    levels: int = 4  # feature levels L: strides 8, 16, 32, and 64 from a stride-2 convolution

    # text: a BERT
    vocabulary: int = 30522  # word pieces of bert-base-uncased
    bert_width: int = 768
    bert_layers: int = 12
    bert_heads: int = 12
    bert_ffn_width: int = 3072
    max_tokens: int = 256  # of a prompt, [CLS] and [SEP] included
    text_mode: TextMode = "sub-sentence"  # what BERT sees at once: a phrase, the whole prompt, or a word (ablation)
    text_framed: bool = False  # BERT sees it between [CLS] and [SEP], which one that was trained on sentences needs
    landmarks: int = 0  # names that were learned, towards which BERT's features of a phrase are drawn

    # feature enhancer, query selection, decoder
    width: int = 256  # D
    heads: int = 8  # H, of all attentions on images and queries
    ffn_width: int = 2048
    points: int = 4  # P, sampling points per level and head
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 900  # Q
    text_heads: int = 4  # of the enhancer's text layer
    text_ffn_width: int = 1024
    fusion_heads: int = 4
    fusion_width: int = 1024  # inner width of the fusion layer
    fusion: bool = True  # image and text meet in the enhancer; False: ablation
    language_guided: bool = (
        True  # anchors come from the image tokens most like the text; False: learned anchors (ablation)
    )
    text_cross_attention: bool = True  # in the decoder; False: ablation
    scaled_logits: bool = False  # MM-Grounding-DINO's head: logits / sqrt(D) + a learned bias
    shared_box_head: bool = True  # one box MLP for all decoder layers; MM-Grounding-DINO has one each
    position_temperature: float = 20.0  # of the image's sine positions
    logit_epsilon: float = 1e-3  # boxes are clamped to [eps, 1 - eps] before the inverse sigmoid; Hugging Face: 1e-5

    # training
    dropout: float = 0.0
    fusion_drop_path: float = 0.1

    def __post_init__(self) -> None:
        if self.text_mode not in TextMode.__args__:
            raise ValueError(f"text_mode: expected one of {', '.join(TextMode.__args__)}, got {self.text_mode!r}")
        for total, parts in (
            ("width", "heads"),
            ("width", "text_heads"),
            ("fusion_width", "fusion_heads"),
            ("bert_width", "bert_heads"),
        ):
            if getattr(self, total) % getattr(self, parts):
                raise ValueError(f"{total} {getattr(self, total)} is not a multiple of {parts} {getattr(self, parts)}")
        if self.width % 4 or self.width % 32:
            raise ValueError(f"width: expected a multiple of 32 (groups of the group norm), got {self.width}")
        if not 3 <= self.levels <= 5:
            raise ValueError(f"levels: expected 3 to 5 (strides 8 to 128), got {self.levels}")
        for name in ("swin_depths", "swin_heads"):  # JSON knows lists only
            object.__setattr__(self, name, tuple(getattr(self, name)))

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
        """The paper's Swin-L model; its weights were never released."""
        sizes = {"swin_width": 192, "swin_depths": (2, 2, 18, 2), "swin_heads": (6, 12, 24, 48), "swin_window": 12}
        return cls(**sizes | changes)

    @classmethod
    def nano(cls, **changes: Any) -> GroundingDINOConfig:
        """A model for a laptop's CPU: the same parts, 128 wide, 3 + 3 layers, EfficientNet-Lite0 and a six-layer
        BERT.
        """
        sizes = {
            "short_side": 256,  # trained at 160 to 288; its second round found as much at 256 as at 288, sooner
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
            "scaled_logits": True,  # begins with scores near 0.01, which training from scratch needs
        }
        return cls(**sizes | changes)

    def replace(self, **changes: Any) -> GroundingDINOConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GroundingDINOConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field that is not known here.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown fields in the model's configuration: {', '.join(unknown)}")
        return cls(**values)


PRESETS = {
    "nano": GroundingDINOConfig.nano,
    "tiny": GroundingDINOConfig.tiny,
    "base": GroundingDINOConfig.base,
    "large": GroundingDINOConfig.large,
}
