"""Transforms: boxes move with pixels, evaluation is `images.prepare`."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.tv_tensors import BoundingBoxes

from gdino_lib.data.transforms import SCALES, EvaluationTransform, TrainingTransform
from gdino_lib.images import IMAGE_MEAN, IMAGE_STD, prepare

BLACK, RED = (0, 0, 0), (255, 0, 0)


def drawn(size, *rectangles):
    """A black picture with red rectangles (whole pixels, right and bottom edge excluded), and its boxes."""
    image = Image.new("RGB", size, BLACK)
    for x1, y1, x2, y2 in rectangles:
        image.paste(RED, (x1, y1, x2, y2))
    corners = torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4)
    return image, BoundingBoxes(corners, format="XYXY", canvas_size=size[::-1])


def extent(pixel_values):
    """x1, y1, x2, y2 of the pixels that are more red than black."""
    red = pixel_values[0] * IMAGE_STD[0] + IMAGE_MEAN[0]
    columns, rows = red.amax(0), red.amax(1)
    ends = []
    for line in (columns, rows):
        inside = (line > 0.5).nonzero()[:, 0]
        ends.append((inside[0].item(), inside[-1].item() + 1))
    (x1, x2), (y1, y2) = ends
    return torch.tensor([x1, y1, x2, y2], dtype=torch.float32)


def in_pixels(boxes, pixel_values):
    height, width = pixel_values.shape[1:]
    x, y, w, h = boxes[0] * torch.tensor([width, height, width, height])
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


@st.composite
def scenes(draw):
    width, height = draw(st.integers(40, 300)), draw(st.integers(40, 300))
    x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x2, y2 = draw(st.integers(x1 + 12, width)), draw(st.integers(y1 + 12, height))
    return (width, height), (x1, y1, x2, y2)


@settings(max_examples=40)
@given(scenes(), st.integers(0, 1000), st.sampled_from([(256, 448), (64, 128)]))
def test_boxes_move_with_the_pixels(scene, seed, sides):
    size, rectangle = scene
    transform = TrainingTransform(*sides, crop=0.7)
    pixel_values, boxes, kept = transform(*drawn(size, rectangle), ["square"], random.Random(seed))
    assert kept.tolist() == [0], "a crop never loses the only box"
    # resizing rounds a side down to whole pixels; beyond that, half a pixel of the original may be half red
    scale = max(pixel_values.shape[1:]) / max(size)
    torch.testing.assert_close(
        in_pixels(boxes, pixel_values), extent(pixel_values), atol=max(1.0, scale / 2 + 0.5), rtol=0
    )
    assert boxes.dtype == torch.float32
    assert (boxes[:, 2:] > 0).all()
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    assert corners.min() > -1e-6
    assert corners.max() < 1 + 1e-6


def test_flip_mirrors():
    image, boxes = drawn((100, 60), (10, 20, 30, 50))
    transform = TrainingTransform(100, 400, flip=1, crop=0)
    _, flipped, _ = transform(image, boxes, ["square"], random.Random(0))
    torch.testing.assert_close(flipped, torch.tensor([[0.8, 35 / 60, 0.2, 0.5]]))


@pytest.mark.parametrize("phrase", ["the LEFT one", "left-hand door", "rightmost cup", "cat on the right", "shoe_left"])
def test_a_phrase_with_left_or_right_forbids_the_flip(phrase):
    transform = TrainingTransform(60, 400, flip=1, crop=0)
    image, boxes = drawn((100, 60), (10, 20, 30, 50))
    assert transform(image, boxes, [phrase], random.Random(0)).boxes[0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize("phrase", ["upright piano", "bright cleft", "dog"])
def test_other_words_allow_the_flip(phrase):
    transform = TrainingTransform(60, 400, flip=1, crop=0)
    image, boxes = drawn((100, 60), (10, 20, 30, 50))
    assert transform(image, boxes, [phrase], random.Random(0)).boxes[0, 0] == pytest.approx(0.8)


def test_scales_are_the_papers_in_proportion():
    image, boxes = drawn((80, 80), (10, 20, 30, 50))
    sides = {min(TrainingTransform(crop=0)(image, boxes, ["a"], random.Random(n))[0].shape[1:]) for n in range(40)}
    assert sides == set(SCALES)
    small = TrainingTransform(256, 448, crop=0)
    sides = {min(small(image, boxes, ["a"], random.Random(n))[0].shape[1:]) for n in range(60)}
    assert sides == {round(side * 0.32) for side in SCALES}
    long = TrainingTransform(256, 448)(*drawn((400, 50), (0, 0, 20, 20)), ["a"], random.Random(0))[0]
    assert max(long.shape[1:]) <= 448


def test_a_crop_keeps_what_it_shows():
    grid = [(x, y, x + 10, y + 10) for x in range(0, 200, 20) for y in range(0, 150, 15)]
    image, boxes = drawn((200, 150), *grid)
    transform = TrainingTransform(800, 1333, flip=0, crop=1)
    sizes = set()
    for seed in range(30):
        rng = random.Random(seed)
        rng.random(), rng.random()
        top, left, height, width = transform._window((200, 150), rng)
        _, found, kept = transform(image, boxes, ["a"] * len(grid), random.Random(seed))
        expected = []
        for number, (x1, y1, x2, y2) in enumerate(grid):
            w, h = min(x2, left + width) - max(x1, left), min(y2, top + height) - max(y1, top)
            if w >= 1 and h >= 1 and w * h >= 25:
                expected.append(number)
        assert kept.tolist() == expected
        assert len(found) == len(kept)
        sizes.add((width, height))
        # 384 to 600 of an image of short side 400 to 600, in its own pixels
        assert 384 / 600 * 150 - 1 <= height <= 150
        assert 384 / 600 * 150 - 1 <= width <= 200
    assert len(sizes) > 20


def test_a_crop_that_would_lose_everything_is_not_made():
    image, boxes = drawn((400, 50), (0, 0, 4, 4))
    transform = TrainingTransform(800, 1333, flip=0, crop=1)
    assert all(transform(image, boxes, ["a"], random.Random(seed)).kept.tolist() == [0] for seed in range(20))


def test_no_boxes():
    image, boxes = drawn((90, 70))
    for transform in (TrainingTransform(64, 128, flip=1, crop=1), EvaluationTransform(64, 128)):
        pixel_values, found, kept = transform(image, boxes, [], random.Random(1))
        assert pixel_values.shape[0] == 3
        assert found.shape == (0, 4)
        assert kept.shape == (0,)


def test_evaluation_is_prepare():
    pixels = np.random.default_rng(0).integers(0, 256, (77, 101, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    boxes = BoundingBoxes(torch.tensor([[0.0, 7.7, 101, 77]]), format="XYXY", canvas_size=(77, 101))
    result = EvaluationTransform(64, 128)(image, boxes, ["a"], random.Random(0))
    assert torch.equal(result.pixel_values, prepare(image, 64, 128))
    torch.testing.assert_close(result.boxes, torch.tensor([[0.5, 0.55, 1.0, 0.9]]))


def test_the_same_draw_gives_the_same_bits():
    image, boxes = drawn((123, 97), (10, 20, 30, 50), (50, 50, 99, 97))
    transform = TrainingTransform(128, 256)
    torch.manual_seed(0)
    one = transform(image, boxes, ["a", "b"], random.Random(5))
    torch.manual_seed(1)
    other = transform(image, boxes, ["a", "b"], random.Random(5))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("name", "value"), [("flip", 1.5), ("crop", -1), ("min_visible", 2), ("short_side", 2)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        TrainingTransform(**{name: value})
