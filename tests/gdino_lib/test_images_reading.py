"""Reading images: upright and in colour, or refused in one line."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_images import ORIENTATION, noise, refused
from PIL import Image, ImageOps

from gdino_lib.images import MAX_PIXELS, _limit_of_environment, read_image

MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBX", "RGBa"]


def values(image):
    return np.asarray(image)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.png"


# what is read: pixels equal those of `Image.open(path).convert("RGB")`


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5)])
def test_path_string_pil_and_array_give_the_same_pixels(path, size):
    array = noise(*size, 3)
    Image.fromarray(array).save(path)
    for source in (
        path,
        str(path),
        Image.open(path),
        Image.fromarray(array),
        array,
        array[::-1][::-1],
        np.asfortranarray(array),
    ):
        image = read_image(source)
        assert image.mode == "RGB"
        assert image.size == size
        np.testing.assert_array_equal(values(image), array)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_converts_as_pil_does(mode):
    # PIL converts to some modes only from another mode
    between = {"RGBA": "RGBA", "RGBa": "RGBA", "LA": "RGBA", "PA": "P"}.get(mode, "RGB")
    image = Image.fromarray(noise(9, 7, 4)).convert(between).convert(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(values(read_image(image)), values(image.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("P", "GIF"), ("CMYK", "JPEG")]
)
def test_every_mode_from_a_file(path, mode, form):
    image = Image.fromarray(noise(9, 7, 4)).convert("RGB" if mode in ("P", "CMYK", "1") else "RGBA").convert(mode)
    path.write_bytes(encoded(image, form))
    assert Image.open(path).mode == mode
    np.testing.assert_array_equal(values(read_image(path)), values(Image.open(path).convert("RGB")))


def test_alpha_is_dropped_not_composited(path):
    array = noise(6, 4, 4)
    array[..., 3] = 0
    Image.fromarray(array).save(path)
    np.testing.assert_array_equal(values(read_image(path)), array[..., :3])


def test_an_rgba_array_loses_its_alpha_as_the_file_does(path):
    array = noise(6, 4, 4)
    Image.fromarray(array).save(path)
    np.testing.assert_array_equal(values(read_image(array)), values(read_image(path)))
    np.testing.assert_array_equal(values(read_image(array[::-1])), array[::-1, :, :3])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_bytes_are_read_like_the_file(path, form):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(Image.fromarray(noise(9, 7, 3)), form, exif=exif)
    path.write_bytes(content)
    assert read_image(content).size == (7, 9)
    np.testing.assert_array_equal(values(read_image(content)), values(read_image(path)))


def test_a_tensor_has_its_channels_first():
    colour, clear, grey = noise(9, 7, 3), noise(9, 7, 4), noise(9, 7)
    for array in (colour, clear, grey[..., None]):
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        expected = values(read_image(array[..., 0] if array.shape[2] == 1 else array))
        for same in (tensor, tensor.contiguous(), tensor.float() / 255, tensor.double() / 255):
            np.testing.assert_array_equal(values(read_image(same)), expected)
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for dtype in (torch.float16, torch.float32, torch.float64):
        same = (every.to(dtype) / 255).requires_grad_()
        np.testing.assert_array_equal(values(read_image(same))[..., 0], every[0])


def test_transparent_palette(path):
    image = Image.fromarray(noise(6, 4, 3)).quantize(8)
    image.save(path, transparency=0)
    np.testing.assert_array_equal(values(read_image(path)), values(image.convert("RGB")))


def test_grey_array_is_repeated():
    array = noise(6, 4)
    np.testing.assert_array_equal(values(read_image(array)), np.repeat(array[..., None], 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(path, form):
    wide = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    path.write_bytes(encoded(Image.fromarray(wide), form))
    for source in (path, Image.fromarray(wide), Image.fromarray(wide.astype(np.int32))):
        assert values(read_image(source))[0, :, 1].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_of_few_bits_gives_a_warning(path, form, bits):
    """Only the high byte of each value is read, so the image is nearly black."""
    path.write_bytes(encoded(Image.fromarray(np.array([[0, 2**bits - 1]], dtype=np.uint16)), form))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(path)
    assert [f"use {bits} bits, so it is read as nearly black" in str(each.message) for each in caught] == [True] * (
        bits < 15
    )


def test_16_bit_colour_of_few_bits_gives_a_warning(path):
    path.write_bytes(png_of_16_bit_colour(2**12 - 1))
    with pytest.warns(UserWarning, match="use 12 bits, so it is read as nearly black"):
        read_image(path)


def png_of_16_bit_colour(value):
    """A PNG of one pixel, which PIL cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", value, value, value))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_16_bit_grey_of_the_other_byte_order():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 300, 65535))
    assert values(read_image(image))[0, :, 0].tolist() == [1, 255]


