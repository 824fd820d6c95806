"""Small models and pictures to train on in seconds."""

from pathlib import Path

import torch

from data_prep import Dataset
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.shapes import draw_shapes
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.training.settings import TrainingSettings

SIDE = 64
TINY = GroundingDINOConfig(
    short_side=SIDE, long_side=SIDE, swin_width=8, swin_depths=(1, 1, 1, 1), swin_heads=(1, 1, 2, 2), swin_window=4,
    backbone_drop_path=0.0, levels=3, bert_width=16, bert_layers=1, bert_heads=2, bert_ffn_width=32, width=32, heads=2,
    ffn_width=32, encoder_layers=1, decoder_layers=2, queries=8, text_heads=2, text_ffn_width=32, fusion_heads=2,
    fusion_width=32, fusion_drop_path=0.0, scaled_logits=True,
)  # fmt: skip
# all parts learn, and denoising makes every epoch different
SETTINGS = TrainingSettings(epochs=2, batch_size=4, lr=1e-3, lr_scale={}, warmup_steps=3, denoising=4, clip=1.0)


def model(seed: int = 0, **changes) -> GroundingDINO:
    torch.manual_seed(seed)
    return GroundingDINO(TINY.replace(**changes))


def shapes(folder: Path, count: int = 12, seed: int = 0) -> Dataset:
    return draw_shapes(folder, count, seed=seed, size=SIDE)


def dataset(folder: Path, count: int = 12, transform=None, **options) -> GroundingDataset:
    records = shapes(folder, count)
    return GroundingDataset(records, folder, transform or EvaluationTransform(SIDE, SIDE), **options)
