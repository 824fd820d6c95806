"""Sprites: drawings of a single thing, randomly stretched, mirrored, recoloured and turned, to place into a scene."""

from __future__ import annotations

import math
import random
import re

import numpy as np
from PIL import Image

from gdino_lib.nano.drawings import SVG, draw
from gdino_lib.nano.pictograms import Pictogram

LUMA = np.array([0.299, 0.587, 0.114])


def draw_sprite(rng: random.Random, thing: Pictogram, side: int, own: float) -> Image.Image:
    """Draw one sprite of a thing.

    Args:
        rng: source of all random choices.
        thing: what to draw.
        side: the longer side of the drawing in pixels, before it is turned.
        own: see `choose_drawing`.

    Returns:
        An RGBA image.
    """
    drawing = choose_drawing(rng, thing, own)
    sprite = draw(drawing, side)
    if rng.random() < 0.4:  # squeeze the width or the height
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


def choose_drawing(rng: random.Random, thing: Pictogram, own: float) -> str:
    """Choose one of a thing's drawings; SVG files without a colour of their own get a random one, half of them an outline.

    Args:
        rng: source of all random choices.
        thing: what to draw.
        own: probability that an emoji is chosen if the thing also has SVG files, 0..1.
    """
    emojis = [drawing for drawing in thing.drawings if not drawing.startswith(SVG)]
    others = thing.drawings[len(emojis) :]
    drawing = rng.choice(emojis if emojis and (not others or rng.random() < own) else others)
    if "currentColor" in drawing:
        red, green, blue = (rng.randint(0, 255) for _ in range(3))
        drawing = drawing.replace("currentColor", f"#{red:02x}{green:02x}{blue:02x}")
        if rng.random() < 0.5 and (width := re.search(r' width="(\d+)"', drawing)):
            stroke = rng.uniform(0.01, 0.04) * int(width[1])
            drawing = drawing.replace(SVG, f'{SVG}stroke="black" stroke-width="{stroke:.2f}" ', 1)
    return drawing


def _recoloured(rng: random.Random, sprite: Image.Image, colour_is_named: bool) -> Image.Image:
    """Change hue, saturation and brightness by one colour matrix; the hue stays if a name tells the colour."""
    if colour_is_named:
        turn, saturation = 0.0, rng.uniform(0.7, 1.2)
    else:
        turn = rng.uniform(-math.pi, math.pi) if rng.random() < 0.15 else rng.uniform(-0.35, 0.35)
        saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.4, 1.3)
    grey = np.tile(LUMA, (3, 1))  # (3, 3), each row computes the brightness
    # hue: a rotation about the grey axis (Rodrigues' formula), which keeps black and white
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = math.cos(turn) * np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) * np.full((3, 3), 1 / 3)
    matrix = rng.uniform(0.75, 1.15) * (grey + saturation * (np.eye(3) - grey)) @ hue
    lift = rng.uniform(0, 40) if rng.random() < 0.3 else 0.0  # lifts black lines to a dark grey
    rows = np.concatenate([matrix, np.full((3, 1), lift)], 1)
    colours = sprite.convert("RGB").convert("RGB", tuple(rows.ravel().tolist()))
    colours.putalpha(sprite.getchannel("A"))
    return colours
