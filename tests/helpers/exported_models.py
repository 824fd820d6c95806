"""Small random models to export, of every kind."""

import torch
from peers import ODD, randomise
from small_detectors import CONFIG

import gdino_lib as gd

SMALL_NANO = gd.GroundingDINOConfig.nano(
    short_side=64, long_side=128, bert_width=48, bert_heads=4, bert_layers=1, bert_ffn_width=48, encoder_layers=1,
    decoder_layers=1, landmarks=7,
)  # fmt: skip
CONFIGS = {
    "Swin": CONFIG,
    "five levels": ODD.replace(short_side=64, long_side=128),
    "convolutions, framed text, landmarks": SMALL_NANO,
    "without fusion": CONFIG.replace(fusion=False, shared_box_head=False),
    "static queries, no text attention": CONFIG.replace(language_guided=False, text_cross_attention=False),
}


def build(config):
    torch.manual_seed(0)
    model = gd.GroundingDINO(config)
    randomise(model, seed=3)
    if config.landmarks:
        model.text_encoder.landmarks.normal_()
    return model.eval()
