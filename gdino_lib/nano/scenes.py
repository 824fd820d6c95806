"""Pictogram scenes: an endless open-set data set that a CPU can learn from.

A scene is drawn from a seed and its number alone, whatever was drawn before it, so that training needs no files and any process
can draw any scene. See `gdino_lib.nano.pictograms` for the things, their names and the licence of the drawings.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from tqdm import tqdm

from data_prep import Dataset, ImageRecord
from data_prep.atomic import atomic_folder
from data_prep.formats import coco, csv_table, odvg, voc
from data_prep.records import Box
from gdino_lib.data.datasets import FRAME, EpochOrder, Sample, SeededDataset
from gdino_lib.data.targets import Target
from gdino_lib.images import prepare
from gdino_lib.nano.pictograms import ATTRIBUTION, SVG, Pictogram, draw, may_name, package_folder
from gdino_lib.prompts import word_pieces

SOLID = 64  # alpha of 255 from which on a pixel belongs to a thing
SMALLEST = 24  # pixels of a thing's longer side
VISIBLE = 0.6  # share of a thing that neither the border nor other things hide
REPEATED, CROWDED = 0.15, 0.7  # how often a thing is one that the scene shows already
TRIES = 8  # places to try before a thing is left out
LICENCE = f"""{ATTRIBUTION}
https://openmoji.org, https://creativecommons.org/licenses/by-sa/4.0/