def test_integers_that_fit_8_bits_stay():
    image = Image.fromarray(np.array([[0, 7, 255]], dtype=np.int32))
    assert values(read_image(image))[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(path, form, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.write_bytes(encoded(Image.fromarray(noise(16, 8, 3)), form, exif=exif))
    upright = values(ImageOps.exif_transpose(Image.open(path)))
    assert upright.shape[:2] == ((8, 16) if orientation < 5 else (16, 8))
    for source in (path, Image.open(path), read_image(path), read_image(read_image(Image.open(path)))):
        np.testing.assert_array_equal(values(read_image(source)), upright)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_exif_orientation_in_other_modes(path, mode):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = (
        Image.fromarray(noise(6, 4).astype(np.uint16) << 8)
        if mode == "I;16"
        else Image.fromarray(noise(6, 4, 3)).convert(mode)
    )
    image.save(path, exif=exif)
    assert read_image(path).size == (4, 6)


def test_exif_orientation_that_is_set_but_not_saved_is_applied():
    image = Image.fromarray(noise(6, 4, 3))
    image.getexif()[ORIENTATION] = 8
    once = read_image(image)
    assert once.size == read_image(once).size == (4, 6)
    assert image.size == (6, 4)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore")
def test_broken_exif_is_ignored(path, exif):
    path.write_bytes(encoded(Image.fromarray(noise(6, 4, 3)), "JPEG", exif=exif))
    assert read_image(path).size == (6, 4)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_counts_as_upright(path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(noise(6, 4, 3)).save(path, exif=exif)
    assert read_image(path).size == (6, 4)


def test_first_frame_of_an_animation(path):
    frames = [Image.fromarray(noise(6, 4, seed=seed)) for seed in range(3)]
    path.write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(values(read_image(path)), values(Image.open(path).convert("RGB")))


def test_the_source_is_not_changed(path):
    image = Image.fromarray(noise(6, 4, 4))
    before = image.tobytes()
    read_image(image).putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == before
    upright = read_image(image)
    assert read_image(upright) is upright
    array = noise(6, 4, 3)
    read_image(array).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(array, noise(6, 4, 3))


def test_an_image_can_be_used_after_its_file_is_deleted(path):
    Image.fromarray(noise(6, 4, 3)).save(path)
    image = read_image(path)
    path.unlink()
    np.testing.assert_array_equal(values(image.copy().crop((0, 0, 6, 4))), noise(6, 4, 3))


# what is refused


def test_missing_file(path):
    assert str(path) in refused(FileNotFoundError, read_image, path)
    refused(FileNotFoundError, read_image, "cat\ndog.png")
    refused(FileNotFoundError, read_image, "")
    refused(FileNotFoundError, read_image, "http://example.org/cat.png")
    refused(FileNotFoundError, read_image, "x" * 5000)


def test_folder(tmp_path):
    assert "folder" in refused(ValueError, read_image, tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"<svg/>"])
def test_not_an_image(path, content):
    path.write_bytes(content)
    assert str(path) in refused(ValueError, read_image, path)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_file(path, form):
    content = encoded(Image.fromarray(noise(64, 64, 3)), form)
    for part in (0.02, 0.3, 0.7):
        path.write_bytes(content[: int(len(content) * part)])
        assert str(path) in refused(ValueError, read_image, path)


def test_truncated_pil_image():
    content = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")
    assert "64 x 64" in refused(ValueError, read_image, Image.open(io.BytesIO(content[:2000])))


def test_decompression_bomb(path, monkeypatch):
    Image.fromarray(noise(9, 9, 3)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    message = refused(ValueError, read_image, path)
    assert "more pixels than the limit" in message
    assert "raise PIL.Image.MAX_IMAGE_PIXELS in Python, or GDINO_MAX_PIXELS in the environment" in message
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 81)
    assert read_image(path).size == (9, 9)


def test_the_environment_sets_the_limit_of_pixels(path, monkeypatch):
    Image.fromarray(noise(9, 9, 3)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    monkeypatch.setenv(MAX_PIXELS, "80")
    _limit_of_environment()
    assert "more pixels than the limit" in refused(ValueError, read_image, path)
    monkeypatch.setenv(MAX_PIXELS, "81")
    _limit_of_environment()
    with pytest.warns(Image.DecompressionBombWarning):  # PIL warns from half its limit on
        assert read_image(path).size == (9, 9)


@pytest.mark.parametrize("text", ["0", "-1", "1e9", "many", "9" * 5000])
def test_a_limit_of_pixels_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(MAX_PIXELS, text)
    message = refused(ValueError, _limit_of_environment)
    assert message.startswith("GDINO_MAX_PIXELS in the environment: expected a number of pixels, got ")
    assert len(message) < 120


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6, 3), np.int64),
        np.zeros((4, 6), bool),
        np.zeros((4, 6), np.uint16),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((4, 6, 1), np.uint8),
        np.zeros((1, 4, 6, 3), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.array([["a"]]),
    ],
)
def test_arrays_of_another_kind(array):
    message = refused(ValueError, read_image, array)
    assert str(array.dtype) in message
    assert str(list(array.shape)) in message


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(5, 6, 3),
        torch.zeros(4, 6),
        torch.zeros(1, 3, 4, 6),
        torch.zeros(2, 4, 6),
        torch.zeros(3, 0, 6),
        torch.zeros(3, 4, 6, dtype=torch.int64),
        torch.zeros(3, 4, 6, dtype=torch.bool),
    ],
)
def test_tensors_of_another_kind(tensor):
    message = refused(ValueError, read_image, tensor)
    assert f"got {tensor.dtype} {list(tensor.shape)}" in message


