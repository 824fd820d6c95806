"""A detector with a fixed prompt: a function of pixels alone, which can be exported or traced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.prompts import Prompt, tokenize

PROMPT_PARTS = ("ids", "phrases", "blocks", "positions")


class FixedPromptModel(nn.Module):
    """A `GroundingDINO` with the same prompt for every image; its inputs and outputs are tensors.

    `torch.export.export` and `torch.jit.trace` accept such a module. They do not accept lists of strings.

        fixed = FixedPromptModel(gd.load("nano", device="cpu"), ["cat", "remote control"])
        program = torch.export.export(fixed, (pixel_values,))
        logits, boxes = program.module()(pixel_values)

    The constructor runs the text encoder once; an exported or traced program does not contain it. A trace is valid for images
    of one size only. The model is not copied. Call `fold_batch_norms` on it first to make a timm backbone faster.

    Args:
        model: the detector; it is put into evaluation mode.
        phrases: the phrases to look for.

    Raises:
        ValueError: no phrases, or more than `model.config.max_tokens` tokens.
    """

    text_features: Tensor
    prompt_phrases: Tensor

    def __init__(self, model: GroundingDINO, phrases: Sequence[str]) -> None:
        super().__init__()
        self.model = model.eval()
        prompt = tokenize([phrases], model.config.max_tokens).to(next(model.parameters()).device)
        with torch.no_grad():
            text = model.text_encoder(prompt)
        self.register_buffer("text_features", text.features, persistent=False)  # (1, T, D)
        for name in PROMPT_PARTS:
            self.register_buffer(f"prompt_{name}", getattr(prompt, name), persistent=False)  # (1, T)

    @property
    def phrase_of_token(self) -> Tensor:
        """int64 [T], phrase index of each token; -1 for special tokens and closing "."."""
        return self.prompt_phrases[0]

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Find the objects that the phrases name.

        Args:
            pixel_values, pixel_mask: as `GroundingDINO` takes them.

        Returns:
            logits, float [B, Q, T], raw; boxes, float [B, Q, 4], cxcywh in 0..1 of each image without its padding.
        """
        batch = len(pixel_values)
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.bool)
        prompt = Prompt(
            *(getattr(self, f"prompt_{name}").expand(batch, -1) for name in PROMPT_PARTS)
        )  # (1, T) -> (B, T)
        text = TextTokens(self.text_features.expand(batch, -1, -1), prompt)  # (1, T, D) -> (B, T, D)
        out = self.model.ground(self.model.image_backbone(pixel_values, pixel_mask), text)
        return out.logits, out.boxes
