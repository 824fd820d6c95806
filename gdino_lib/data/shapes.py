"""Drawn shapes such as red circles and blue squares: a small open-set problem that a model learns in a minute."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

from data_prep import Dataset, ImageRecord
from data_prep.atomic import atomic_folder, read_manifest, write_manifest
from data_prep.records import Box

COLOURS = {"red": (214, 48, 49), "green": (39, 174, 96), "blue": (45, 108, 223), "yellow": (241, 196, 15)}
SHAPES = ("circle", "square", "triangle")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def draw_shapes(
    folder: Path | str, count: int, *, seed: int = 0, size: int = 96, most: int = 4, overwrite: bool = False
) -> Dataset:
    """Draw square pictures with one to `most` shapes each; the shapes do not touch.

    A hidden file, `data_prep.atomic.MANIFEST`, lists the pictures for a later `overwrite`.

    Args:
        folder: where to write the PNG files; all of them are written, or none.
        count: number of pictures.
        seed: the same seed gives the same bytes.
        size: side of a picture in pixels.
        most: largest number of shapes in a picture.
        overwrite: replace earlier pictures in `folder`, and nothing else.

    Returns:
        A record for each picture, boxes exact to the pixel; the categories are the twelve `NAMES`.

    Raises:
        FileExistsError: `folder` holds files and `overwrite` is off, or it holds a file that this function did not write.
    """
    records = []
    with atomic_folder(folder, overwrite, read_manifest(folder)) as target:
        for number in range(count):
            rng = random.Random(f"{seed}/{number}")
            image = Image.new("RGB", (size, size), tuple(rng.randint(200, 255) for _ in range(3)))
            boxes = _boxes(rng, size, most)
            for box in boxes:
                _draw(ImageDraw.Draw(image), box)
            name = f"{number:05d}.png"
            image.save(target / name)
            records.append(ImageRecord(name, size, size, tuple(boxes)))
        write_manifest(target)
    return Dataset(tuple(records), NAMES)


def _boxes(rng: random.Random, size: int, most: int) -> list[Box]:
    boxes: list[Box] = []
    for _ in range(rng.randint(1, most)):
        side = rng.randint(size // 6, size // 3)
        x, y = rng.randint(0, size - side), rng.randint(0, size - side)
        apart = all(x + side < b.x1 or b.x2 < x or y + side < b.y1 or b.y2 < y for b in boxes)
        if apart:
            boxes.append(Box(rng.choice(NAMES), x, y, x + side, y + side))
    return boxes


def _draw(draw: ImageDraw.ImageDraw, box: Box) -> None:
    colour, shape = box.label.split()
    left, top, right, bottom = box.x1, box.y1, box.x2 - 1, box.y2 - 1  # Pillow draws the last pixel, too
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=COLOURS[colour])
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=COLOURS[colour])
    else:
        draw.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=COLOURS[colour])