@pytest.mark.parametrize(("value", "words"), [(-2.1, "-2.1..0"), (255.0, "0..255"), (torch.nan, "nan..nan")])
def test_float_tensors_out_of_range(value, words):
    tensor = torch.zeros(3, 4, 6)
    tensor[0, 0, 0] = value
    assert f"expected a float tensor in 0..1, got {words}" in refused(ValueError, read_image, tensor)


@pytest.mark.parametrize("content", [b"", b"hello", b"photo.jpg", encoded(Image.fromarray(noise(64, 64, 3)))[:2000]])
def test_bytes_that_are_no_image(content):
    message = refused(ValueError, read_image, content)
    assert message.startswith(f"the image of {len(content)} bytes: expected ")
    assert "BytesIO" not in message


@pytest.mark.parametrize("source", [None, 3, bytearray(b"cat.png"), io.BytesIO(), [[0]]])
def test_other_types(source):
    assert type(source).__name__ in refused(ValueError, read_image, source)


def test_pil_images_that_have_no_pixels_or_no_range():
    refused(ValueError, read_image, Image.new("RGB", (0, 5)))
    refused(ValueError, read_image, Image.new("F", (3, 2)))
    refused(ValueError, read_image, Image.new("I", (3, 2), 65536))
    refused(ValueError, read_image, Image.new("I", (3, 2), -1))
    refused(ValueError, read_image, Image.new("La", (3, 2)))


HEADS = [
    encoded(Image.fromarray(noise(5, 4, 3)), form)
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
]


@pytest.mark.filterwarnings("ignore")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(head=st.sampled_from([b"", *HEADS]), cut=st.integers(0, 120), tail=st.binary(max_size=200))
def test_random_bytes_give_a_value_error_or_an_image(path, head, cut, tail):
    path.write_bytes(head[:cut] + tail)
    try:
        image = read_image(path)
    except ValueError:
        assert str(path) in refused(ValueError, read_image, path)
    else:
        assert image.mode == "RGB"