Changes: the emojis were resized, turned, stretched, recoloured and put on backgrounds. These pictures have the same licence.
"""
# in the wheel of scikit-image, without its downloads, with no known restrictions; crops of them show parts, seldom things
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "rocket.jpg",
)
WRITERS: dict[str, Callable[[Dataset, Path], None]] = {
    "voc": lambda dataset, folder: voc.write(dataset, folder / "annotations"),
    "coco": lambda dataset, folder: coco.write(dataset, folder / "annotations.json"),
    "odvg": lambda dataset, folder: odvg.write(dataset, folder / "annotations.jsonl"),
    "csv": lambda dataset, folder: csv_table.write(dataset, folder / "annotations.csv"),
}
WRITTEN = r"images/\d{6}\.png|annotations(/\d{6}\.xml|\.\w+|_label_map\.json)|LICENSE\.txt"
LUMA = np.array([0.299, 0.587, 0.114])


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
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, Sequence) or [type(side) for side in sides] != [int, int]:
        raise ValueError(f"size: expected a side in whole pixels, or (width, height), got {size!r}")
    width, height = sides
    if min(width, height) < 64 or most < 1 or not things:
        raise ValueError(
            f"expected sides of at least 64 pixels, one thing or more of at least one name, "
            f"got {width} x {height}, {most}, {len(things)} names"
        )
    rng = random.Random(f"{seed}/{index}")
    image = _background(rng, width, height)
    placed: list[Pictogram] = []
    masks: list[np.ndarray] = []
    visible: list[np.ndarray] = []
    count = rng.randint(1, most)
    for _ in range(count):
        thing = (
            rng.choice(placed)
            if placed and rng.random() < repeated
            else rng.choices(things, cum_weights=cum_weights)[0]
        )
        largest = max(0.75 * min(width, height) / math.sqrt(count), SMALLEST)
        side = round(SMALLEST * (largest / SMALLEST) ** rng.random() ** 0.7)  # few are tiny
        sprite = _sprite(rng, thing, side, own)
        solid = np.asarray(sprite.getchannel("A")) >= SOLID
        for _ in range(TRIES):
            left, top = _place(rng, sprite.size, (width, height))
            mask = _on_canvas(solid, left, top, width, height)
            left_over = [seen & ~mask for seen in visible]
            in_sight = all(s.sum() >= VISIBLE * m.sum() for s, m in zip(left_over, masks, strict=True))
            if in_sight and mask.sum() >= max(VISIBLE * solid.sum(), 1):
                _paste(rng, image, sprite, left, top)
                placed.append(thing)
                masks.append(mask)
                visible = [*left_over, mask]
                break
    image = _finish(rng, image)
    boxes = tuple(Box(thing.name, *_bounds(mask)) for thing, mask in zip(placed, masks, strict=True))
    record = ImageRecord(f"{index:06d}.png", width, height, boxes)
    return Scene(image, record, np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))


class SceneDataset(SeededDataset):
    """Scenes to train on, drawn as they are asked for: what `GroundingDataset` gives, without files.

    A prompt calls each thing by one of its wordings, drawn anew for each scene, and names absent things, too; none whose name
    what is there may bear ("cat" beside a "black cat"). Each epoch has new scenes.

    Args:
        things: to learn, such as `pictograms.seen()`.
        weights: how often each is shown or named, relative to the others; None: all alike.
        count: scenes in an epoch.
        batch_size: of the loader: all scenes of a batch have the same size.
        sizes: sides, or (width, height), in pixels, to draw a batch's from.
        negatives: at most so many absent things in a prompt; the number is drawn from 0 to that.
        most: things in a scene.
        own: see `draw_scene`.
        crowds: share of scenes in which most things are alike: `CROWDED` of them are repeated.
        unanswered: of the prompts that name absent things, the share that names nothing else: the right answer is no box.
        seed: of everything random.
        max_tokens: of a prompt; absent things that do not fit are left out.

    Raises:
        ValueError: a number below 1 (`negatives`: below 0), no things, a package of the extra `scenes` is missing.
    """

    def __init__(
        self,
        things: Sequence[Pictogram],
        count: int,
        *,
        batch_size: int,
        weights: Sequence[float] | None = None,
        sizes: Sequence[int | tuple[int, int]] = tuple(range(160, 321, 32)),
        negatives: int = 16,
        most: int = 8,
        own: float = 0.5,
        crowds: float = 0.0,
        unanswered: float = 0.0,
        seed: int = 0,
        max_tokens: int = 256,
    ) -> None:
        if min(count, batch_size, most, negatives + 1, len(sizes), len(things)) < 1:
            raise ValueError(
                f"expected scenes, a batch, sizes and things, got count {count}, batch_size {batch_size}, most {most}, "
                f"negatives {negatives}, {len(sizes)} sizes, {len(things)} things"
            )
        self.things, self.count, self.batch_size, self.sizes = tuple(things), count, batch_size, tuple(sizes)
        super().__init__(seed)
        self.negatives, self.most, self.max_tokens = negatives, most, max_tokens
        self.own, self.crowds, self.unanswered = own, crowds, unanswered
        self.cum_weights = None if weights is None else tuple(accumulate(weights))
        if weights is not None and len(weights) != len(things):
            raise ValueError(f"weights: expected {len(things)}, one a thing, got {len(weights)}")
        self._by_name = {thing.name: thing for thing in self.things}
        self._places: tuple[int, list[int]] | None = None
        package_folder("skimage")  # what is missing is said here, not in a worker

    @property
    def fingerprint(self) -> str:
        """Of what is learnt from, and how it is drawn."""
        drawn = (self.things, self.cum_weights, self.count, self.batch_size, self.sizes, self.own, self.crowds)
        asked = (self.negatives, self.most, self.unanswered, self.seed, self.max_tokens)
        return hashlib.sha256(repr((drawn, *asked)).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The sample of this epoch."""
        scene, prompt, phrases = self.scene(index)
        width, height = scene.image.size
        corners = torch.tensor([box.xyxy for box in scene.record.boxes], dtype=torch.float64).reshape(-1, 4)
        centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        boxes = torch.cat([centres, sides], 1) / corners.new_tensor([width, height, width, height])  # (n, 4)
        target = Target(boxes.float(), torch.tensor(phrases, dtype=torch.int64), scene.record.file_name)
        return Sample(prepare(scene.image, min(width, height), max(width, height)), prompt, target)

    def scene(self, index: int) -> tuple[Scene, list[str], list[int]]:
        """The scene, its prompt, and which phrase of the prompt each of its boxes shows; no boxes where it names none."""
        if not 0 <= index < self.count:
            raise IndexError(f"expected an index below {self.count}, got {index}")
        seed = f"{self.seed}/{self.epoch}"
        scene = draw_scene(
            index,
            seed=seed,
            size=self._size(index),
            things=self.things,
            cum_weights=self.cum_weights,
            most=self.most,
            own=self.own,
            repeated=CROWDED if random.Random(f"{seed}/{index}/crowd").random() < self.crowds else REPEATED,
        )
        rng = random.Random(f"{seed}/{index}/prompt")
        names = list(dict.fromkeys(box.label for box in scene.record.boxes))
        shown = [self._by_name[name] for name in names]
        wordings = [choose_wording(thing, rng) for thing in shown]
        room = self.max_tokens - FRAME - sum(len(word_pieces(wording)) + 1 for wording in wordings)
        absent: list[str] = []
        wanted = rng.randint(0, self.negatives) if shown else max(self.negatives, 1)
        for thing in dict.fromkeys(rng.choices(self.things, cum_weights=self.cum_weights, k=wanted)):
            wording = choose_wording(thing, rng)
            length = len(word_pieces(wording)) + 1
            if length <= room and thing.name not in names and not any(may_name(thing, other) for other in shown):
                absent.append(wording)
                room -= length
        if absent and random.Random(f"{seed}/{index}/unanswered").random() < self.unanswered:
            wordings, names = [], []
            scene = Scene(scene.image, replace(scene.record, boxes=()), scene.masks[:0])
        prompt = wordings + absent
        rng.shuffle(prompt)
        place = {name: prompt.index(wording) for name, wording in zip(names, wordings, strict=True)}
        return scene, prompt, [place[box.label] for box in scene.record.boxes]

    def _size(self, index: int) -> int | tuple[int, int]:
        """That of all scenes of the batch in which `EpochOrder` puts this one."""
        epoch = self.epoch
        if self._places is None or self._places[0] != epoch:
            order = list(EpochOrder(self))
            places = [0] * len(order)
            for place, number in enumerate(order):
                places[number] = place
            self._places = epoch, places
        batch = self._places[1][index] // self.batch_size
        return random.Random(f"{self.seed}/{epoch}/{batch}/size").choice(self.sizes)


