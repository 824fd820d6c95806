"""What the wordings of things have in common: which of two things a prompt for one may name, too."""

from __future__ import annotations

import re
from functools import lru_cache

from gdino_lib.nano.pictograms import Pictogram

# words that name no thing by themselves
GENERIC = frozenset(
    """a an and at for in of on or over the to under with without face person people man men woman women adult symbol sign
    button mark emblem small large medium big little heavy high low facing left right up down s no open closed first last
    black white red orange yellow green blue purple brown pink grey light dark""".split()  # noqa: SIM905
)
BEFORE = re.compile(r" (?:with|without|of|in|on|at|for|under|over|behind|and|facing) ")


def say_the_same(one: Pictogram, other: Pictogram) -> bool:
    """A wording of one says nothing that a wording of the other does not say, too, and one is about what the other names.

    So "cat" and "black cat", "red circle" and "blue circle"; but not "waving hand" and "raised hand".
    """
    return any(
        (set(words) <= set(others) or set(others) <= set(words)) and (words[0] in others or others[0] in words)
        for words in named_words(one)
        for others in named_words(other)
    )


def may_name(one: Pictogram, other: Pictogram) -> bool:
    """Each word of a wording of one is in a wording of the other, or the reverse: then neither is absent beside the other.

    So "cat" and "black cat"; but not "red circle" and "blue circle".
    """
    return any(words <= others or others <= words for words in _word_sets(one) for others in _word_sets(other))


def subjects(thing: Pictogram) -> set[str]:
    """What its wordings are about: of "cat face with wry smile", a cat."""
    return {words[0] for words in named_words(thing)}


@lru_cache(None)
def named_words(thing: Pictogram) -> tuple[tuple[str, ...], ...]:
    """The words of each wording, where there are any that name things."""
    return tuple(words for wording in thing.wordings if (words := naming_words(wording)))


@lru_cache(None)
def _word_sets(thing: Pictogram) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(re.findall(r"[^\W_]+", wording.lower())) for wording in thing.wordings)


def naming_words(wording: str) -> tuple[str, ...]:
    """The words that name things, singular as far as an "s" tells; first what it is about.

    That is the last word before "with", "of", ...: "cat face with wry smile" -> cat, wry, smile.
    """
    subject, rest = (_own_words(part) for part in [*BEFORE.split(wording, maxsplit=1), ""][:2])
    return (*subject[-1:], *subject[:-1], *rest)


def _own_words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", text.lower().replace("o'clock", "oclock").replace("'s", ""))
    return [re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", word) for word in words if word not in GENERIC]
