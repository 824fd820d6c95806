"""Pictures of squares that the tests of this room read."""

import random

import pytest
from PIL import Image
from squares import COLOURS, SQUARES, box

import data_prep
from data_prep import ImageRecord


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures 0.png to 5.png of 100 x 80, with one to three coloured squares; `records` has their boxes."""
    folder = tmp_path_factory.mktemp("squares")
    rng = random.Random(0)
    for number in range(6):
        image = Image.new("RGB", (100, 80), (128, 128, 128))
        for label in rng.sample(sorted(COLOURS), 1 + number % 3):
            image.paste(COLOURS[label], tuple(SQUARES[label]))
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def records(folder):
    images = []
    for number in range(6):
        pixels = Image.open(folder / f"{number}.png")
        found = [box(name, *square) for name, square in SQUARES.items() if pixels.getpixel(square[:2]) == COLOURS[name]]
        images.append(ImageRecord(f"{number}.png", 100, 80, tuple(found)))
    return data_prep.Dataset(tuple(images), tuple(COLOURS))
