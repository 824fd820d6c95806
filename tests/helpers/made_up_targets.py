"""Targets and random predictions for tests of matching and losses."""

import torch

from gdino_lib.data.targets import Target
from gdino_lib.model.grounding_dino import Predictions

CAT, REMOTE = [0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.4, 0.4]


def target(boxes, phrases, name="image.jpg"):
    return Target(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), torch.tensor(phrases, dtype=torch.int64), name
    )


def random_target(generator, count, phrases, name="image.jpg"):
    centre = 0.25 + 0.5 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    size = 0.05 + 0.4 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return Target(torch.cat([centre, size], 1), torch.randint(phrases, (count,), generator=generator), name)


def random_predictions(generator, tokens, queries):
    """Random predictions for prompts with these tokens; `tokens` is int [B, T]."""
    logits = torch.randn(len(tokens), queries, tokens.shape[1], generator=generator, dtype=torch.float64) * 2
    boxes = torch.rand(len(tokens), queries, 4, generator=generator, dtype=torch.float64)
    return Predictions(logits, boxes * 0.8 + 0.1)
