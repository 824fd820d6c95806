"""A closed-set detector of the same sizes: Grounding DINO without its text.

Each word piece of the 20 names of Pascal VOC has a learned embedding in place of BERT's features. No name shares a piece with
another name, so the score of a name is a linear classifier of the query, as in DINO. Fusion, the text layers and the decoder's
attention to the text are gone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.text_encoder import FeatureCache, TextTokens
from gdino_lib.prompts import Prompt, tokenize

VOC_NAMES = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog", "horse",
    "motorcycle", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip


class NameEmbeddings(nn.Module):
    """Stands in for the text encoder: a learned embedding for each word piece of the known names, 0 for all other tokens.

    Args:
        names: all names that can be asked for; no two of them share a word piece.
        width: D.
    """

    pieces: Tensor  # a buffer, int64 [n], ids of the word pieces, ascending

    def __init__(self, names: tuple[str, ...], width: int) -> None:
        super().__init__()
        prompt = tokenize([names])
        ids = prompt.ids[prompt.phrases >= 0]
        if len(ids.unique()) < len(ids):
            raise ValueError("names: expected names without a common word piece")
        self.register_buffer("pieces", ids.sort().values)
        self.embedding = nn.Embedding(len(ids), width)

    def forward(self, prompt: Prompt, _cache: FeatureCache | None = None) -> TextTokens:
        """Look up the features of the prompts' tokens."""
        place = torch.searchsorted(self.pieces, prompt.ids.contiguous()).clamp(max=len(self.pieces) - 1)
        known = (self.pieces[place] == prompt.ids) & (prompt.phrases >= 0)
        if not known[prompt.phrases >= 0].all():
            raise ValueError("the prompt has a name that the detector does not know")
        return TextTokens(self.embedding(place) * known[..., None], prompt)


class Unchanged(nn.Module):
    """Stands in for the enhancer's text layer."""

    def forward(self, text: Tensor, _positions: Tensor, _mask: Tensor) -> Tensor:
        """The text itself."""
        return text


def without_text(model: GroundingDINO) -> GroundingDINO:
    """Take the text out of a model built without fusion and text cross-attention; the model is changed and returned."""
    if model.config.fusion or model.config.text_cross_attention:
        raise ValueError("model: expected one without fusion and without text cross-attention")
    model.text_encoder = NameEmbeddings(VOC_NAMES, model.config.width)
    for layer in model.feature_enhancer.layers:
        layer.text_layer = Unchanged()
    return model
