"""Pictogram scenes: an endless open-set data set that a CPU can learn from.

A scene is drawn from a seed and its number alone, whatever was drawn before it, so that training needs no files and any process
can draw any scene. See `gdino_lib.nano.pictograms` for the things, their names and the licence of the drawings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter
from tqdm import tqdm

from data_prep import Dataset, ImageRecord
from data_prep.atomic import atomic_folder
from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.records import Box
from gdino_lib.nano.backgrounds import draw_background
from gdino_lib.nano.pictograms import ATTRIBUTION, Pictogram
from gdino_lib.nano.sprites import draw_sprite

SOLID = 64  # alpha of 255 from which on a pixel belongs to a thing
SMALLEST = 24  # pixels of a thing's longer side
VISIBLE = 0.6  # share of a thing that neither the border nor other things hide
REPEATED = 0.15  # how often a thing is one that the scene shows already
TRIES = 8  # places to try before a thing is left out
LICENCE = f"""{ATTRIBUTION}
https://openmoji.org, https://creativecommons.org/licenses/by-sa/4.0/

Changes: the emojis were resized, turned, stretched, recoloured and put on backgrounds. These pictures have the same licence.
"""
WRITERS: dict[str, Callable[[Dataset, Path], object]] = {
    "voc": lambda dataset, folder: voc.write(dataset, folder / "annotations"),
    "coco": lambda dataset, folder: coco.write(dataset, folder / "annotations.json"),
    "odvg": lambda dataset, folder: odvg.write(dataset, folder / "annotations.jsonl"),
    "csv": lambda dataset, folder: csv_table.write(dataset, folder / "annotations.csv"),
}
WRITTEN = r"images/\d{6}\.png|annotations(/\d{6}\.xml|\.\w+|_label_map\.json)|LICENSE\.txt"


class Scene(NamedTuple):
    """A picture and what it shows.

    Attributes:
        image: RGB.
        record: labels are the pictograms' names; boxes are integers, tight around what of the thing lies inside the image,
            parts that other things hide included.
        masks: bool [n, height, width], the pixels that each box is tight around.
    """

    image: Image.Image
    record: ImageRecord
    masks: np.ndarray


def draw_scene(
    index: int,
    *,
    seed: int | str,
    size: int | tuple[int, int],
    things: Sequence[Pictogram],
    cum_weights: Sequence[float] | None = None,
    most: int = 8,
    own: float = 0.5,
    repeated: float = REPEATED,
) -> Scene:
    """Draw one scene of one to `most` things.

    They vary in size, proportion, angle, colour, shadow and reflection, as far as their names allow; they may overlap and be
    cut off by the border, but `VISIBLE` of each stays in sight. Backgrounds are plain, gradients, textures, clutter and crops
    of photographs; blur, noise and light vary.

    Args:
        index: number of the scene; file name of its record.
        seed: of the sequence of scenes.
        size: side, or (width, height), in pixels, at least 64.
        things: to choose from.
        cum_weights: how often each is chosen, relative to the others and summed up, as in `random.choices`; None: all alike.
        own: how often an emoji that others have drawn, too, is drawn by its own font, 0..1.
        repeated: how often a thing is one that the scene shows already, 0..1.

    Raises:
        ValueError: numbers out of range, nothing to choose from, a package of the extra `scenes` is missing.
    """
    width, height = _width_and_height(size)
    if min(width, height) < 64 or most < 1 or not things:
        raise ValueError(
            f"expected sides of at least 64 pixels, one thing or more of at least one name, "
            f"got {width} x {height}, {most}, {len(things)} names"
        )
    rng = random.Random(f"{seed}/{index}")
    canvas = Canvas(draw_background(rng, width, height))
    count = rng.randint(1, most)
    for _ in range(count):
        thing = (
            rng.choice(canvas.things)
            if canvas.things and rng.random() < repeated
            else rng.choices(things, cum_weights=cum_weights)[0]
        )
        largest = max(0.75 * min(width, height) / math.sqrt(count), SMALLEST)
        side = round(SMALLEST * (largest / SMALLEST) ** rng.random() ** 0.7)  # few are tiny
        canvas.place(rng, thing, draw_sprite(rng, thing, side, own))
    image = _finish(rng, canvas.image)
    boxes = tuple(Box(thing.name, *bounds_of(mask)) for thing, mask in zip(canvas.things, canvas.masks, strict=True))
    record = ImageRecord(f"{index:06d}.png", width, height, boxes)
    masks = np.stack(canvas.masks) if canvas.masks else np.zeros((0, height, width), dtype=bool)
    return Scene(image, record, masks)


def write_scenes(
    folder: Path | str,
    count: int,
    *,
    things: Sequence[Pictogram],
    annotations: str = "coco",
    seed: int | str = 0,
    size: int | tuple[int, int] = 256,
    most: int = 8,
    overwrite: bool = False,
) -> Dataset:
    """Write scenes as a data set: `images/`, and `annotations/` (VOC), `annotations.json` (COCO), `.jsonl` (ODVG) or `.csv`.

    Args:
        folder: appears when all is written, or not at all.
        count: of scenes; the same `seed`, `size`, `things` and `most` give the same pictures.
        annotations: their format, one of `WRITERS`.
        overwrite: replace earlier scenes in `folder`, and nothing else.

    Returns:
        The records; the categories are the names of all `things`.

    Raises:
        FileExistsError: `folder` holds something, and `overwrite` is off, or a file that is none of ours.
        ValueError: another format, no scenes, or as `draw_scene`.
    """
    if annotations not in WRITERS or count < 1:
        raise ValueError(
            f"expected a format of {', '.join(WRITERS)} and a count of at least 1, got {annotations!r}, {count}"
        )
    records = []
    with atomic_folder(folder, overwrite, WRITTEN) as target:
        (target / "images").mkdir()
        for index in tqdm(range(count), desc="drawing", unit=" scenes", delay=1, disable=None):
            scene = draw_scene(index, seed=seed, size=size, things=things, most=most)
            scene.image.save(target / "images" / scene.record.file_name)
            records.append(scene.record)
        dataset = Dataset(tuple(records), tuple(thing.name for thing in things))
        WRITERS[annotations](dataset, target)
        (target / "LICENSE.txt").write_text(LICENCE, encoding="utf-8")
    return dataset


class Canvas:
    """A scene in the making.

    Attributes:
        image: background, and the things drawn so far.
        things: in the order of drawing.
        masks: bool [height, width] of each, its pixels inside the image.
        visible: the same, without what later things hide.
    """

    def __init__(self, background: Image.Image) -> None:
        self.image = background
        self.things: list[Pictogram] = []
        self.masks: list[np.ndarray] = []
        self.visible: list[np.ndarray] = []

    def place(self, rng: random.Random, thing: Pictogram, sprite: Image.Image) -> None:
        """Draw a thing where `VISIBLE` of it and of all others stays in sight, or leave it out after `TRIES` places."""
        solid = np.asarray(sprite.getchannel("A")) >= SOLID
        for _ in range(TRIES):
            left, top = _choose_place(rng, sprite.size, self.image.size)
            mask = _on_canvas(solid, left, top, *self.image.size)
            visible = [seen & ~mask for seen in self.visible]
            in_sight = all(s.sum() >= VISIBLE * m.sum() for s, m in zip(visible, self.masks, strict=True))
            if in_sight and mask.sum() >= max(VISIBLE * solid.sum(), 1):
                _paste(rng, self.image, sprite, left, top)
                self.things.append(thing)
                self.masks.append(mask)
                self.visible = [*visible, mask]
                return


def _width_and_height(size: int | tuple[int, int]) -> tuple[int, int]:
    """Two sides from one or two.

    Raises:
        ValueError: neither a whole number nor two of them.
    """
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or [type(side) for side in sides] != [int, int]:
        raise ValueError(f"size: expected a side in whole pixels, or (width, height), got {size!r}")
    return sides


def _choose_place(rng: random.Random, sprite: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Left and top; one time in five the border may cut the thing off."""
    outside = 0.45 if rng.random() < 0.2 else 0.0
    left, top = (
        rng.randint(*sorted((round(-outside * length), round(room - (1 - outside) * length))))
        for length, room in zip(sprite, canvas, strict=True)
    )
    return left, top


