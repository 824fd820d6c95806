"""What happens to an image on its way to the model: flip, crop and several scales in training, nothing in evaluation."""

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

# of a model whose short side is 800 (DETR's training); other models take them in proportion
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
        boxes: float32 [m, 4], cxcywh in 0..1 of it.
        kept: int64 [m], which of the given boxes they are, in their order.
    """

    pixel_values: Tensor
    boxes: Tensor
    kept: Tensor


class _Plan(NamedTuple):
    """What happens to one image: a flip, then a crop (top, left, height, width), then the resizing to a short side.

    `boxes` are those of the flipped and cropped image; `kept` says which of the given boxes they are.
    """

    flip: bool
    window: tuple[int, int, int, int] | None
    boxes: BoundingBoxes
    kept: Tensor
    short_side: int


class Transform(Protocol):
    """`transform(image, boxes, phrases, rng)`: whatever it draws at random comes from `rng`."""

    def size(self, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random, /) -> tuple[int, int]:
        """(width, height) of the result for these boxes and this state of `rng`; no image is needed."""
        ...

    def __call__(
        self, image: Image.Image, boxes: BoundingBoxes, phrases: Sequence[str], rng: random.Random, /
    ) -> Transformed:
        """Image (RGB), its boxes (float XYXY in pixels, inside it) and the phrase of each, to what the model takes."""
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
    """DETR's augmentation, which the paper takes over: flip; one of several scales; half of the time a crop before.

    The scales (short side 480 to 800) and crops (sides 384 to 600, cut from the image at short side 400 to 600) are
    those of a model with `short_side` 800, and are taken in proportion for others: nano, of 256, trains at 154 to 256.
    A crop is cut from the original pixels, at the place and of the extent that it would have in the resized image, so
    that the image is resampled once.

    Phrases that say "left" or "right" forbid the flip. Swapping the words instead would be wrong for "the right way"
    or "what is left", and not to flip is never wrong.

    Attributes:
        short_side, long_side: the model's, in pixels.
        flip: probability of a horizontal flip.
        crop: probability of a crop.
        min_visible: a cropped box stays, clipped, when the crop shows at least this share of its area and a pixel of
            each side; at 1/4, each box whose centre is inside does. A crop that would lose all boxes is not made.

    Raises:
        ValueError: a number outside 0..1, or a short side below 8.
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
        """Draw what happens to the image; the boxes go along."""
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
    """Boxes of an image that is so large in pixels: float [n, 4], XYXY."""
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
    # dividing may leave 1 by a rounding error
    return (relative / corners.new_tensor([width, height, width, height])).clamp(0, 1).float()
