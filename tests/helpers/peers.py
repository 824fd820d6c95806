"""Transformers' port as a peer to compare with; its random weights make every part matter."""

import torch
from torch import nn

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.prompts import tokenize, tokenizer
from gdino_lib.weights.layouts import from_layout, hugging_face_config
from gdino_lib.weights.loading import fill

SMALL = GroundingDINOConfig(
    swin_width=24, swin_depths=(1, 2, 2, 2), swin_heads=(1, 2, 3, 4), swin_window=4, bert_width=48, bert_layers=2,
    bert_ffn_width=96, width=64, heads=4, ffn_width=96, encoder_layers=2, decoder_layers=3, queries=20, text_heads=2,
    text_ffn_width=48, fusion_heads=2, fusion_width=48, logit_epsilon=1e-5,
)  # fmt: skip
ODD = SMALL.replace(
    swin_window=7, swin_depths=(2, 1, 1, 1), heads=8, text_heads=4, fusion_heads=4, levels=5, queries=33
)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Make all weights random, because initial values hide mistakes (box heads start at zero, fusion at a scale of 1e-4)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                scale = 0.2 if "bbox" in name or "sampling_offsets" in name else 0.7
                parameter.copy_(noise * scale * parameter[0].numel() ** -0.5)
            elif "sampling_offsets" in name:
                parameter.copy_(noise * 2)
            elif "gamma" in name or "_param" in name:
                parameter.copy_(noise * 0.3)
            elif name.endswith("weight"):
                parameter.copy_(1 + noise * 0.1)
            else:
                parameter.copy_(noise * 0.1)


def hugging_face(config: GroundingDINOConfig, seed: int = 0) -> nn.Module:
    """The port's model with random weights, in evaluation mode."""
    from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection

    kind = MMGroundingDinoForObjectDetection if config.scaled_logits else GroundingDinoForObjectDetection
    peer = kind(hugging_face_config(config))
    randomise(peer, seed)
    return peer.eval()


def ours_from(peer: nn.Module, config: GroundingDINOConfig) -> GroundingDINO:
    """Our model with the peer's weights."""
    checkpoint = from_layout(peer.state_dict(), "hugging-face", peer.config.to_dict())
    model = GroundingDINO(config)
    fill(model, checkpoint)
    return model.eval()


def captions(prompts: list[list[str]]) -> dict[str, torch.Tensor]:
    """The port's text inputs for our prompts."""
    texts = [" . ".join(phrases) + " ." for phrases in prompts]
    encoded = tokenizer()(texts, padding="longest", return_tensors="pt")
    assert torch.equal(encoded["input_ids"], tokenize(prompts).ids)
    return {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
