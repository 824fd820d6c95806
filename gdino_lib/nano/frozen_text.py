"""A text encoder whose BERT does not learn: in training it reads each phrase once, and noise makes regions of names."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gdino_lib.detect.text_cache import TextCache
from gdino_lib.model.text_encoder import FeatureCache, TextEncoder
from gdino_lib.prompts import Prompt, tokenize

BATCH = 256  # phrases that BERT reads at once


class FrozenTextEncoder(TextEncoder):
    """Another text encoder's BERT, projection and landmarks, for training steps in which BERT stays as it is.

    BERT takes a sixth of a training step. Here it reads all phrases before the first step, in an order of their own, so
    that the features of a phrase do not depend on the step that asks for it first. Without gradients this encoder is the
    same as `encoder`.

    Args:
        encoder: whose parts it takes, without copying them.
        phrases: all that prompts may hold.
        noise: added to the features of each phrase of a prompt: another vector in each step, the same for all tokens of a
            phrase; as a share of the features' deviation. Names become regions instead of points, and unseen names lie
            in more of the regions.
    """

    def __init__(self, encoder: TextEncoder, phrases: Iterable[str], noise: float = 0.0) -> None:
        super().__init__(
            encoder.bert, encoder.projection.in_features, encoder.projection.out_features, encoder.mode, encoder.framed
        )
        self.projection, self.landmarks = encoder.projection, encoder.landmarks
        self.train(encoder.training)
        self.noise = noise
        self.deviation = torch.zeros(())  # of the features of all phrases, when BERT has read them
        self._phrases = sorted(set(phrases), key=lambda phrase: (len(phrase), phrase))
        self._cache = TextCache(capacity=None)

    def encode(self, prompt: Prompt, cache: FeatureCache | None = None) -> Tensor:
        """In training steps from features that were read before, with noise; else as `TextEncoder`."""
        if not torch.is_grad_enabled():
            return super().encode(prompt, cache)
        if not self._cache.tokens:
            self._read_phrases(prompt.ids.device)
        features = super().encode(prompt, self._cache)  # (B, T, W)
        blocks = prompt.blocks.clamp(min=0)  # (B, T), a number for each phrase
        noise = torch.randn(len(blocks), len(prompt.ids[0]), features.shape[-1], device=features.device)
        noise = noise.gather(1, blocks[..., None].expand_as(features)) * (self.noise * self.deviation)
        return features + noise * prompt.mask[..., None]

    @torch.no_grad()
    def _read_phrases(self, device: torch.device) -> None:
        for start in range(0, len(self._phrases), BATCH):
            prompt = tokenize([[phrase] for phrase in self._phrases[start : start + BATCH]])
            super().encode(prompt.to(device), self._cache)
        self.deviation = torch.cat(self._cache.features()).std()