def choose_wording(thing: Pictogram, rng: random.Random) -> str:
    """What a training prompt calls a thing: half of the time its name, else any other wording. In judging, use the name."""
    return thing.name if len(thing.wordings) == 1 or rng.random() < 0.5 else rng.choice(thing.wordings[1:])


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


def _sprite(rng: random.Random, thing: Pictogram, side: int, own: float) -> Image.Image:
    """A drawing of a thing, its longer side about `side` pixels before it is turned; RGBA."""
    drawing = _choose_drawing(rng, thing, own)
    sprite = draw(drawing, side)
    if rng.random() < 0.4:  # narrower or lower
        stretch = rng.uniform(0.75, 1)
        width, height = sprite.size
        narrow = rng.random() < 0.5
        stretched = (width * stretch, height) if narrow else (width, height * stretch)
        sprite = sprite.resize([max(round(length), 1) for length in stretched], Image.Resampling.BICUBIC)
    if thing.may_flip and rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.75:
        sprite = _recoloured(rng, sprite, thing.is_coloured)
    limit = rng.choice((15, 15, 45)) if thing.may_turn else 6
    return sprite.rotate(rng.uniform(-limit, limit), Image.Resampling.BICUBIC, expand=True)


def _choose_drawing(rng: random.Random, thing: Pictogram, own: float) -> str:
    """An emoji's with probability `own`, where others have drawn the thing, too; what has no colour gets one, some an outline."""
    emojis = [drawing for drawing in thing.drawings if not drawing.startswith(SVG)]
    others = thing.drawings[len(emojis) :]
    drawing = rng.choice(emojis if emojis and (not others or rng.random() < own) else others)
    if "currentColor" in drawing:
        red, green, blue = (rng.randint(0, 255) for _ in range(3))
        drawing = drawing.replace("currentColor", f"#{red:02x}{green:02x}{blue:02x}")
        if rng.random() < 0.5:
            width = int(re.search(r' width="(\d+)"', drawing)[1])
            drawing = drawing.replace(
                SVG, f'{SVG}stroke="black" stroke-width="{rng.uniform(0.01, 0.04) * width:.2f}" ', 1
            )
    return drawing


def _recoloured(rng: random.Random, sprite: Image.Image, colour_is_named: bool) -> Image.Image:
    """Another hue, saturation and brightness, in one matrix; a named colour stays what it is."""
    if colour_is_named:
        turn, saturation = 0.0, rng.uniform(0.7, 1.2)
    else:
        turn = rng.uniform(-math.pi, math.pi) if rng.random() < 0.15 else rng.uniform(-0.35, 0.35)
        saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.4, 1.3)
    grey = np.tile(LUMA, (3, 1))  # (3, 3), each row the brightness
    # a turn about the grey axis (Rodrigues' formula), which leaves white and black alone
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = math.cos(turn) * np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) * np.full((3, 3), 1 / 3)
    matrix = rng.uniform(0.75, 1.15) * (grey + saturation * (np.eye(3) - grey)) @ hue
    lift = rng.uniform(0, 40) if rng.random() < 0.3 else 0.0  # lines that are not quite black
    rows = np.concatenate([matrix, np.full((3, 1), lift)], 1)
    colours = sprite.convert("RGB").convert("RGB", tuple(rows.ravel().tolist()))
    colours.putalpha(sprite.getchannel("A"))
    return colours


