"""Backgrounds of scenes: plain colours, gradients, patterns, clouds, clutter and crops of photographs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from gdino_lib.nano.drawings import package_folder

# scikit-image's wheel contains these photographs; they have no known copyright restrictions
# a crop shows a texture or a part of something, seldom a whole object
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


def draw_background(rng: random.Random, width: int, height: int) -> Image.Image:
    """A background of a random kind, RGB; gradients and photographs are twice as frequent as the other kinds."""
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
    """A random colour; three in four are light, because most outlines are black."""
    base = rng.randint(150, 245) if rng.random() < 0.75 else rng.randint(40, 150)
    spread = rng.choice((8, 60))
    red, green, blue = (min(max(base + rng.randint(-spread, spread), 0), 255) for _ in range(3))
    return red, green, blue


def _plain(rng: random.Random, width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _colour(rng))


def _gradient(rng: random.Random, width: int, height: int) -> Image.Image:
    """A gradient between four colours, one for each corner: an image of 2 x 2 pixels, enlarged."""
    corners = Image.new("RGB", (2, 2))
    corners.putdata([_colour(rng) for _ in range(4)])
    return corners.resize((width, height), Image.Resampling.BICUBIC)


def _pattern(rng: random.Random, width: int, height: int) -> Image.Image:
    """Stripes, checks or waves that alternate between a plain colour and a gradient."""
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
    """Two colours, mixed by coarse and fine noise."""
    mask = Image.new("L", (width, height), 128)
    for cells, share in ((rng.randint(3, 6), 1.0), (rng.randint(8, 40), 0.5)):
        layer = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
        mask = Image.blend(mask, layer.resize((width, height), Image.Resampling.BICUBIC), share)
    return Image.composite(_plain(rng, width, height), _plain(rng, width, height), mask)


def _clutter(rng: random.Random, width: int, height: int) -> Image.Image:
    """Random lines, triangles and circles; they are never targets."""
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
    """A random crop of a photograph, randomly mirrored; six in ten are blended with a gradient.

    The sides of the crop are 25 to 66 % of those of the largest crop with the same proportions.
    """
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
