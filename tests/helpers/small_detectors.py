"""Detectors with small random models, pictures for them, and a comparison of their detections."""

import numpy as np
from peers import SMALL, randomise
from PIL import Image

import gdino_lib as gd

CONFIG = SMALL.replace(short_side=64, long_side=128, swin_depths=(1, 1, 1, 1), encoder_layers=1, decoder_layers=2)
ALL = {"box_threshold": 0.0, "text_threshold": 0.0}
WORDS = [
    "cat",
    "remote control",
    "a person with an umbrella",
    "dog",
    "Fire Hydrant",
    "bus",
    "red_circle",
    "st. bernard",
]
LONG = [
    f"{colour} {thing}"
    for colour in ("red", "blue", "green")
    for thing in ["cat", "dog", "bus", "car", "cup", "pen", "hat", "box", "key", "jar"]
]  # too many phrases for 32 tokens


def build(**changes):
    model = gd.GroundingDINO(CONFIG.replace(**changes))
    randomise(model, seed=3)
    return gd.Detector(model, batch_size=4)


def picture(seed=0, size=(90, 60)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_same(one, other, names=True):
    assert len(one) == len(other)
    order = [np.lexsort((*found.xyxy.round(0).T, -found.confidence.round(3))) for found in (one, other)]
    np.testing.assert_allclose(one.confidence[order[0]], other.confidence[order[1]], atol=1e-4)
    np.testing.assert_allclose(one.xyxy[order[0]], other.xyxy[order[1]], atol=0.05)
    if names:
        assert sorted(n.lower() for n in one.data["class_name"]) == sorted(n.lower() for n in other.data["class_name"])