def _place(rng: random.Random, sprite: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
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
        shadow.paste(alpha.point(lambda value: round(value * strength)), (margin, margin))
        shadow = shadow.filter(ImageFilter.BoxBlur(blur))
        x, y = (round(rng.uniform(-0.08, 0.08) * reach) for _ in range(2))
        image.paste((0, 0, 0), (left + x - margin, top + y - margin), shadow)
    image.paste(sprite, (left, top), sprite)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
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


def _background(rng: random.Random, width: int, height: int) -> Image.Image:
    kinds: tuple[Callable[[random.Random, int, int], Image.Image], ...] = (
        _plain,
        _gradient,
        _gradient,
        _pattern,
        _clouds,
        _clutter,
        _photograph,
        _photograph,
    )
    return rng.choice(kinds)(rng, width, height)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    """Light more often than dark: most outlines are black."""
    base = rng.randint(150, 245) if rng.random() < 0.75 else rng.randint(40, 150)
    spread = rng.choice((8, 60))
    return tuple(min(max(base + rng.randint(-spread, spread), 0), 255) for _ in range(3))


def _plain(rng: random.Random, width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _colour(rng))


def _gradient(rng: random.Random, width: int, height: int) -> Image.Image:
    """From corner to corner: four pixels, enlarged."""
    corners = Image.new("RGB", (2, 2))
    corners.putdata([_colour(rng) for _ in range(4)])
    return corners.resize((width, height), Image.Resampling.BICUBIC)


def _pattern(rng: random.Random, width: int, height: int) -> Image.Image:
    """Stripes, checks or waves of two colours."""
    x, y = _grid(width, height)
    angle, period = rng.uniform(0, math.pi), rng.uniform(8, 60)
    along = (x * math.cos(angle) + y * math.sin(angle)) * (math.tau / period)
    values = np.sin(along)
    kind = rng.choice(("stripes", "checks", "waves"))
    if kind == "checks":
        values = values * np.sin((y * math.cos(angle) - x * math.sin(angle)) * (math.tau / period))
    sharpness = 1.0 if kind == "waves" else 6.0
    mask = Image.fromarray((np.clip(values * sharpness, -1, 1) * 127 + 128).astype(np.uint8))
    return Image.composite(_plain(rng, width, height), _gradient(rng, width, height), mask)


@lru_cache(16)
def _grid(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]


def _clouds(rng: random.Random, width: int, height: int) -> Image.Image:
    """Coarse and fine noise, enlarged."""
    mask = Image.new("L", (width, height), 128)
    for cells, share in ((rng.randint(3, 6), 1.0), (rng.randint(8, 40), 0.5)):
        layer = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
        mask = Image.blend(mask, layer.resize((width, height), Image.Resampling.BICUBIC), share)
    return Image.composite(_plain(rng, width, height), _plain(rng, width, height), mask)


def _clutter(rng: random.Random, width: int, height: int) -> Image.Image:
    """Shapes that nobody asks for."""
    image = _gradient(rng, width, height)
    drawing = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 24)):
        points = [(rng.uniform(-0.1, 1.1) * width, rng.uniform(-0.1, 1.1) * height) for _ in range(3)]
        kind = rng.randrange(3)
        if kind == 0:
            drawing.line(points, _colour(rng), rng.randint(1, 6))
        elif kind == 1:
            drawing.polygon(points, _colour(rng))
        else:
            (x, y), radius = points[0], rng.uniform(0.02, 0.2) * width
            drawing.ellipse((x - radius, y - radius, x + radius, y + radius), _colour(rng))
    return image.filter(ImageFilter.BoxBlur(rng.uniform(0, 3)))


def _photograph(rng: random.Random, width: int, height: int) -> Image.Image:
    """A crop of a photograph, from a quarter to two thirds of its shorter side; turned, mirrored, some pale."""
    photograph = _read_photograph(rng.choice(PHOTOGRAPHS))
    scale = rng.uniform(0.25, 0.66) * min(photograph.width / width, photograph.height / height)
    crop_width, crop_height = scale * width, scale * height
    left = rng.uniform(0, photograph.width - crop_width)
    top = rng.uniform(0, photograph.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    image = photograph.resize((width, height), Image.Resampling.BILINEAR, box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if rng.random() < 0.6:
        image = Image.blend(image, _gradient(rng, width, height), rng.uniform(0.2, 0.7))
    return image


@lru_cache(len(PHOTOGRAPHS))
def _read_photograph(name: str) -> Image.Image:
    with Image.open(package_folder("skimage") / "data" / name) as file:
        image = file.convert("RGB")
    image.thumbnail((640, 640))
    return image