def _on_canvas(solid: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """The part of a mask that lies inside, bool [height, width]."""
    mask = np.zeros((height, width), dtype=bool)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + solid.shape[1], width), min(top + solid.shape[0], height)
    mask[y1:y2, x1:x2] = solid[y1 - top : y2 - top, x1 - left : x2 - left]
    return mask


def _paste(rng: random.Random, image: Image.Image, sprite: Image.Image, left: int, top: int) -> None:
    """Draw a thing, some with a shadow."""
    alpha = sprite.getchannel("A")
    if rng.random() < 0.35:
        reach = max(sprite.size)
        blur = rng.uniform(0.01, 0.05) * reach
        margin = math.ceil(2 * blur)
        shadow = Image.new("L", (sprite.width + 2 * margin, sprite.height + 2 * margin))
        strength = rng.uniform(0.25, 0.6)
        shadow.paste(alpha.point([round(value * strength) for value in range(256)]), (margin, margin))
        shadow = shadow.filter(ImageFilter.BoxBlur(blur))
        x, y = (round(rng.uniform(-0.08, 0.08) * reach) for _ in range(2))
        image.paste((0, 0, 0), (left + x - margin, top + y - margin), shadow)
    image.paste(sprite, (left, top), sprite)


def bounds_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around the True pixels."""
    columns, rows = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _finish(rng: random.Random, image: Image.Image) -> Image.Image:
    """Light, blur and noise of the whole picture."""
    if rng.random() < 0.3:
        gain, offset = rng.uniform(0.7, 1.1), rng.uniform(-15, 25)
        image = image.point([min(max(round(value * gain + offset), 0), 255) for value in range(256)] * 3)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.35:
        image = ImageChops.add(image, _noise(rng, *image.size, rng.uniform(0.1, 0.5)), 1, -128)
    return image


def _noise(rng: random.Random, width: int, height: int, strength: float) -> Image.Image:
    """Grain around 128: a piece of one large tile, so that a scene need not draw 200,000 numbers."""
    tile = _noise_tile(640)
    x, y = rng.randint(0, max(640 - width, 0)), rng.randint(0, max(640 - height, 0))
    grain = Image.new("RGB", (width, height))
    for left, top in product(range(0, width, 640), range(0, height, 640)):  # large scenes repeat it
        grain.paste(tile.crop((x, y, min(x + width, 640), min(y + height, 640))), (left, top))
    return grain.point([round(128 + (value - 128) * strength) for value in range(256)] * 3)


@lru_cache(1)
def _noise_tile(side: int) -> Image.Image:
    values = np.frombuffer(random.Random("noise").randbytes(4 * 3 * side * side), dtype=np.uint8)
    return Image.fromarray(values.reshape(4, side, side, 3).mean(0).astype(np.uint8))  # of four: nearly normal
