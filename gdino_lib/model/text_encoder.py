"""The text side of the input: BERT, which sees each phrase alone (section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gdino_lib.config import TextMode
from gdino_lib.prompts import Prompt, tokenizer


@dataclass(frozen=True)
class TextTokens:
    """A batch of prompts as the transformer sees it.

    Attributes:
        features: float [B, T, D].
        prompt: which tokens they are, see `gdino_lib.prompts.Prompt`.
    """

    features: Tensor
    prompt: Prompt

    @property
    def mask(self) -> Tensor:
        """bool [B, T], True = real token."""
        return self.prompt.mask

    def with_features(self, features: Tensor) -> TextTokens:
        """The same tokens with new features."""
        return replace(self, features=features)


class TextEncoder(nn.Module):
    """BERT and a projection.

    The official code gives BERT a whole prompt with a block-diagonal attention mask and positions that restart in each
    block. That is the same as giving it each block alone, which needs nothing but BERT's plain interface, and computes
    a phrase that occurs twice in a batch only once.

    Args:
        bert: a `transformers.BertModel`, or anything that takes `input_ids` and `attention_mask` and returns
            `last_hidden_state`.
        bert_width: width of what it returns; width: D.
        mode: what BERT sees at once.
        framed: BERT sees it between [CLS] and [SEP]. The official BERT learned to do without. A sentence encoder did not:
            its first token, whatever it is, serves as a place to attend to and says nothing of itself.
    """

    def __init__(
        self, bert: nn.Module, bert_width: int, width: int, mode: TextMode = "sub-sentence", framed: bool = False
    ) -> None:
        super().__init__()
        self.bert = bert
        self.projection = nn.Linear(bert_width, width)
        self.mode, self.framed = mode, framed
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, prompt: Prompt, known: dict[tuple[int, ...], Tensor] | None = None) -> TextTokens:
        """Encode a batch of prompts; for `known` see `encode`."""
        return TextTokens(self.projection(self.encode(prompt, known)), prompt)

    def encode(self, prompt: Prompt, known: dict[tuple[int, ...], Tensor] | None = None) -> Tensor:
        """BERT's features, float [B, T, bert width]; zeros at padding.

        Args:
            known: what BERT made of sequences that it has read before, float [length, bert width] by their ids; new ones are
                added. In other company it would round otherwise, in the last digits.
        """
        sequences, row, column = self._sequences(prompt)
        if known is None:
            features = self._read(sequences, prompt.ids.device)
        else:
            new = [ids for ids in sequences if ids not in known]
            if new:
                read = self._read(new, prompt.ids.device)
                known |= {ids: features[: len(ids)].clone() for ids, features in zip(new, read, strict=True)}
            features = pad_sequence([known[ids] for ids in sequences], batch_first=True)
        return features[row, column] * prompt.mask[..., None]  # (S, longest, W) -> (B, T, W)

    def _read(self, sequences: list[tuple[int, ...]], device: torch.device) -> Tensor:
        """What BERT makes of S sequences, float [S, longest, W]."""
        ids = pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=-1).to(device)
        return self.bert(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long()).last_hidden_state

    def _sequences(self, prompt: Prompt) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
        """What BERT reads, each distinct sequence once, and where each token of the prompt stands in it.

        Returns:
            (ids of S sequences; row int64 [B, T]; column int64 [B, T]).
        """
        if self.mode == "sub-sentence":
            group, column = prompt.blocks, prompt.positions
        elif self.mode == "whole-sentence":
            group, column = prompt.mask.long() - 1, torch.arange(prompt.ids.shape[1]).expand_as(prompt.ids)
        else:
            group, column = _words(prompt)
        found: dict[tuple[int, ...], int] = {}
        rows = []
        for ids, groups in zip(prompt.ids.tolist(), group.tolist(), strict=True):
            members: dict[int, list[int]] = {}
            for token, number in zip(ids, groups, strict=True):
                if number >= 0:
                    members.setdefault(number, []).append(token)
            numbers = {number: found.setdefault(tuple(tokens), len(found)) for number, tokens in members.items()}
            rows.append([numbers.get(number, 0) for number in groups])
        before, after = ((tokenizer().cls_token_id,), (tokenizer().sep_token_id,)) if self.framed else ((), ())
        column = column + len(before)
        device = prompt.ids.device
        column = column.to(device) * prompt.mask
        return [(*before, *tokens, *after) for tokens in found], torch.tensor(rows, device=device), column


def _words(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """(number of each token's word, place in it): pieces that begin with "##" continue a word."""
    pieces = [tokenizer().convert_ids_to_tokens(ids) for ids in prompt.ids.tolist()]
    begins = torch.tensor([[not piece.startswith("##") for piece in row] for row in pieces], device=prompt.ids.device)
    number = begins.long().cumsum(1) - 1
    index = torch.arange(prompt.ids.shape[1], device=prompt.ids.device).expand_as(number)
    start = torch.where(begins, index, 0).cummax(1).values
    return torch.where(prompt.mask, number, -1), index - start


def build_bert(vocabulary: int, width: int, layers: int, heads: int, ffn_width: int) -> nn.Module:
    """A BERT with random weights, through transformers' public interface; no pooler, nothing is fetched."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn_width,
    )
    return BertModel(config, add_pooling_layer=False)
