"""The text encoder: BERT, which reads each phrase by itself (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gdino_lib.config import GroundingDINOConfig, TextMode
from gdino_lib.prompts import Prompt, piece_id, tokenize, tokenizer

if TYPE_CHECKING:
    from transformers import BertConfig

LANDMARK_SHARE = 0.4  # how far a phrase moves towards the landmarks: 0 not at all, 1 all the way
LANDMARK_TEMPERATURE = 0.02  # of the softmax over cosine similarities that weights the landmarks
LANDMARK_BATCH = 256  # names in one batch for BERT

TokenIds: TypeAlias = tuple[int, ...]  # the ids of a sequence for BERT


@dataclass(frozen=True)
class TextTokens:
    """A batch of prompts as the transformer sees it.

    Attributes:
        features: float [B, T, D].
        prompt: ids, phrases, blocks and positions of the tokens, see `gdino_lib.prompts.Prompt`.
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


class FeatureCache(Protocol):
    """Supplies features of sequences in place of BERT, see `gdino_lib.detect.text_cache`."""

    def read(self, encoder: TextEncoder, sequences: list[TokenIds], device: torch.device) -> Tensor:
        """The same as `encoder.read(sequences, device)`."""
        ...


class TextEncoder(nn.Module):
    """BERT and a projection.

    The official code gives BERT a whole prompt with a block-diagonal attention mask and positions that restart in each
    block. Encoding each block as a sequence of its own gives the same features. This needs only BERT's plain interface,
    and a phrase that occurs twice in a batch is computed once.

    Args:
        bert: a `transformers.BertModel`, or anything that takes `input_ids` and `attention_mask` and returns
            `last_hidden_state`.
        bert_width: width of BERT's features; width: D.
        mode: the piece of text that BERT reads as one sequence.
        framed: put each sequence between [CLS] and [SEP]. The official BERT learned to work without this frame. A sentence
            encoder did not: it uses its first token as an attention sink, whatever that token is.
        landmarks: number of landmarks, see `set_landmarks`; 0, as in the official model, leaves BERT's features unchanged.
    """

    mode: TextMode
    landmarks: Tensor | None  # a buffer, float [N, bert width]

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

    def forward(self, prompt: Prompt, cache: FeatureCache | None = None) -> TextTokens:
        """Encode a batch of prompts; for `cache` see `encode`."""
        return TextTokens(self.projection(self.encode(prompt, cache)), prompt)

    def encode(self, prompt: Prompt, cache: FeatureCache | None = None) -> Tensor:
        """BERT's features, moved towards the landmarks if there are any: float [B, T, bert width]; zeros at padding.

        Args:
            cache: supplies the features; BERT computes only the sequences that the cache lacks. Results may differ in the
                last bits from those of another batch.
        """
        sequences, row, column = self._sequences(prompt)
        device = prompt.ids.device
        features = self.read(sequences, device) if cache is None else cache.read(self, sequences, device)
        return features[row, column] * prompt.mask[..., None]  # (S, longest, W) -> (B, T, W)

    def read(self, sequences: list[TokenIds], device: torch.device) -> Tensor:
        """BERT's features of S sequences, moved towards the landmarks if there are any: float [S, longest, W]."""
        return self.towards_landmarks(*self._read_by_bert(sequences, device))

    def towards_landmarks(self, features: Tensor, ids: Tensor) -> Tensor:
        """Move BERT's features of S sequences towards the landmarks, if there are any.

        Args:
            features: float [S, longest, W]; ids: int64 [S, longest], the tokens of the sequences, -1 at padding.
        """
        if self.landmarks is None:
            return features
        words = _word_mask(ids)
        # float32 at least: small differences of cosines matter
        with torch.autocast(features.device.type, enabled=False):
            landmarks = self.landmarks.to(torch.promote_types(self.landmarks.dtype, torch.float32))
            features = features.to(landmarks.dtype)
            mean = _word_mean(features, words)
            lengths = landmarks.norm(dim=-1).clamp(min=1e-6)  # not F.normalize, which copies all of them
            cosines = landmarks @ F.normalize(mean, dim=-1).T  # (N, S): a CPU is faster with the many rows first
            cosines = cosines.T / lengths  # (S, N)
            shift = (cosines / LANDMARK_TEMPERATURE).softmax(-1) @ landmarks - mean  # (S, W)
            return (features + LANDMARK_SHARE * shift[:, None] * words[..., None]).to(self.landmarks.dtype)

    @torch.no_grad()
    def set_landmarks(self, names: Sequence[str]) -> None:
        """Move the features of new names towards those of names that the detector learned, the landmarks.

        The detector was trained on BERT's features of the landmarks, not on the features of a new name. So the features of
        each name move part of the way towards the landmarks that are most like it. A learned name hardly moves, because it
        is most like itself.

        Args:
            names: all names that the training prompts used. They replace earlier landmarks. Before the model is saved, its
                configuration must give their number, as `landmarks`.

        Raises:
            ValueError: no names.
        """
        if not names:
            raise ValueError("names: expected at least one learned name, got none")
        self.landmarks = None
        device, means = self.projection.weight.device, []
        for start in range(0, len(names), LANDMARK_BATCH):
            sequences, _, _ = self._sequences(tokenize([[name] for name in names[start : start + LANDMARK_BATCH]]))
            features, ids = self._read_by_bert(sequences, device)
            words = _word_mask(ids)
            means.append(_word_mean(features, words)[words.any(1)])  # the blocks [CLS] and [SEP] have no words
        self.landmarks = torch.cat(means)  # (N, W)

    def _read_by_bert(self, sequences: list[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
        """(BERT's features of S sequences, float [S, longest, W]; their ids, int64 [S, longest], -1 at padding)."""
        ids = pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=-1).to(device)
        return self.bert(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long()).last_hidden_state, ids

    def _sequences(self, prompt: Prompt) -> tuple[list[TokenIds], Tensor, Tensor]:
        """The distinct sequences for BERT, and the place of each token of the prompt in them.

        Returns:
            (ids of S sequences; row int64 [B, T], the token's sequence; column int64 [B, T], its position in the sequence).
        """
        if self.mode == "sub-sentence":
            group, column = prompt.blocks, prompt.positions
        elif self.mode == "whole-sentence":
            group, column = prompt.mask.long() - 1, torch.arange(prompt.ids.shape[1]).expand_as(prompt.ids)
        else:
            group, column = _words(prompt)
        places: dict[TokenIds, int] = {}  # number of each distinct sequence, 0 to S - 1
        rows = []
        for ids, groups in zip(prompt.ids.tolist(), group.tolist(), strict=True):
            members: dict[int, list[int]] = {}
            for token, number in zip(ids, groups, strict=True):
                if number >= 0:
                    members.setdefault(number, []).append(token)
            numbers = {number: places.setdefault(tuple(tokens), len(places)) for number, tokens in members.items()}
            rows.append([numbers.get(number, 0) for number in groups])
        before, after = ((piece_id("[CLS]"),), (piece_id("[SEP]"),)) if self.framed else ((), ())
        column = column + len(before)
        device = prompt.ids.device
        column = column.to(device) * prompt.mask
        return [(*before, *tokens, *after) for tokens in places], torch.tensor(rows, device=device), column


def _word_mask(ids: Tensor) -> Tensor:
    """Which tokens are words of a phrase: bool [S, longest]; [CLS], [SEP], "." and padding are not."""
    signs = torch.tensor([piece_id(sign) for sign in ("[CLS]", "[SEP]", ".")], device=ids.device)
    return (ids >= 0) & (ids[..., None] != signs).all(-1)


def _word_mean(features: Tensor, words: Tensor) -> Tensor:
    """The mean over the words of each sequence, float [S, W]; 0 for a sequence without words."""
    return (features * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)


def _words(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """(number of each token's word; the token's place in that word). Pieces that begin with "##" continue a word."""
    pieces = [tokenizer().convert_ids_to_tokens(ids) for ids in prompt.ids.tolist()]
    begins = torch.tensor([[not piece.startswith("##") for piece in row] for row in pieces], device=prompt.ids.device)
    number = begins.long().cumsum(1) - 1
    index = torch.arange(prompt.ids.shape[1], device=prompt.ids.device).expand_as(number)
    start = torch.where(begins, index, 0).cummax(1).values
    return torch.where(prompt.mask, number, -1), index - start


def build_bert(config: GroundingDINOConfig) -> nn.Module:
    """The BERT that `config` describes, with random weights and without a pooler; nothing is downloaded."""
    from transformers import BertModel

    return BertModel(bert_config(config), add_pooling_layer=False)


def bert_config(config: GroundingDINOConfig) -> BertConfig:
    """transformers' configuration of the BERT that `config` describes."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.bert_width,
        num_hidden_layers=config.bert_layers,
        num_attention_heads=config.bert_heads,
        intermediate_size=config.bert_ffn_width,
    )
