"""A text encoder with a frozen BERT, for training: it encodes each phrase once and adds noise to the features."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gdino_lib.detect.text_cache import TextCache
from gdino_lib.model.text_encoder import FeatureCache, TextEncoder
from gdino_lib.prompts import Prompt, tokenize

BATCH = 256  # phrases that BERT encodes at once


class FrozenTextEncoder(TextEncoder):
    """The BERT, projection and landmarks of another text encoder, for training with a frozen BERT.

    BERT would take a sixth of the time of a training step. Therefore this encoder encodes all phrases before the first
    step and stores their features. The phrases are sorted first, so their features do not depend on the order in which
    training asks for them. Without gradients, this encoder gives the same results as `encoder`.

    Args:
        encoder: provides BERT, projection and landmarks, which are shared, not copied.
        phrases: all phrases that prompts may contain.
        noise: standard deviation of the Gaussian noise on the features, as a share of their own standard deviation. Every
            step draws a new noise vector for each phrase of a prompt, and adds it to all tokens of the phrase. The
            feature of a name thus covers a region instead of a point, and unseen names fall into more of the regions.
    """

    def __init__(self, encoder: TextEncoder, phrases: Iterable[str], noise: float = 0.0) -> None:
        super().__init__(
            encoder.bert, encoder.projection.in_features, encoder.projection.out_features, encoder.mode, encoder.framed
        )
        self.projection, self.landmarks = encoder.projection, encoder.landmarks
        self.train(encoder.training)
        self.noise = noise
        self.deviation = torch.zeros(())  # standard deviation of the stored features
        self._phrases = sorted(set(phrases), key=lambda phrase: (len(phrase), phrase))
        self._cache = TextCache(capacity=None)

    def encode(self, prompt: Prompt, cache: FeatureCache | None = None) -> Tensor:
        """With gradients: the stored features, with noise. Without gradients: as `TextEncoder.encode`."""
        if not torch.is_grad_enabled():
            return super().encode(prompt, cache)
        if not self._cache.tokens:
            self._read_phrases(prompt.ids.device)
        repeats = self.mode != "whole-sentence"  # a whole prompt hardly ever comes again
        features = super().encode(prompt, self._cache if repeats else None)  # (B, T, W)
        blocks = prompt.blocks.clamp(min=0)  # (B, T), the number of each token's block
        noise = torch.randn(len(blocks), len(prompt.ids[0]), features.shape[-1], device=features.device)
        noise = noise.gather(1, blocks[..., None].expand_as(features)) * (self.noise * self.deviation)
        return features + noise * prompt.mask[..., None]

    @torch.no_grad()
    def _read_phrases(self, device: torch.device) -> None:
        for start in range(0, len(self._phrases), BATCH):
            prompt = tokenize([[phrase] for phrase in self._phrases[start : start + BATCH]])
            super().encode(prompt.to(device), self._cache)
        self.deviation = torch.cat(self._cache.features()).std()
