"""Phrases become tokens, each of which knows its phrase and its place in it (section 3.4, sub-sentence text)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY = Path(__file__).parent / "assets" / "bert-base-uncased"
SPECIAL = -1


@dataclass(frozen=True)
class Prompt:
    """The tokens of a batch of prompts: [CLS] phrase . phrase . [SEP], shorter ones padded.

    Attributes:
        ids: int64 [B, T], word pieces.
        phrases: int64 [B, T], index of each token's phrase; -1 for special tokens, closing "." and padding.
        blocks: int64 [B, T], number of each token's block; a block is [CLS], a phrase with its closing ".", or [SEP];
            -1 for padding.
        positions: int64 [B, T], place in the block, from 0.
    """

    ids: Tensor
    phrases: Tensor
    blocks: Tensor
    positions: Tensor

    @property
    def mask(self) -> Tensor:
        """bool [B, T], True = real token."""
        return self.blocks >= 0

    @property
    def block_mask(self) -> Tensor:
        """bool [B, T, T], True = the two tokens are of one block, and may attend to each other; each token to
        itself.
        """
        same = (self.blocks[:, :, None] == self.blocks[:, None]) & self.mask[:, None]
        return same | torch.eye(same.shape[-1], dtype=torch.bool, device=same.device)

    def to(self, device: torch.device | str) -> Prompt:
        """The same on another device."""
        return Prompt(*(getattr(self, name).to(device) for name in ("ids", "phrases", "blocks", "positions")))


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of bert-base-uncased, from the vocabulary in this package: no network."""
    from transformers import BertTokenizerFast

    return BertTokenizerFast.from_pretrained(VOCABULARY)


def tokenize(prompts: Sequence[Sequence[str]], max_tokens: int = 256) -> Prompt:
    """Tokenise one prompt per image.

    Each phrase is tokenised on its own, so that a "." inside it does not end it; apart from that, the tokens are those
    of the official caption "phrase . phrase .".

    Args:
        prompts: phrases, for each image.
        max_tokens: the model's limit, [CLS] and [SEP] included.

    Raises:
        TypeError: a prompt is a plain string, not a list of phrases.
        ValueError: a prompt without phrases, or longer than `max_tokens`.
    """
    vocabulary = tokenizer()
    stop = vocabulary.convert_tokens_to_ids(".")
    rows = []
    for number, phrases in enumerate(prompts):
        if isinstance(phrases, str):
            raise TypeError(f"prompt {number}: expected a list of phrases, got the string {phrases!r}")
        if not phrases:
            raise ValueError(f"prompt {number} has no phrases; expected at least one")
        row = [(vocabulary.cls_token_id, SPECIAL, 0, 0)]
        for index, phrase in enumerate(phrases):
            pieces = _pieces(phrase)
            row += [(piece, index, index + 1, place) for place, piece in enumerate(pieces)]
            row.append((stop, SPECIAL, index + 1, len(pieces)))
        row.append((vocabulary.sep_token_id, SPECIAL, len(phrases) + 1, 0))
        if len(row) > max_tokens:
            raise ValueError(
                f"prompt {number} has {len(row)} tokens; expected at most {max_tokens}: use fewer or shorter phrases"
            )
        rows.append(row)
    longest = max(map(len, rows), default=0)
    padding = (vocabulary.pad_token_id, SPECIAL, -1, 0)
    table = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], dtype=torch.int64)  # (B, T, 4)
    return Prompt(*table.view(len(rows), longest, 4).unbind(-1))


@cache
def _pieces(phrase: str) -> tuple[int, ...]:
    return tuple(tokenizer()(phrase, add_special_tokens=False)["input_ids"])
