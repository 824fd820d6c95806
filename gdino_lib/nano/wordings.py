"""Compare the wordings of two things, to tell whether a prompt for one thing may also name the other."""

from __future__ import annotations

import re
from functools import lru_cache

from gdino_lib.nano.pictograms import Pictogram

# words that do not name a thing by themselves
GENERIC = frozenset(
    """a an and at for in of on or over the to under with without face person people man men woman women adult symbol sign
    button mark emblem small large medium big little heavy high low facing left right up down s no open closed first last
    black white red orange yellow green blue purple brown pink grey light dark""".split()  # noqa: SIM905
)
BEFORE = re.compile(r" (?:with|without|of|in|on|at|for|under|over|behind|and|facing) ")


def say_the_same(one: Pictogram, other: Pictogram) -> bool:
    """Whether two things have wordings with the same meaning, apart from colours, sizes and other `GENERIC` words.

    All `naming_words` of one wording must occur in the other. This holds for "cat" and "black cat" and for "red circle" and
    "blue circle", but not for "waving hand" and "raised hand".
    """
    return any(
        (set(words) <= set(others) or set(others) <= set(words)) and (words[0] in others or others[0] in words)
        for words in named_words(one)
        for others in named_words(other)
    )


def may_name(one: Pictogram, other: Pictogram) -> bool:
    """Whether all words of a wording of one thing occur in a wording of the other; then neither is absent beside the other.

    This holds for "cat" and "black cat", but not for "red circle" and "blue circle".
    """
    return any(words <= others or others <= words for words in _word_sets(one) for others in _word_sets(other))


def subjects(thing: Pictogram) -> set[str]:
    """The main words of a thing's wordings: "cat" for "cat face with wry smile"."""
    return {words[0] for words in named_words(thing)}


@lru_cache(None)
def named_words(thing: Pictogram) -> tuple[tuple[str, ...], ...]:
    """`naming_words` of each of a thing's wordings, without empty ones."""
    return tuple(words for wording in thing.wordings if (words := naming_words(wording)))


@lru_cache(None)
def _word_sets(thing: Pictogram) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(re.findall(r"[^\W_]+", wording.lower())) for wording in thing.wordings)


def naming_words(wording: str) -> tuple[str, ...]:
    """The words of a wording that name things, the main word first; a plural loses its "s".

    The main word is the last word before "with", "of" and the like: "cat face with wry smile" -> cat, wry, smile.
    """
    subject, rest = (_own_words(part) for part in [*BEFORE.split(wording, maxsplit=1), ""][:2])
    return (*subject[-1:], *subject[:-1], *rest)


def _own_words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", text.lower().replace("o'clock", "oclock").replace("'s", ""))
    return [re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", word) for word in words if word not in GENERIC]
