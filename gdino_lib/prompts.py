"""Turn phrases into tokens that know their phrase and their position in it (section 3.4, sub-sentence text).

The word pieces of a phrase need neither PyTorch nor transformers, so that `gdino_lib.export.detector` works without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

VOCABULARY = Path(__file__).parent / "assets" / "bert-base-uncased"
NO_PHRASE = -1
OFFICIAL_DELIMITERS = ("[CLS]", "[SEP]", ".", "?")
# what lists and sentences put around a phrase: spaces and separators, and quotes in pairs
ENDS = " \t\r\n\u00a0\u3000" + ".,;" + "。，、；"  # noqa: RUF001 - full-width characters are meant
QUOTES = ('""', "''", "``", "“”", "„“", "””", "‘’", "‚‘", "’’", "«»", "»«", "‹›", "「」", "『』")  # noqa: RUF001

PromptRow: TypeAlias = list[tuple[int, int, int, int]]  # (id, phrase, block, position) of each token, see `Prompt`


@dataclass(frozen=True)
class Prompt:
    """The tokens of a batch of prompts: [CLS] phrase . phrase . [SEP], shorter ones padded.

    Attributes:
        ids: int64 [B, T], ids of the word pieces.
        phrases: int64 [B, T], index of each token's phrase; -1 for special tokens, closing "." and padding.
        blocks: int64 [B, T], number of each token's block; a block is [CLS], a phrase with its closing ".", or [SEP];
            -1 for padding.
        positions: int64 [B, T], position in the block, from 0.
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
        """bool [B, T, T], True = the two tokens may attend to each other: they are of one block, or the same token."""
        same = (self.blocks[:, :, None] == self.blocks[:, None]) & self.mask[:, None]
        number = self.blocks[0].new_ones(same.shape[-1]).cumsum(0)  # 1, 2, 3, ...; ONNX Runtime has no boolean `eye`
        return same | (number[:, None] == number)

    def to(self, device: torch.device | str) -> Prompt:
        """The same prompt on another device."""
        return Prompt(*(getattr(self, name).to(device) for name in ("ids", "phrases", "blocks", "positions")))


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of bert-base-uncased, built from the vocabulary in this package, without the network."""
    # the fast tokenizer has this name in transformers 4 and 5; pyright does not see the alias that transformers 5 makes
    from transformers import BertTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    return BertTokenizerFast.from_pretrained(VOCABULARY)


@cache
def word_piece_tokenizer() -> BertWordPieceTokenizer:
    """The part of `tokenizer` that divides text into word pieces."""
    return BertWordPieceTokenizer(str(VOCABULARY / "vocab.txt"))


@cache
def piece_id(piece: str) -> int:
    """The id of one word piece of the vocabulary: "[CLS]", ".", "cat"."""
    number = word_piece_tokenizer().token_to_id(piece)
    assert number is not None, "asked for pieces of the vocabulary only"
    return number


def bare(phrase: str) -> str:
    """A phrase without the separators at its ends and the quotes around it: "tropical fish.", "cat,", "'dog';".

    Separators are the full stop, the comma and the semicolon. Quotes must be a pair. All other characters belong to the
    phrase: "C++", "no. 5", "st. bernard", "who?", ".NET", '19" monitor'. A phrase of nothing but separators and quotes stays
    as it is.
    """
    rest, before = phrase, None
    while rest != before:
        before = rest
        start = len(rest) - len(rest.lstrip(ENDS))
        if rest[max(start - 1, 0) : start] == ".":  # as in ".NET"
            start -= 1
        rest = rest[start:].rstrip(ENDS)
        inside = rest[1:-1]
        if rest[:1] + rest[1:][-1:] in QUOTES and not {rest[0], rest[-1]} & set(inside):
            rest = inside
    return rest or phrase


@lru_cache(maxsize=100_000)
def word_pieces(phrase: str) -> tuple[int, ...]:
    """The ids of a phrase's word pieces, without special tokens.

    Letter case, accents and repeated spaces make no difference, nor do separators and quotes around the phrase (see `bare`).
    Underscores are read as spaces, because class names often have them ("with_mask") and BERT's vocabulary does not.
    """
    words = bare(phrase).replace("_", " ")
    return tuple(word_piece_tokenizer().encode(words, add_special_tokens=False).ids)


def split_phrases(prompt: str) -> list[str]:
    """The phrases of "cat . remote control .": only "." ends a phrase, and empty phrases are skipped."""
    return [phrase for part in prompt.split(".") if (phrase := part.strip())]


def tokenize(prompts: Sequence[Sequence[str]], max_tokens: int = 256) -> Prompt:
    """Tokenise one prompt per image.

    Each phrase is tokenised on its own, so a "." inside a phrase does not end it, and `word_pieces` treats underscores and
    punctuation around the phrase. Otherwise the tokens are those of the official caption "phrase . phrase .".

    Args:
        prompts: a list of phrases for each image.
        max_tokens: the model's limit, [CLS] and [SEP] included.

    Raises:
        TypeError: a prompt is a plain string, not a list of phrases.
        ValueError: a prompt without phrases, or longer than `max_tokens`.
    """
    return _table(prompt_rows(prompts), max_tokens)


def prompt_rows(prompts: Sequence[Sequence[str]]) -> list[PromptRow]:
    """The tokens of prompts, before `tokenize` checks their number and puts them into tensors.

    Raises:
        TypeError, ValueError: a prompt that is no list, or has no phrases.
    """
    cls, stop, sep = map(piece_id, ("[CLS]", ".", "[SEP]"))
    rows = []
    for number, phrases in enumerate(prompts):
        if isinstance(phrases, str):
            raise TypeError(f"prompt {number}: expected a list of phrases, got the string {phrases!r}")
        if not phrases:
            raise ValueError(f"prompt {number} has no phrases; expected at least one")
        row = [(cls, NO_PHRASE, 0, 0)]
        for index, phrase in enumerate(phrases):
            pieces = word_pieces(phrase)
            row += [(piece, index, index + 1, place) for place, piece in enumerate(pieces)]
            row.append((stop, NO_PHRASE, index + 1, len(pieces)))
        row.append((sep, NO_PHRASE, len(phrases) + 1, 0))
        rows.append(row)
    return rows


def tokenize_captions(captions: Sequence[str], max_tokens: int = 256) -> Prompt:
    """Tokenise captions as the official code does: every "." and "?" ends a block.

    `phrases` numbers the blocks between delimiters from 0. Tokens after the last delimiter form no block: each of them
    attends to itself only, as in the official code.

    Raises:
        ValueError: a caption of more than `max_tokens` tokens; the official code cuts it off.
    """
    vocabulary = tokenizer()
    delimiters = set(map(piece_id, OFFICIAL_DELIMITERS))
    rows = []
    for caption in captions:
        ids = vocabulary(caption)["input_ids"]
        row, start, block = [], 0, 0
        for end, piece in enumerate(ids):
            if piece in delimiters:
                at_end = end in (0, len(ids) - 1)  # [CLS] or the closing [SEP]
                for place, token in enumerate(ids[start : end + 1]):
                    inside = not at_end and token not in delimiters
                    # [SEP] does not close an open block: the tokens of such a block stay alone
                    number = len(row) + len(ids) if at_end else block
                    row.append((token, block - 1 if inside else NO_PHRASE, number, 0 if at_end else place))
                start, block = end + 1, block + 1
        rows.append(row)
    return _table(rows, max_tokens)


def chunk(phrases: Sequence[tuple[int, ...]], max_tokens: int = 256) -> list[list[int]]:
    """Deal phrases into as few prompts as their order allows, each of at most `max_tokens` tokens.

    Args:
        phrases: the word pieces of each phrase.

    Returns:
        For each prompt, indices into `phrases`, in increasing order.

    Raises:
        ValueError: a phrase does not fit into a prompt of its own.
    """
    chunks: list[list[int]] = []
    room = 0
    for index, pieces in enumerate(phrases):
        length = len(pieces) + 1  # the closing "."
        if length > max_tokens - 2:
            raise ValueError(f"a phrase has {len(pieces)} tokens; expected at most {max_tokens - 3}")
        if length > room:
            chunks.append([])
            room = max_tokens - 2  # [CLS] and [SEP]
        chunks[-1].append(index)
        room -= length
    return chunks


def _table(rows: list[PromptRow], max_tokens: int) -> Prompt:
    """Pad rows to one length."""
    import torch

    for number, row in enumerate(rows):
        if len(row) > max_tokens:
            raise ValueError(
                f"prompt {number} has {len(row)} tokens; expected at most {max_tokens}: use fewer or shorter phrases"
            )
    longest = max(map(len, rows), default=0)
    padding = (piece_id("[PAD]"), NO_PHRASE, -1, 0)
    table = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], dtype=torch.int64)  # (B, T, 4)
    return Prompt(*table.view(len(rows), longest, 4).unbind(-1))
