"""The rule that holds things out from training, and finds their near-twins among the other things."""

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
SIMILARITY = 0.96  # two things are near-twins if the cosine of their drawings exceeds this
FAMILY = 12  # a word in the wordings of more things than this names a category (hand, heart), not a thing (cat)


def choose_unseen(
    count: int = UNSEEN_COUNT, seed: int = 0, similarity: float = SIMILARITY
) -> dict[str, tuple[str, ...]]:
    """Choose the unseen things: {name: its near-twins, without those that are unseen themselves}.

    Emojis of a kind (fruit, animals, vehicles, faces) have neighbouring code points. Therefore the things are sorted by their
    first character and cut into `count` runs of equal length, and one thing is drawn from each run. A thing with more than
    `FAMILY` near-twins is chosen only if its run holds no other, because training loses all near-twins.

    The near-twins of a thing are all things with its main word in one of their wordings: for "cat", every thing that is called
    some cat. A main word in the wordings of more than `FAMILY` things, such as "hand", is too common for this rule. Then only
    things for which `say_the_same` holds are near-twins: "hand" and "waving hand", but not "waving hand" and "raised hand".
    Things that look nearly the same are near-twins, too.

    Args:
        count: number of unseen things.
        seed: of the draw.
        similarity: two drawings whose cosine exceeds this look nearly the same, 0..1.
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
    """The text of `pictograms_unseen.txt` for a choice of `choose_unseen`."""
    head = (
        "# Names held out from training, then after the colon their near-twins, which training does not show either.\n"
        "# Made by gdino_lib.nano.unseen.choose_unseen; any change invalidates the figures measured with trained models.\n"
    )
    return head + "".join(f"{name}: {', '.join(twins)}".strip() + "\n" for name, twins in chosen.items())


def _similar_drawings(things: Sequence[Pictogram], similarity: float) -> list[tuple[str, str]]:
    """Pairs of things with drawings that look nearly the same on white paper, compared as images of 24 x 24 pixels."""
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
