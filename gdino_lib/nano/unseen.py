"""The rule that chooses which things are never seen in training, and which of the others are their near-twins."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from gdino_lib.nano.drawings import draw_glyph
from gdino_lib.nano.pictograms import Pictogram, pictograms
from gdino_lib.nano.wordings import named_words, say_the_same

UNSEEN_COUNT = 200
SIMILARITY = 0.96  # drawings that overlap more are near-twins
FAMILY = 12  # more things than that are named after a category (hands, hearts), not after one thing (cat)


def choose_unseen(
    count: int = UNSEEN_COUNT, seed: int = 0, similarity: float = SIMILARITY
) -> dict[str, tuple[str, ...]]:
    """The rule behind the list: {name: its near-twins that are not on the list themselves}.

    Emojis of a kind have code points side by side: fruit, animals, vehicles, faces. So the things, in the order of their first
    characters, are cut into `count` runs of equal length, and one is drawn from each; one of more than `FAMILY` near-twins
    by name only where the run has no other, for all of them are lost to training.

    A near-twin is named after the same: of "cat" all that have a cat in their name. Where more than `FAMILY` things are, as
    for hands and hearts, only those that `say_the_same`: "waving hand" excludes "hand", "hand" would exclude "waving hand",
    but "waving hand" leaves "raised hand" alone. Or it looks nearly the same: drawings overlap by more than `similarity`, 0..1.
    """
    things = sorted(pictograms(), key=lambda pictogram: min(pictogram.drawings))
    family = Counter(word for thing in things for word in {word for words in named_words(thing) for word in words})

    def twins(one: Pictogram) -> set[str]:
        about = {words[0] for words in named_words(one) if family[words[0]] <= FAMILY}
        return {
            other.name
            for other in things
            if any(about.intersection(words) for words in named_words(other)) or say_the_same(one, other)
        }

    rng = random.Random(seed)
    chosen = {}
    for start, end in pairwise(round(number * len(things) / count) for number in range(count + 1)):
        run = rng.sample(things[start:end], end - start)
        found = {}
        for thing in run:
            found[thing.name] = twins(thing)
            if len(found[thing.name]) <= FAMILY:
                break
        name = min(found, key=lambda name: len(found[name]))
        chosen[name] = found[name]
    for one, other in _similar_drawings(things, similarity):
        if one in chosen:
            chosen[one].add(other)
    return {name: tuple(sorted(chosen[name] - chosen.keys())) for name in sorted(chosen)}


def listing(chosen: dict[str, tuple[str, ...]]) -> str:
    """The text of `pictograms_unseen.txt`."""
    head = (
        "# Names never seen in training, and after the colon their near-twins, which are not seen either.\n"
        "# Made by gdino_lib.nano.unseen.choose_unseen; a change makes trained models' figures meaningless.\n"
    )
    return head + "".join(f"{name}: {', '.join(twins)}".strip() + "\n" for name, twins in chosen.items())


def _similar_drawings(things: Sequence[Pictogram], similarity: float) -> list[tuple[str, str]]:
    """Pairs of things of which drawings look nearly the same, judged by the light that 24 x 24 pixels absorb."""
    shapes, owners = [], []
    for thing in things:
        for character in thing.drawings:
            glyph = draw_glyph(character, 64)
            side = max(glyph.size)
            square = Image.new("RGBA", (side, side), "white")
            square.alpha_composite(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
            small = square.convert("RGB").resize((24, 24), Image.Resampling.BOX)
            shape = 255.0 - np.asarray(small, dtype=np.float64).ravel()
            shapes.append(shape / np.linalg.norm(shape))
            owners.append(thing.name)
    overlaps = np.stack(shapes) @ np.stack(shapes).T
    return [(owners[one], owners[other]) for one, other in zip(*np.nonzero(overlaps > similarity), strict=True)]
