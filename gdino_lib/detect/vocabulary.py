"""Turn what a caller looks for into prompts that fit into the model, in a canonical order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from gdino_lib.messages import shortened
from gdino_lib.prompts import chunk, piece_id, split_phrases, word_pieces

UNKNOWN = "[UNK]"  # the word piece for any text that BERT's vocabulary lacks
NEGATIVE = -1  # stands for the name of a negative, which has none

Wordings: TypeAlias = Mapping[str, Sequence[str]]
"""{name: its wordings}, as in {"car": ["car", "sedan"]}."""
Phrases: TypeAlias = str | Sequence[str] | Wordings
"""A string "cat . remote control .", a list of phrases, or names with their wordings."""


@dataclass(frozen=True)
class Vocabulary:
    """What a caller looks for, ready for the model.

    Attributes:
        names: the labels of boxes: the caller's phrases, or the names that have wordings.
        phrases: what the model reads: the caller's phrases, or the wordings of all names, one name after the other; then
            the negatives.
        owners: for each of `phrases` the index of its name; -1 (`NEGATIVE`) for a negative.
        chunks: prompts of at most the model's number of tokens: distinct phrases in canonical order (that of their word
            pieces), so that the caller's order, letter case and repetitions change nothing.
        indices: for each chunk, the first index in `phrases` of each of its phrases.
    """

    names: tuple[str, ...]
    phrases: tuple[str, ...]
    owners: tuple[int, ...]
    chunks: tuple[tuple[str, ...], ...]
    indices: tuple[tuple[int, ...], ...]

    @classmethod
    def build(cls, phrases: Phrases, max_tokens: int, negatives: str | Sequence[str] = ()) -> Vocabulary:
        """Read phrases or names with wordings, and negatives: a list, or one string.

        Raises:
            TypeError: `phrases` or `negatives` of another type; a phrase or a name that is no string.
            ValueError: no phrases, an empty phrase or name, a phrase that is too long, a name without wordings, or a negative
                that is also looked for.

        Warns:
            UserWarning: a phrase without a word that the model knows.
        """
        wanted = _wanted(phrases)
        unwanted = _as_list("negatives", negatives)
        entries = [*wanted, *(_Phrase(text, NEGATIVE, f"negative {n}") for n, text in enumerate(unwanted))]
        if not wanted:
            raise ValueError("no phrases; expected at least one")
        first = _first_indices(entries)
        canonical = sorted(first)
        try:
            chunks = chunk(canonical, max_tokens)
        except ValueError:
            longest = max(entries, key=lambda entry: len(word_pieces(entry.text)))
            raise ValueError(
                f"{longest.place}, {shortened(longest.text)!r}, has {len(word_pieces(longest.text))} tokens; "
                f"expected at most {max_tokens - 3}"
            ) from None
        indices = tuple(tuple(first[canonical[number]] for number in members) for members in chunks)
        return cls(
            tuple(phrases) if isinstance(phrases, Mapping) else tuple(entry.text for entry in wanted),
            tuple(entry.text for entry in entries),
            tuple(entry.owner for entry in entries),
            tuple(tuple(entries[n].text for n in members) for members in indices),
            indices,
        )


def build_vocabularies(
    phrases: Phrases | Sequence[Phrases],
    max_tokens: int,
    negatives: str | Sequence[str] = (),
    images: int | None = None,
) -> list[Vocabulary]:
    """One vocabulary for each image of a call; images that share their phrases share it.

    Args:
        phrases: as a call takes them; a list of them, one per image, goes with a list of images.
        images: the length of the list of images; None: one image.

    Raises:
        TypeError, ValueError: as `Vocabulary.build`, or other than one list of phrases per image.
    """
    nested = isinstance(phrases, list | tuple) and any(not isinstance(phrase, str) for phrase in phrases)
    if not nested:
        shared = cast("Phrases", phrases)
        return [Vocabulary.build(shared, max_tokens, negatives)] * (1 if images is None else images)
    if images is None or len(phrases) != images:
        lists = "strings: lists go with a list of images"
        wanted = lists if images is None else f"{images} lists of phrases, one per image"
        raise ValueError(f"phrases: expected {wanted}, got {len(phrases)} entries that are not all strings")
    return [Vocabulary.build(own, max_tokens, negatives) for own in cast("Sequence[Phrases]", phrases)]


@dataclass(frozen=True)
class _Phrase:
    """A phrase to read; `owner` as in `Vocabulary.owners`, `place` says in messages where it stands."""

    text: str
    owner: int
    place: str


def _wanted(phrases: Phrases) -> list[_Phrase]:
    if not isinstance(phrases, Mapping):
        texts = _as_list("phrases", phrases)
        return [_Phrase(text, number, f"phrase {number}") for number, text in enumerate(texts)]
    result = []
    for number, (name, wordings) in enumerate(phrases.items()):
        if not isinstance(name, str):
            raise TypeError(f"name {number}: expected a string, got {type(name).__name__}")
        if not name.strip():
            raise ValueError(f"name {number} is empty; expected words")
        owner = shortened(name)
        if not isinstance(wordings, list | tuple):
            raise TypeError(f"wordings of {owner!r}: expected a list of strings, got {type(wordings).__name__}")
        if not wordings:
            raise ValueError(f"wordings of {owner!r}: expected at least one, got none")
        result += [_Phrase(text, number, f"wording {n} of {owner!r}") for n, text in enumerate(wordings)]
    return result


def _as_list(name: str, phrases: str | Sequence[str]) -> Sequence[str]:
    if isinstance(phrases, str):
        return split_phrases(phrases)
    if not isinstance(phrases, list | tuple):
        mapping = ", a list, or a mapping of names to wordings" if name == "phrases" else " or a list"
        raise TypeError(f"{name}: expected a string{mapping}, got {type(phrases).__name__}")
    return phrases


def _first_indices(entries: Sequence[_Phrase]) -> dict[tuple[int, ...], int]:
    """{word pieces: first index} of the distinct phrases; refuses phrases that cannot be used."""
    for entry in entries:
        if not isinstance(entry.text, str):
            raise TypeError(f"{entry.place}: expected a string, got {type(entry.text).__name__}")
        if not entry.text.strip():
            raise ValueError(f"{entry.place} is empty; expected words")
    first: dict[tuple[int, ...], int] = {}
    for number, entry in enumerate(entries):
        pieces = word_pieces(entry.text)
        if not set(pieces) - {piece_id(UNKNOWN)}:
            message = (
                f"{entry.place}, {shortened(entry.text)!r}, has no word that the model knows: its boxes mean nothing"
            )
            warnings.warn(message, stacklevel=_stacklevel_of_caller())
        if not pieces:  # a phrase of control characters, which is never found
            continue
        same = entries[first.setdefault(pieces, number)]
        if entry.owner == NEGATIVE and same.owner != NEGATIVE:
            raise ValueError(
                f"{entry.place}, {shortened(entry.text)!r}, is also looked for, as {same.place}; expected another phrase"
            )
    return first


def _stacklevel_of_caller() -> int:
    """The `stacklevel` with which a warning given here names the line that called this package."""
    package = __name__.split(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
