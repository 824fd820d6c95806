"""Turn a caller's phrases into prompts that fit into the model, in a canonical order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gdino_lib.messages import shortened
from gdino_lib.prompts import chunk, piece_id, split_phrases, word_pieces

UNKNOWN = "[UNK]"  # the word piece for any text that BERT's vocabulary lacks


@dataclass(frozen=True)
class Vocabulary:
    """A caller's phrases, ready for the model.

    Attributes:
        phrases: as given.
        chunks: prompts of at most the model's number of tokens: distinct phrases in canonical order (that of their word
            pieces), so that the caller's order, letter case and repetitions change nothing.
        indices: for each chunk, the first index in `phrases` of each of its phrases.
    """

    phrases: tuple[str, ...]
    chunks: tuple[tuple[str, ...], ...]
    indices: tuple[tuple[int, ...], ...]

    @classmethod
    def build(cls, phrases: str | Sequence[str], max_tokens: int) -> Vocabulary:
        """Read phrases: a list, or one string "cat . remote control .".

        Raises:
            TypeError: a phrase that is no string.
            ValueError: no phrases, an empty phrase, or one that is too long.

        Warns:
            UserWarning: a phrase without a word that the model knows.
        """
        phrases = tuple(split_phrases(phrases) if isinstance(phrases, str) else phrases)
        first = _first_indices(phrases)
        canonical = sorted(first)
        try:
            chunks = chunk(canonical, max_tokens)
        except ValueError:
            longest = max(range(len(phrases)), key=lambda number: len(word_pieces(phrases[number])))
            count = len(word_pieces(phrases[longest]))
            raise ValueError(
                f"phrase {longest}, {shortened(phrases[longest])!r}, has {count} tokens; "
                f"expected at most {max_tokens - 3}"
            ) from None
        indices = tuple(tuple(first[canonical[number]] for number in members) for members in chunks)
        return cls(phrases, tuple(tuple(phrases[n] for n in members) for members in indices), indices)


def vocabularies(phrases: Any, count: int, many: bool, max_tokens: int) -> list[Vocabulary]:
    """The vocabulary of each image, from the argument `phrases` of a detector.

    Args:
        phrases: phrases for all images, or a list of phrases for each image.
        count: number of images; many: whether the caller passed a list of images.

    Raises:
        TypeError, ValueError: phrases that cannot be used, see `Vocabulary.build`; not one list per image.
    """
    if not isinstance(phrases, str | list | tuple):
        raise TypeError(f"phrases: expected a string or a list, got {type(phrases).__name__}")
    nested = not isinstance(phrases, str) and any(not isinstance(phrase, str) for phrase in phrases)
    if not nested:
        return [Vocabulary.build(phrases, max_tokens)] * count
    if not many or len(phrases) != count:
        wanted = f"{count} lists of phrases, one per image" if many else "strings: lists go with a list of images"
        raise ValueError(f"phrases: expected {wanted}, got {len(phrases)} entries that are not all strings")
    return [Vocabulary.build(own, max_tokens) for own in phrases]


def _first_indices(phrases: tuple[str, ...]) -> dict[tuple[int, ...], int]:
    """{word pieces: first index} of the distinct phrases; refuses phrases that cannot be used."""
    for number, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            raise TypeError(f"phrase {number}: expected a string, got {type(phrase).__name__}")
        if not phrase.strip():
            raise ValueError(f"phrase {number} is empty; expected words")
    if not phrases:
        raise ValueError("no phrases; expected at least one")
    first: dict[tuple[int, ...], int] = {}
    for number, phrase in enumerate(phrases):
        pieces = word_pieces(phrase)
        if not set(pieces) - {piece_id(UNKNOWN)}:
            phrase = shortened(phrase)
            message = f"phrase {number}, {phrase!r}, has no word that the model knows: its boxes mean nothing"
            warnings.warn(message, stacklevel=_stacklevel_of_caller())
        if pieces:  # a phrase of control characters has no word pieces, and is never found
            first.setdefault(pieces, number)
    return first


def _stacklevel_of_caller() -> int:
    """The `stacklevel` with which a warning given here names the line that called this package."""
    package = __name__.split(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
