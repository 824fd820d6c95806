"""Meanings of the names in the photographs' annotations: synonyms, and broader words that are true of the thing, too."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from gdino_lib.prompts import word_pieces

FILE = "photograph_names.txt"


@dataclass(frozen=True)
class Meaning:
    """The meaning of one name.

    Attributes:
        name: as the annotations spell it.
        synonyms: other words for exactly the same things.
        hypernyms: broader words that are also true of these things ("dog" and "animal" for "chihuahua").
    """

    name: str
    synonyms: tuple[str, ...] = ()
    hypernyms: tuple[str, ...] = ()

    @property
    def wordings(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return self.name, *self.synonyms


class Names:
    """The meanings of all names; they tell which two names may be true of the same thing.

    Args:
        meanings: one for each name. A name without a meaning has no synonyms and no hypernyms.
    """

    def __init__(self, meanings: Iterable[Meaning]) -> None:
        self.meanings: Mapping[str, Meaning] = {meaning.name: meaning for meaning in meanings}
        self._below: dict[str, frozenset[str]] = {}

    @cached_property
    def _answers(self) -> dict[str, frozenset[tuple[int, ...]]]:
        """{name: word pieces of every phrase that is true of a thing with this name}."""
        return {name: self._texts(meaning) for name, meaning in self.meanings.items()}

    @staticmethod
    def _texts(meaning: Meaning) -> frozenset[tuple[int, ...]]:
        return frozenset(word_pieces(text) for text in (*meaning.wordings, *meaning.hypernyms))

    def __getitem__(self, name: str) -> Meaning:
        return self.meanings.get(name) or Meaning(name)

    def answers(self, name: str) -> frozenset[tuple[int, ...]]:
        """The word pieces of every phrase that is true of a thing with this name."""
        return self._answers.get(name) or self._texts(self[name])

    def related(self, one: str, other: str) -> bool:
        """Whether a thing with one name may be called by the other: "dog" and "chihuahua", "sofa" and "couch"."""
        first, second = self[one], self[other]
        called = {word_pieces(text) for text in second.wordings}
        calls = {word_pieces(text) for text in first.wordings}
        return bool(called & self.answers(one) or calls & self.answers(other))

    def below(self, name: str) -> frozenset[str]:
        """The other names whose things are also called `name`: "chihuahua" for "dog", "couch" for "sofa"."""
        if name not in self._below:
            called = {word_pieces(text) for text in self[name].wordings}
            narrower = (other for other in self.meanings if other != name and called & self.answers(other))
            self._below[name] = frozenset(narrower)
        return self._below[name]

    def choose_wording(self, name: str, rng: random.Random) -> str:
        """The phrase for a thing in a training prompt: half of the time its name, otherwise one of its synonyms."""
        synonyms = self[name].synonyms
        return name if not synonyms or rng.random() < 0.5 else rng.choice(synonyms)


def read_names(path: Path | str | None = None) -> Names:
    """Read lines "name: synonym, synonym < hypernym, hypernym"; lines that begin with "#" are comments.

    Args:
        path: the file; None: `photograph_names.txt`, the names in the embedded model's photographs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has another form, or repeats a name; the message says which line.
    """
    source = files("gdino_lib.nano").joinpath(FILE) if path is None else Path(path)
    meanings: dict[str, Meaning] = {}
    for number, line in enumerate(source.read_text("utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, rest = line.partition(":")
        synonyms, _, hypernyms = rest.partition("<")
        if not colon or not name.strip() or name.strip() in meanings:
            raise ValueError(
                f"{source}, line {number}: expected 'name: synonyms < hypernyms', each name once, got {line!r}"
            )
        name = name.strip()
        meanings[name] = Meaning(name, _words(synonyms), _words(hypernyms))
    return Names(meanings.values())


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
