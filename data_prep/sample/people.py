"""The people in the pictures: the looks and the place of each person."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from data_prep.sample.drawing import Color

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
SHARES = (0.78, 0.17, 0.05)  # shares of the three classes; in the real set they are 0.79, 0.18 and 0.03
PICTURES = 22
SIZES = ((400, 300), (400, 300), (480, 320), (360, 360), (320, 400), (500, 334))

SKINS: tuple[Color, ...] = (
    (255, 224, 196), (246, 205, 170), (233, 184, 142), (214, 160, 115),
    (184, 126, 84), (150, 98, 62), (116, 74, 48), (88, 56, 38),
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (43, 33, 30), (66, 44, 33), (104, 66, 40), (150, 98, 52),
    (214, 172, 98), (176, 72, 40), (166, 166, 170), (30, 34, 52),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167),
    (230, 159, 0), (86, 180, 233), (92, 84, 148), (240, 236, 224),
    (74, 85, 104),
)  # fmt: skip
MASKS: tuple[Color, ...] = (
    (158, 212, 232), (158, 212, 232), (246, 248, 250), (246, 248, 250),
    (168, 218, 190), (58, 62, 72), (244, 190, 200), (250, 214, 130),
)  # fmt: skip
STYLES = ("short", "short", "side", "long", "long", "bun", "curly", "bald", "scarf", "cap")

LabelledBox = tuple[str, tuple[int, int, int, int]]


@dataclass(frozen=True)
class Person:
    """One cartoon person; (`x`, `y`) is the centre of the face, `radius` half its height, in pixels of the final picture."""

    label: str
    x: float
    y: float
    radius: float
    skin: Color
    hair: Color
    style: str
    clothes: Color
    mask: Color
    on_chin: bool  # where a mask is worn incorrectly: True on the chin, False below the nose
    glasses: bool
    gaze: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) of the face, from ear to ear and from hairline to chin."""
        wide, up, down = 0.88 * self.radius, 0.92 * self.radius, 1.04 * self.radius
        return round(self.x - wide), round(self.y - up), round(self.x + wide), round(self.y + down)


@dataclass(frozen=True)
class Scene:
    """One picture to draw.

    Attributes:
        stem: name of the picture file without its suffix.
        width, height: size of the final picture in pixels.
        people: the people, from far to near.
    """

    stem: str
    width: int
    height: int
    people: tuple[Person, ...]

    @property
    def boxes(self) -> list[LabelledBox]:
        """(class, (x1, y1, x2, y2)) of each person's face."""
        return [(person.label, person.box) for person in self.people]


def plan_scenes(seed: int, at_the_edge: Collection[int]) -> list[Scene]:
    """Plan all pictures; in each picture with an index in `at_the_edge`, one face extends beyond the picture."""
    rng = random.Random(f"{seed}/scenes")
    crowds = [rng.choice((2, 3, 3, 4, 4, 5, 6, 7, 9)) for _ in range(PICTURES)]
    total = sum(crowds)
    wrong, bare = max(4, round(SHARES[2] * total)), round(SHARES[1] * total)
    labels = [CLASSES[2]] * wrong + [CLASSES[1]] * bare + [CLASSES[0]] * (total - wrong - bare)
    rng.shuffle(labels)
    scenes = []
    for index, crowd in enumerate(crowds):
        wanted, labels = labels[:crowd], labels[crowd:]
        stem = f"cartoon{index:02d}"
        scenes.append(_place_people(stem, wanted, random.Random(f"{seed}/{stem}"), index in at_the_edge))
    return scenes


def _place_people(stem: str, labels: Sequence[str], rng: random.Random, at_the_edge: bool) -> Scene:
    """Place one face per label, near faces large and far faces small, so that no face hides another."""
    width, height = rng.choice(SIZES)
    radius = 0.34 * math.sqrt(0.55 * width * height / (len(labels) + 0.6))
    radius = min(radius, 0.19 * height)
    places: list[tuple[float, float, float]] = []
    if at_the_edge:  # a face that extends beyond the right edge
        places.append((width - 0.45 * radius, 0.56 * height, 1.1 * radius))
    while len(places) < len(labels):
        for _ in range(400):
            depth = rng.random()  # 0 is far away, 1 is close
            r = radius * (0.62 + 0.62 * depth) * rng.uniform(0.94, 1.06)
            x, y = rng.uniform(1.25 * r, width - 1.25 * r), height * (0.36 + 0.3 * depth) + rng.uniform(-4, 4)
            inside = y - 1.35 * r > 0 and y + 1.2 * r < height
            if inside and all(_is_apart((x, y, r), other) for other in places):
                places.append((x, y, r))
                break
        else:
            radius *= 0.93
    places.sort(key=lambda place: place[1])  # far people first
    clothes = rng.sample(CLOTHES, len(labels))
    people = [_person(label, *place, cloth, rng) for label, place, cloth in zip(labels, places, clothes, strict=True)]
    return Scene(stem, width, height, tuple(people))


def _is_apart(first: tuple[float, float, float], second: tuple[float, float, float]) -> bool:
    """True if two faces, each (x, y, radius), do not overlap."""
    reach = first[2] + second[2]
    return ((first[0] - second[0]) / (1.06 * reach)) ** 2 + ((first[1] - second[1]) / (1.3 * reach)) ** 2 > 1


def _person(label: str, x: float, y: float, radius: float, clothes: Color, rng: random.Random) -> Person:
    skin = rng.randrange(len(SKINS))
    return Person(
        label, x, y, radius,
        skin=SKINS[skin],
        hair=rng.choice(HAIRS if skin < 4 else (HAIRS[0], HAIRS[0], HAIRS[7], HAIRS[6])),
        style=rng.choice(STYLES),
        clothes=clothes,
        mask=rng.choice(MASKS),
        on_chin=rng.random() < 0.4,
        glasses=rng.random() < 0.22,
        gaze=rng.uniform(-0.05, 0.05),
    )  # fmt: skip
