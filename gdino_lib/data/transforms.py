"""How images are changed for the model: flip, crop and several scales in training, resizing alone in evaluation."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxes

from gdino_lib.images import prepare, resized_size

# sizes in pixels for a model whose short side is 800, as in DETR's training; other models take them in proportion
FULL_SIDE = 800
SCALES = tuple(range(480, 801, 32))  # the short side
RESIZED = (400, 500, 600)  # the short side before a crop
CROP_MIN, CROP_MAX = 384, 600  # each side of a crop

# at the start of a word: "left", "leftmost", "right-hand", but not "upright"
SIDED = re.compile(r"(?<![a-z])(left|right)", re.IGNORECASE)


class Transformed(NamedTuple):
    """An image as the model takes it.

    Attributes:
        pixel_values: float32 [3, H, W], as `images.prepare` gives it.
        boxes: float32 [m, 4], cxcywh in 0..1 of this image.
        kept: int64 [m], the index of each of these boxes among the given ones; increasing.
    """

    pixel_values: Tensor
    boxes: Tensor
    kept: Tensor


class _Plan(NamedTuple):
    """The changes of one image: a flip, then a crop (top, left, height, width), then the resizing to a short side.

    `boxes` are the boxes in the flipped and cropped image, `kept` their indices among the given ones.
    """

    flip: bool
    window: tuple[int, int, int, int] | None
    boxes: BoundingBoxes
    kept: Tensor
    short_side: int


class Transform(Protocol):
    """A callable `transform(image, boxes, phrases, rng)`; all its random choices are drawn from `rng`."""

    def size(self, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random, /) -> tuple[int, int]:
        """(width, height) of the image that the same boxes, phrases and state of `rng` would give; reads no image."""
        ...

    def __call__(
        self, image: Image.Image, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random, /
    ) -> Transformed:
        """Transform an RGB image and its boxes, float XYXY in pixels inside the image; `phrases` name one box each."""
        ...


@dataclass(frozen=True)
class EvaluationTransform:
    """`images.prepare`, bit for bit; all boxes stay.

    Attributes:
        short_side, long_side: the model's, in pixels.
    """

    short_side: int = 800
    long_side: int = 1333

    def size(self, boxes: BoundingBoxes, _phrases: Sequence[str], _rng: random.Random) -> tuple[int, int]:
        """See `Transform`."""
        height, width = boxes.canvas_size
        return resized_size(width, height, self.short_side, self.long_side)

    def __call__(
        self, image: Image.Image, boxes: BoundingBoxes, _phrases: Sequence[str], _rng: random.Random
    ) -> Transformed:
        """Nothing is random here; see `Transform`."""
        return Transformed(prepare(image, self.short_side, self.long_side), _relative(boxes), torch.arange(len(boxes)))


@dataclass(frozen=True)
class TrainingTransform:
    """DETR's augmentation, which the paper uses too: a random flip, a random crop, and one of several scales.

    For a model with `short_side` 800, the scales are short sides of 480 to 800, and crops with sides of 384 to 600 are
    cut from the image at a short side of 400 to 600. Other models take these sizes in proportion: nano, with 256, trains
    at 154 to 256. A crop is cut from the original pixels, with the position and extent that it would have in the resized
    image, so the image is resampled only once.

    An image is not flipped if one of its phrases contains "left" or "right". Exchanging the two words would be wrong for
    "the right way" or "what is left", whereas leaving an image unflipped is never wrong.

    Attributes:
        short_side, long_side: the model's, in pixels.
        flip: probability of a horizontal flip.
        crop: probability of a crop.
        min_visible: a box stays, clipped, if the crop shows at least this share of its area and a pixel of each side; with
            1/4, every box whose centre is inside the crop stays. A crop that would lose all boxes is not made.

    Raises:
        ValueError: a probability or share outside 0..1, or a short side below 8.
    """

    short_side: int = 800
    long_side: int = 1333
    flip: float = 0.5
    crop: float = 0.5
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        for name in ("flip", "crop", "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in 0..1, got {getattr(self, name)}")
        if self.short_side < 8:
            raise ValueError(f"short_side: expected at least 8 pixels, got {self.short_side}")

    def size(self, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random) -> tuple[int, int]:
        """See `Transform`."""
        plan = self._plan(boxes, phrases, rng)
        height, width = plan.boxes.canvas_size
        return resized_size(width, height, plan.short_side, self.long_side)

    def __call__(
        self, image: Image.Image, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random
    ) -> Transformed:
        """See `Transform`. The same `rng` gives the same bits."""
        plan = self._plan(boxes, phrases, rng)
        if plan.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if plan.window:
            top, left, height, width = plan.window
            image = image.crop((left, top, left + width, top + height))
        return Transformed(prepare(image, plan.short_side, self.long_side), _relative(plan.boxes), plan.kept)

    def _plan(self, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random) -> _Plan:
        """Make the random choices for an image and apply the flip and the crop to its boxes."""
        flip = rng.random() < self.flip and not any(SIDED.search(phrase) for phrase in phrases)
        height, width = boxes.canvas_size
        if flip:
            boxes = pixel_boxes(functional.horizontal_flip(boxes), width, height)
        kept, window = torch.arange(len(boxes)), None
        if rng.random() < self.crop:
            top, left, height, width = self._window((width, height), rng)
            visible = functional.crop(boxes, top, left, height, width)
            shown = (_area(visible) >= self.min_visible * _area(boxes)) & (_sides(visible) >= 1).all(1)
            if shown.any() or not len(boxes):
                boxes, kept, window = (
                    pixel_boxes(visible[shown], width, height),
                    kept[shown],
                    (top, left, height, width),
                )
        return _Plan(flip, window, boxes, kept, self._in_proportion(rng.choice(SCALES)))

    def _window(self, size: tuple[int, int], rng: random.Random) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a crop, in original pixels."""
        scale = self._in_proportion(rng.choice(RESIZED)) / min(size)
        low, high = self._in_proportion(CROP_MIN), self._in_proportion(CROP_MAX)
        sides, starts = [], []
        for side in size:
            resized = round(side * scale)
            wanted = rng.randint(min(low, resized), min(high, resized))
            sides.append(min(max(round(wanted / scale), 1), side))
            starts.append(rng.randint(0, side - sides[-1]))
        return starts[1], starts[0], sides[1], sides[0]

    def _in_proportion(self, pixels: int) -> int:
        return max(round(pixels * self.short_side / FULL_SIDE), 1)


def pixel_boxes(corners: Tensor, width: int, height: int) -> BoundingBoxes:
    """Torchvision's type for boxes in an image of that size: float [n, 4], XYXY in pixels."""
    return BoundingBoxes(  # pyright: ignore[reportCallIssue]  # the stubs check Tensor's __init__, which is not called
        corners, format="XYXY", canvas_size=(height, width)
    )


def _sides(boxes: Tensor) -> Tensor:
    """[n, 4] xyxy -> [n, 2], width and height."""
    return boxes[:, 2:] - boxes[:, :2]


def _area(boxes: Tensor) -> Tensor:
    """[n, 4] xyxy -> [n]."""
    return _sides(boxes).prod(1)


def _relative(boxes: BoundingBoxes) -> Tensor:
    """XYXY in pixels -> float32 [n, 4], cxcywh in 0..1 of the canvas; resizing does not change them."""
    height, width = boxes.canvas_size
    corners = boxes.as_subclass(Tensor)
    relative = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, _sides(corners)], 1)
    # a rounding error of the division may exceed 1
    return (relative / corners.new_tensor([width, height, width, height])).clamp(0, 1).float()
