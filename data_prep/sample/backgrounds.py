"""The backgrounds of the pictures: a park, a city, a classroom, a party."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from data_prep.sample.drawing import WHITE, Color, mix
from data_prep.sample.people import CLOTHES


class _Backdrop:
    """A picture filled with a gradient, and a pen that draws on it.

    Args:
        size: width and height in pixels.
        top, bottom: the gradient's colours.
    """

    def __init__(self, size: tuple[int, int], top: Color, bottom: Color) -> None:
        ramp = Image.linear_gradient("L").resize(size)
        self.width, self.height = size
        self.image = Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)
        self.pen = ImageDraw.Draw(self.image)

    def frame(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        """Convert edges from fractions of the width and the height to pixels."""
        return left * self.width, top * self.height, right * self.width, bottom * self.height

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        """Draw a filled rectangle; its edges are fractions of the width and the height."""
        self.pen.rectangle(self.frame(left, top, right, bottom), fill=fill)

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        """Draw a filled ellipse inside a rectangle, whose edges are fractions of the width and the height."""
        self.pen.ellipse(self.frame(left, top, right, bottom), fill=fill)


def draw_background(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw one of the four backgrounds, chosen by `rng`. Returns an RGB image of `size` (width, height) pixels."""
    place = rng.choice((_park, _city, _classroom, _party))
    return place(size, rng).image


def _park(size: tuple[int, int], rng: random.Random) -> _Backdrop:
    view = _Backdrop(size, (150, 208, 244), (228, 244, 250))
    width, height = size
    x, y, r = rng.uniform(0.1, 0.9) * width, 0.12 * height, 0.07 * height  # the sun
    view.pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 226, 130))
    for _ in range(3):  # clouds
        x, y, r = rng.uniform(0, 1) * width, rng.uniform(0.06, 0.2) * height, rng.uniform(0.03, 0.05) * height
        for dx, k in ((-1.4, 0.8), (0, 1.2), (1.4, 0.9)):
            edges = x + dx * r - k * r * 1.3, y - k * r, x + dx * r + k * r * 1.3, y + k * r
            view.pen.ellipse(edges, fill=(252, 254, 255))
    view.ellipse(-0.3, 0.36, 0.75, 1.1, fill=(168, 206, 140))  # hills
    view.ellipse(0.35, 0.42, 1.4, 1.2, fill=(146, 192, 122))
    for _ in range(5):  # trees
        x, y, r = rng.uniform(0, 1) * width, rng.uniform(0.3, 0.42) * height, rng.uniform(0.06, 0.1) * height
        view.pen.rectangle((x - 0.14 * r, y, x + 0.14 * r, y + 1.9 * r), fill=(134, 100, 76))
        view.pen.ellipse((x - r, y - r, x + r, y + 0.8 * r), fill=mix((92, 156, 96), (160, 190, 90), rng.random()))
    view.rectangle(0, 0.74, 1, 1, fill=(156, 198, 120))
    return view


def _city(size: tuple[int, int], rng: random.Random) -> _Backdrop:
    view = _Backdrop(size, (250, 214, 178), (254, 240, 222))
    width, height = size
    pane, columns = 0.032 * height, 3
    x = -0.03 * width
    while x < width:  # one house after another
        wide, top = rng.uniform(0.13, 0.22) * width, rng.uniform(0.06, 0.36) * height
        wall = rng.choice(((168, 180, 200), (196, 176, 170), (150, 168, 178), (206, 194, 180)))
        view.pen.rectangle((x, top, x + wide, height), fill=wall)
        for column in range(columns):
            for row in range(9):
                left, high = x + wide * (column + 0.5) / columns - pane / 2, top + pane * (1 + 2.1 * row)
                glass = (255, 236, 170) if rng.random() < 0.35 else mix(wall, (60, 80, 110), 0.35)
                view.pen.rectangle((left, high, left + pane, high + 1.2 * pane), fill=glass)
        x += wide + 0.012 * width
    view.rectangle(0, 0.78, 1, 1, fill=(176, 178, 184))  # the street
    return view


def _classroom(size: tuple[int, int], rng: random.Random) -> _Backdrop:
    view = _Backdrop(size, (246, 238, 222), (236, 224, 204))
    height = view.height
    board = view.frame(0.12, 0.06, 0.7, 0.42)
    view.pen.rounded_rectangle(board, 0.02 * height, fill=(168, 124, 84))
    view.rectangle(0.135, 0.08, 0.685, 0.4, fill=(62, 104, 88))
    for row in range(3):  # writing
        y = 0.14 + 0.08 * row
        line = view.frame(0.17, y, 0.17 + rng.uniform(0.15, 0.42), y)
        view.pen.line(line, fill=(206, 224, 214), width=round(0.008 * height))
    view.rectangle(0.76, 0.06, 0.97, 0.4, fill=(250, 250, 248))  # a window
    view.rectangle(0.775, 0.08, 0.955, 0.38, fill=(182, 220, 242))
    bar = view.frame(0.865, 0.08, 0.865, 0.38)
    view.pen.line(bar, fill=(250, 250, 248), width=round(0.012 * height))
    view.rectangle(0, 0.8, 1, 1, fill=(206, 178, 146))
    return view


def _party(size: tuple[int, int], rng: random.Random) -> _Backdrop:
    tint = rng.choice(((214, 226, 244), (232, 220, 240), (220, 238, 226), (248, 226, 220)))
    view = _Backdrop(size, tint, mix(tint, WHITE, 0.5))
    width, height = size
    for _ in range(60):  # confetti
        x, y, r = rng.random() * width, rng.random() * height, rng.uniform(0.004, 0.009) * height
        view.pen.ellipse((x - r, y - r, x + r, y + r), fill=mix(rng.choice(CLOTHES), WHITE, 0.35))
    flags = 12
    for flag in range(flags):
        x, w = width * (flag + 0.5) / flags, 0.7 * width / flags
        y = height * (0.04 + 0.09 * (1 - ((flag + 0.5) / flags * 2 - 1) ** 2))
        corners = [(x - w / 2, y), (x + w / 2, y), (x, y + 1.2 * w)]
        view.pen.polygon(corners, fill=mix(CLOTHES[flag % 6], WHITE, 0.25))
    return view
