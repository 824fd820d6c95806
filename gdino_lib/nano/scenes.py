"""Pictogram scenes: an endless open-set data set, easy enough to learn on a CPU.

A scene depends only on a seed and its number, not on the scenes drawn before it. So training needs no files, and any process
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
from data_prep.atomic import atomic_folder, read_manifest, write_manifest
from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.records import Box
from gdino_lib.nano.backgrounds import draw_background
from gdino_lib.nano.pictograms import ATTRIBUTION, Pictogram
from gdino_lib.nano.sprites import draw_sprite

SOLID = 64  # alpha, 0..255; a pixel with at least this alpha belongs to a thing
SMALLEST = 24  # pixels, least longer side of a drawing before it is stretched and turned
VISIBLE = 0.6  # least share of a thing that neither the border nor other things hide
REPEATED = 0.15  # probability that a thing repeats one that the scene already shows
TRIES = 8  # random places to try before a thing is left out
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


class Scene(NamedTuple):
    """A picture and what it shows.

    Attributes:
        image: RGB.
        record: its labels are the pictograms' names. Its boxes are integers, tight around the part of a thing that lies
            inside the image, including pixels that other things hide.
        masks: bool [n, height, width], True at the pixels of the thing that each box encloses.
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

    The things vary in size, proportions, angle and colour, as far as their names allow; some are mirrored or cast a shadow.
    They may overlap or be cut off by the border, but at least the share `VISIBLE` of each stays visible. Background, blur,
    noise and brightness vary.

    Args:
        index: number of the scene; it also names the record's file.
        seed: of the sequence of scenes.
        size: side, or (width, height), in pixels, at least 64.
        things: the things to choose from.
        cum_weights: cumulative weights of the things, as in `random.choices`; None: all are equally likely.
        most: the number of things is drawn from 1..most; things that find no place are left out.
        own: probability that an emoji is drawn by OpenMoji's font if other icon sets have drawn it, too, 0..1.
        repeated: probability that a thing repeats one that the scene already shows, 0..1.

    Raises:
        ValueError: a number is out of range, `things` is empty, or a package of the extra `scenes` is not installed.
    """
    width, height = _width_and_height(size)
    if min(width, height) < 64 or most < 1 or not things:
        raise ValueError(
            f"expected sides of at least 64 pixels, most at least 1 and a thing to choose from, "
            f"got {width} x {height}, most {most}, {len(things)} things"
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
        side = round(SMALLEST * (largest / SMALLEST) ** rng.random() ** 0.7)  # the exponent makes small things rarer
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

    A hidden file, `data_prep.atomic.MANIFEST`, lists the files for a later `overwrite`.

    Args:
        folder: it appears under its name only when everything is written.
        count: number of scenes.
        things: see `draw_scene`.
        annotations: format of the annotations, one of `WRITERS`.
        seed: the same `seed`, `size`, `things` and `most` give the same pictures.
        size, most: see `draw_scene`.
        overwrite: replace earlier scenes in `folder`, but no other files.

    Returns:
        The records; the categories are the names of all `things`.

    Raises:
        FileExistsError: `folder` is not empty and `overwrite` is off, or it holds files that this function did not write.
        ValueError: the format is unknown, `count` is below 1, or `draw_scene` refuses its arguments.
    """
    if annotations not in WRITERS or count < 1:
        raise ValueError(
            f"expected one of the formats {', '.join(WRITERS)} and a count of at least 1, got {annotations!r}, {count}"
        )
    records = []
    with atomic_folder(folder, overwrite, read_manifest(folder)) as target:
        (target / "images").mkdir()
        for index in tqdm(range(count), desc="drawing", unit=" scenes", delay=1, disable=None):
            scene = draw_scene(index, seed=seed, size=size, things=things, most=most)
            scene.image.save(target / "images" / scene.record.file_name)
            records.append(scene.record)
        dataset = Dataset(tuple(records), tuple(thing.name for thing in things))
        WRITERS[annotations](dataset, target)
        (target / "LICENSE.txt").write_text(LICENCE, encoding="utf-8")
        write_manifest(target)
    return dataset


class Canvas:
    """A scene under construction.

    Attributes:
        image: the background with the things drawn so far.
        things: in the order in which they were drawn.
        masks: for each thing bool [height, width], True at its pixels.
        visible: the same, but False where later things hide it.
    """

    def __init__(self, background: Image.Image) -> None:
        self.image = background
        self.things: list[Pictogram] = []
        self.masks: list[np.ndarray] = []
        self.visible: list[np.ndarray] = []

    def place(self, rng: random.Random, thing: Pictogram, sprite: Image.Image) -> None:
        """Draw a thing where it and all others stay visible by at least `VISIBLE`; after `TRIES` places, leave it out."""
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
    """Width and height in pixels from a side or a pair.

    Raises:
        ValueError: `size` is neither an integer nor a pair of integers.
    """
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or [type(side) for side in sides] != [int, int]:
        raise ValueError(f"size: expected a side in whole pixels, or (width, height), got {size!r}")
    return sides


def _choose_place(rng: random.Random, sprite: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """A random place for a sprite's upper left corner; one time in five, the border may cut the sprite off."""
    outside = 0.45 if rng.random() < 0.2 else 0.0
    left, top = (
        rng.randint(*sorted((round(-outside * length), round(room - (1 - outside) * length))))
        for length, room in zip(sprite, canvas, strict=True)
    )
    return left, top


def _on_canvas(solid: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A sprite's mask in the frame of the canvas, bool [height, width]."""
    mask = np.zeros((height, width), dtype=bool)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + solid.shape[1], width), min(top + solid.shape[0], height)
    mask[y1:y2, x1:x2] = solid[y1 - top : y2 - top, x1 - left : x2 - left]
    return mask


def _paste(rng: random.Random, image: Image.Image, sprite: Image.Image, left: int, top: int) -> None:
    """Draw a sprite; about a third of the sprites cast a shadow."""
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
    """The box x1, y1, x2, y2 in pixels that is tight around the True pixels; there must be at least one."""
    columns, rows = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _finish(rng: random.Random, image: Image.Image) -> Image.Image:
    """Vary brightness, blur and noise of the whole picture."""
    if rng.random() < 0.3:
        gain, offset = rng.uniform(0.7, 1.1), rng.uniform(-15, 25)
        image = image.point([min(max(round(value * gain + offset), 0), 255) for value in range(256)] * 3)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.35:
        image = ImageChops.add(image, _noise(rng, *image.size, rng.uniform(0.1, 0.5)), 1, -128)
    return image


def _noise(rng: random.Random, width: int, height: int, strength: float) -> Image.Image:
    """Grain around 128, cut from one large tile that is made once, because 200,000 random numbers per scene take too long."""
    tile = _noise_tile(640)
    x, y = rng.randint(0, max(640 - width, 0)), rng.randint(0, max(640 - height, 0))
    grain = Image.new("RGB", (width, height))
    for left, top in product(range(0, width, 640), range(0, height, 640)):  # large scenes repeat the tile
        grain.paste(tile.crop((x, y, min(x + width, 640), min(y + height, 640))), (left, top))
    return grain.point([round(128 + (value - 128) * strength) for value in range(256)] * 3)


@lru_cache(1)
def _noise_tile(side: int) -> Image.Image:
    values = np.frombuffer(random.Random("noise").randbytes(4 * 3 * side * side), dtype=np.uint8)
    return Image.fromarray(values.reshape(4, side, side, 3).mean(0).astype(np.uint8))  # a mean of four is nearly normal
