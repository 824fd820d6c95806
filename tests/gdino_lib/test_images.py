"""From an image to the tensor that the model takes: sizes, normalisation, padding."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from hypothesis import given
from hypothesis import strategies as st
from made_up_images import ORIENTATION, noise, refused
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from gdino_lib.images import IMAGE_MEAN, IMAGE_STD, pad, prepare, read_image, resized_size


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.png"


# sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [  # computed by the official function, which returns (height, width)
        ((1, 1), (800, 800)),
        ((800, 800), (800, 800)),
        ((1333, 800), (1333, 800)),
        ((1, 1333), (1, 1333)),
        ((640, 480), (1066, 800)),
        ((480, 640), (800, 1066)),
        ((641, 427), (1200, 800)),
        ((1066, 799), (1067, 800)),
        ((2000, 1000), (1332, 666)),
        ((1920, 1080), (1333, 750)),
        ((333, 1000), (444, 1333)),
        ((799, 1332), (800, 1333)),
        ((3000, 4000), (800, 1066)),
        ((5000, 3), (1666, 1)),
        ((4, 2000), (3, 1500)),
    ],
)
def test_sizes_equal_the_official_ones(size, expected):
    assert resized_size(*size, 800, 1333) == expected


@pytest.mark.parametrize("size", [(1, 10000), (2, 10000), (1, 2667)])
def test_a_side_is_never_zero(size):
    assert resized_size(*size, 800, 1333) == (1, 1333)
    assert resized_size(*size[::-1], 800, 1333) == (1333, 1)


side = st.integers(1, 3000)


@given(side, side, side, side)
def test_sizes_stay_within_their_bounds(width, height, short_side, long_side):
    new = resized_size(width, height, short_side, long_side)
    assert resized_size(height, width, short_side, long_side) == new[::-1]
    assert 1 <= min(new) <= min(short_side, long_side)
    assert max(new) <= 2 * long_side
    if min(new) > 1:
        assert abs(max(new) - min(new) * max(width, height) / min(width, height)) <= 1
        assert min(new) == short_side or abs(max(new) - long_side) <= max(width, height) / min(width, height) / 2 + 1


@pytest.mark.parametrize("sizes", [(0, 5, 8, 8), (5, 0, 8, 8), (5, 5, 0, 8), (5, 5, 8, -1)])
def test_sizes_below_one_pixel_are_refused(sizes):
    refused(ValueError, resized_size, *sizes)


# the tensor


def official(image, short_side, long_side):
    width, height = resized_size(*image.size, short_side, long_side)
    return F.normalize(F.to_tensor(F.resize(image, [height, width])), IMAGE_MEAN, IMAGE_STD)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (9, 1), (640, 480), (333, 500), (1400, 900), (800, 800), (2, 3000), (1, 3000)]
)
def test_bit_equal_to_torchvision_at_full_size(size):
    array = noise(*size, 3)
    pixels = prepare(array)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert pixels.shape == (3, *resized_size(*size, 800, 1333)[::-1])
    assert torch.equal(pixels, official(Image.fromarray(array), 800, 1333))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(1, 300), st.integers(0, 9))
def test_bit_equal_to_torchvision_at_any_size(width, height, short_side, long_side, seed):
    array = noise(width, height, 3, seed=seed)
    assert torch.equal(prepare(array, short_side, long_side), official(Image.fromarray(array), short_side, long_side))


def test_an_image_of_the_right_size_is_only_normalised():
    array = noise(60, 40, 3)
    expected = (
        torch.from_numpy(array).permute(2, 0, 1) / 255 - torch.tensor(IMAGE_MEAN)[:, None, None]
    ) / torch.tensor(IMAGE_STD)[:, None, None]
    assert torch.equal(prepare(array, 40, 60), expected)


def test_the_range_of_prepared_pixels():
    assert prepare(np.zeros((2, 2, 3), np.uint8), 4, 4).min() > -2.2
    assert prepare(np.full((2, 2, 3), 255, np.uint8), 4, 4).max() < 2.7


def test_the_default_dtype_of_torch_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        assert prepare(noise(5, 4, 3), 8, 8).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_prepare_takes_what_read_image_takes(path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise(60, 40, 3)).convert("RGBA").save(path, exif=exif)
    assert torch.equal(prepare(path, 32, 64), prepare(read_image(path), 32, 64))
    assert prepare(path, 32, 64).shape == (3, 48, 32)
    refused(FileNotFoundError, prepare, "no such file")
    refused(ValueError, prepare, noise(5, 4, 3), 0)


@pytest.mark.parametrize(("picture", "mean_bound"), [("noise", 0.003), ("photograph", 0.2)])
def test_error_of_the_tensor_resize(picture, mean_bound):
    """The figures in `prepare`'s docstring, in grey levels; run with -s to see them."""
    if picture == "noise":
        image = Image.fromarray(noise(640, 480, 3))
    else:
        cbook = pytest.importorskip("matplotlib.cbook")
        with cbook.get_sample_data("grace_hopper.jpg") as file:
            image = read_image(Image.open(file))
    for width, height in [(1066, 800), (641, 481), (427, 320), (256, 192), (101, 77)]:
        ours = torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR))).permute(2, 0, 1)
        for antialias in (True, False):
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            theirs = v2.functional.resize(tensor, [height, width], InterpolationMode.BILINEAR, antialias=antialias)
            error = (theirs.double() - ours.double()).abs()
            print(f"{picture} {width} x {height} antialias={antialias}: max {error.max():.0f}, mean {error.mean():.4f}")
            if antialias:
                assert error.max() <= 1
                assert error.mean() <= mean_bound


# padding


def test_a_single_image_needs_no_padding():
    image = torch.randn(3, 4, 6)
    pixel_values, pixel_mask = pad([image])
    assert torch.equal(pixel_values, image[None])
    assert pixel_mask.dtype == torch.bool
    assert pixel_mask.shape == (1, 4, 6)
    assert pixel_mask.all()


def test_padding_is_zero_at_the_right_and_the_bottom():
    images = [torch.randn(3, 4, 6), torch.randn(3, 5, 1), torch.randn(3, 1, 1)]
    pixel_values, pixel_mask = pad(images)
    assert pixel_values.shape == (3, 3, 5, 6)
    for image, padded, mask in zip(images, pixel_values, pixel_mask, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(padded[:, :height, :width], image)
        assert mask[:height, :width].all()
        assert mask.sum() == height * width
        assert (padded[:, ~mask] == 0).all()


def test_images_of_one_size_are_stacked():
    images = [torch.randn(3, 4, 6) for _ in range(3)]
    pixel_values, pixel_mask = pad(tuple(images))
    assert torch.equal(pixel_values, torch.stack(images))
    assert pixel_mask.all()


def test_padding_gives_float32_and_does_not_change_its_input():
    image = torch.randn(3, 4, 6, dtype=torch.float64)
    pixel_values, _ = pad([image])
    assert pixel_values.dtype == torch.float32
    pixel_values.zero_()
    assert image.abs().sum() > 0


@pytest.mark.parametrize(
    "images",
    [
        [],
        [torch.zeros(4, 6)],
        [torch.zeros(1, 3, 4, 6)],
        [torch.zeros(4, 6, 3)],
        [torch.zeros(3, 4, 6), torch.zeros(3, 4, 6, dtype=torch.uint8)],
    ],
)
def test_padding_refuses_no_images_and_other_shapes_or_dtypes(images):
    refused(ValueError, pad, images)
