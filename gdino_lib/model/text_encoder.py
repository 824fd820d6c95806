"""The text side of the input: BERT, which sees each phrase alone (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gdino_lib.config import TextMode
from gdino_lib.prompts import Prompt, tokenize, tokenizer

DRAWN = 0.4  # how far landmarks draw a phrase towards them, 0..1 ...
TEMPERATURE = 0.02  # ... and that of the softmax over cosines which says how much each of them
CHUNK = 256  # names that BERT reads at once


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
        landmarks: how many there are, see `set_landmarks`; 0, as in the official model: BERT's features stay as they are.
    """

    def __init__(
        self,
        bert: nn.Module,
        bert_width: int,
        width: int,
        mode: TextMode = "sub-sentence",
        framed: bool = False,
        landmarks: int = 0,
    ) -> None:
        super().__init__()
        self.bert = bert
        self.projection = nn.Linear(bert_width, width)
        self.mode, self.framed = mode, framed
        self.register_buffer("landmarks", torch.zeros(landmarks, bert_width) if landmarks else None)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, prompt: Prompt, known: dict[tuple[int, ...], Tensor] | None = None) -> TextTokens:
        """Encode a batch of prompts; for `known` see `encode`."""
        return TextTokens(self.projection(self.encode(prompt, known)), prompt)

    def encode(self, prompt: Prompt, known: dict[tuple[int, ...], Tensor] | None = None) -> Tensor:
        """BERT's features, drawn by the landmarks where there are any, float [B, T, bert width]; zeros at padding.

        Args:
            known: what became of sequences that it has read before, float [length, bert width] by their ids; new ones are
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

    @torch.no_grad()
    def set_landmarks(self, names: Sequence[str]) -> None:
        """Let names that were learned draw new ones towards them.

        BERT's features of a new name lie where the detector never learned what things look like. Part of the way towards the
        learned names most like it, it knows more. A learned name hardly moves: it is most like itself.

        Args:
            names: all that prompts called the things that the detector was trained on; they take the place of those before.
                The configuration of a model that is saved must say how many there are, in `landmarks`.

        Raises:
            ValueError: no names.
        """
        if not names:
            raise ValueError("names: expected at least one that was learned, got none")
        self.landmarks = None
        device, means = self.projection.weight.device, []
        for start in range(0, len(names), CHUNK):
            sequences, _, _ = self._sequences(tokenize([[name] for name in names[start : start + CHUNK]]))
            features, ids = self._read_plainly(sequences, device)
            named = _named(ids)
            means.append(_mean(features, named)[named.any(1)])  # without [CLS] and [SEP]
        self.landmarks = torch.cat(means)  # (N, W)

    def _read(self, sequences: list[tuple[int, ...]], device: torch.device) -> Tensor:
        """What BERT, and the landmarks, make of S sequences, float [S, longest, W]."""
        features, ids = self._read_plainly(sequences, device)
        if self.landmarks is None:
            return features
        named = _named(ids)
        with torch.autocast(device.type, enabled=False):  # small differences of cosines decide: float32 at least
            landmarks = self.landmarks.to(torch.promote_types(self.landmarks.dtype, torch.float32))
            features = features.to(landmarks.dtype)
            mean = _mean(features, named)
            lengths = landmarks.norm(dim=-1).clamp(min=1e-6)  # not F.normalize: they are many
            cosines = landmarks @ F.normalize(mean, dim=-1).T  # (N, S): a CPU likes the many rows first
            cosines = cosines.T / lengths  # (S, N)
            aside = (cosines / TEMPERATURE).softmax(-1) @ landmarks - mean  # (S, W)
            return (features + DRAWN * aside[:, None] * named[..., None]).to(self.landmarks.dtype)

    def _read_plainly(self, sequences: list[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
        """(what BERT makes of S sequences, float [S, longest, W]; their ids, int64 [S, longest], -1 at padding)."""
        ids = pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=-1).to(device)
        return self.bert(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long()).last_hidden_state, ids

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


def _named(ids: Tensor) -> Tensor:
    """Which tokens say what a phrase names: bool [S, longest], False = padding, the frame and "."."""
    signs = torch.tensor(tokenizer().convert_tokens_to_ids(["[CLS]", "[SEP]", "."]), device=ids.device)
    return (ids >= 0) & ~torch.isin(ids, signs)


def _mean(features: Tensor, named: Tensor) -> Tensor:
    """Of the words of each sequence, float [S, W]; 0 where there are none."""
    return (features * named[..., None]).sum(1) / named.sum(1, keepdim=True).clamp(min=1)


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
