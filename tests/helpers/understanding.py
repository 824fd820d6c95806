"""A stand-in detector that finds the squares of `made_up_detectors`, in whatever words a benchmark asks for them."""

import time

import numpy as np
import torch
from made_up_detectors import COLOURS, ColourDetector

WORDS = {name.replace("_", " "): name for name in COLOURS}


class Understanding(ColourDetector):
    """Finds "the red square", "a red square over there" and "red_square".

    Args:
        shift: pixels by which each box is beside its square; seconds: that each image takes.

    Attributes:
        images: number of calls and of encoded images so far.
    """

    device = torch.device("cpu")

    def __init__(self, shift=0, seconds=0.0):
        self.shift, self.seconds, self.images = shift, seconds, 0

    def __call__(self, images, phrases, **options):
        if isinstance(images, list):
            return super().__call__(images, phrases, **options)
        return super().__call__([images], phrases, **options)[0]

    def find(self, image, phrases):
        time.sleep(self.seconds)
        names = [WORDS.get(self.words(phrase), "") for phrase in phrases]
        found = super().find(image, [name or f"nothing {number}" for number, name in enumerate(names)])
        found.data["class_name"] = np.array(phrases)[found.class_id]
        found.xyxy = np.clip(found.xyxy + self.shift, 0, [100, 80, 100, 80]).astype(np.float32)
        return found

    def refer(self, image, phrase):
        return self.find(image, [phrase])

    def words(self, phrase):
        return phrase.lower().replace("_", " ").removeprefix("the ").removeprefix("a ").removesuffix(" over there")
