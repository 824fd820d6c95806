"""The prediction heads: the similarity of a query with each text token, and its box."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class ContrastiveHead(nn.Module):
    """Logits as dot products of queries and text tokens (section 3.3), so the prompt defines the classes.

    Args:
        scaled: MM-Grounding-DINO's variant, which divides by sqrt(D) and adds a learned bias. The bias is initialised to
            -4.6, the logit of 0.01. Without `scaled` the head has no parameters.
    """

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-math.log(99))) if scaled else None

    def forward(self, queries: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Compare each query with each text token.

        Args:
            queries: float [B, Q, D]; text: float [B, T, D]; text_mask: bool [B, T], True = real.

        Returns:
            float [B, Q, T], -inf where the text is padding.
        """
        logits = queries @ text.transpose(1, 2)  # (B, Q, D) x (B, D, T) -> (B, Q, T)
        if self.bias is not None:
            logits = logits / math.sqrt(queries.shape[-1]) + self.bias
        return logits.masked_fill(~text_mask[:, None], -math.inf)


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: input, hidden ..., output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """float [..., input] -> [..., output]."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def box_head(width: int) -> MLP:
    """The MLP from a query to the change of its four box logits (cx, cy, w, h); untrained, it returns zeros."""
    head = MLP(width, width, width, 4)
    for parameter in head.layers[-1].parameters():
        nn.init.zeros_(parameter)
    return head
