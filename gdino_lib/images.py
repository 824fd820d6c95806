"""From a file, a PIL image, an array or pixels as a tensor to the tensor that the model takes: read, resize, normalise, pad.

PyTorch is imported by the functions that return tensors, so that `gdino_lib.export.detector` can read images without it.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gdino_lib.messages import one_line, reason

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for red, green and blue in 0..1
IMAGE_STD = (0.229, 0.224, 0.225)

FEW_BITS = 14  # of 16: an image that uses no more is nearly black, because only the high byte of a value is kept
MAX_PIXELS = "GDINO_MAX_PIXELS"  # environment variable: how many pixels an image may have

UPRIGHT = {  # EXIF orientation -> how to turn the image upright; with any other value it is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: ImageSource) -> Image.Image:
    """Read an image, upright and in colour. Boxes refer to the pixels of the result.

    The pixels equal those of the official `Image.open(path).convert("RGB")`: alpha is dropped, not composited; grey is
    repeated; of several frames, the first is read. There are two exceptions. First, EXIF orientation is applied. The
    official code ignores it and sees people lying down. So draw boxes on the image returned here, not on the source.
    Second, 16-bit grey keeps its high byte, value // 256, as PIL does with 16-bit colour. `convert` clips grey instead,
    so that all values above 255 turn white. Many cameras and scanners use 10, 12 or 14 of the 16 bits. Such an image
    becomes nearly black, and a warning says so.

    Args:
        source: one of

            - a path, or the bytes of an encoded image, such as a JPEG from a web page;
            - a PIL image of any mode but F. Mode I (32-bit integers) is read as 8 bits if no value exceeds 255, else
              as 16 bits;
            - a uint8 array: RGB [H, W, 3] (OpenCV's are BGR: `array[..., ::-1]`), RGBA [H, W, 4] or grey [H, W];
            - a tensor, the channels first, on any device: RGB [3, H, W], RGBA [4, H, W] or grey [1, H, W]; uint8, or
              floats in 0..1, which are rounded to 8 bits.

    Returns:
        A decoded image of mode RGB. A file that is opened here is closed again. Reading the result again changes
        nothing. A PIL image that is already RGB and upright is returned itself, not copied.

    Raises:
        FileNotFoundError: there is no file at the path.
        ValueError: a folder; a file or bytes that PIL cannot read completely or refuses for the size
            (`Image.MAX_IMAGE_PIXELS`); an image without pixels; values without a fixed range (float arrays, mode F,
            mode I outside 0..65535) or outside it (float tensors); another shape or type.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if _is_tensor(source):
        return _from_tensor(source)
    if isinstance(source, Image.Image):
        return _decode(source, f"the PIL image of mode {source.mode}, {source.width} x {source.height}")
    file, name = _file(source)
    try:
        image = Image.open(file)
    except Exception as error:  # PIL's formats raise different errors: OSError, SyntaxError, struct.error, ...
        known = isinstance(file, io.BytesIO) and isinstance(error, UnidentifiedImageError)
        why = "an unknown format" if known else unreadable(error)  # PIL would print the address of the bytes
        raise ValueError(f"{name}: expected an image file that PIL can read, got {why}") from error
    with image:
        return _decode(image, name)


def _file(source: object) -> tuple[str | os.PathLike[str] | io.BytesIO, str]:
    """(what PIL opens, its name in messages)."""
    if isinstance(source, bytes):
        return io.BytesIO(source), f"the image of {len(source)} bytes"
    if not isinstance(source, str | os.PathLike):
        expected = "a path, bytes, a PIL image, a uint8 array or a tensor"
        raise ValueError(f"image: expected {expected}, got {type(source).__name__}")
    name = repr(os.fspath(source))  # quoted, so that a line break in it stays on one line
    if not os.path.exists(source):
        raise FileNotFoundError(f"{name}: no such file, expected an image")
    if os.path.isdir(source):
        raise ValueError(f"{name}: expected an image file, got a folder")
    return source, name


def unreadable(error: Exception) -> str:
    """Why PIL cannot read an image, in one line; for an image over PIL's limit of pixels, how to raise that limit."""
    if not isinstance(error, Image.DecompressionBombError):
        return reason(error)
    return (
        f"more pixels than the limit, which protects the memory ({one_line(error)}); for a file that you trust, raise "
        f"PIL.Image.MAX_IMAGE_PIXELS in Python, or {MAX_PIXELS} in the environment"
    )


def _limit_of_environment() -> None:
    """Let `GDINO_MAX_PIXELS` set PIL's limit; PIL raises an error above twice its `MAX_IMAGE_PIXELS`."""
    text = os.environ.get(MAX_PIXELS)
    if text:
        if not text.isdecimal() or len(text) > 18 or not int(text):  # Python refuses to read thousands of digits
            raise ValueError(f"{MAX_PIXELS} in the environment: expected a number of pixels, got {text[:40]!r}")
        Image.MAX_IMAGE_PIXELS = (int(text) + 1) // 2


def resized_size(width: int, height: int, short_side: int, long_side: int) -> tuple[int, int]:
    """The size to resize an image to, by the official rule (DETR's) and its rounding.

    The short side becomes `short_side`. If the long side would then exceed `long_side`, the long side becomes
    `long_side` instead. The rule rounds the short side first, so the long side can differ from `long_side`: 4 x 2000
    at 800 and 1333 becomes 3 x 1500. Small images are enlarged. If the official rule gives a side of 0, as for
    1 x 10000, the result is 1 pixel by `long_side`.

    Returns:
        Width and height in pixels, each at least 1. The official function returns them the other way round.

    Raises:
        ValueError: a number below 1.
    """
    if min(width, height, short_side, long_side) < 1:
        raise ValueError(
            f"expected sizes of at least 1 pixel, got image {width} x {height}, short side {short_side}, long side {long_side}"
        )
    shorter, longer = min(width, height), max(width, height)
    size = short_side
    if longer / shorter * size > long_side:
        size = round(long_side * shorter / longer)
    if size == 0:
        return (1, long_side) if width < height else (long_side, 1)
    if size == shorter:
        return width, height
    if width < height:
        return size, int(size * height / width)
    return int(size * width / height), size


def prepare(image: ImageSource, short_side: int = 800, long_side: int = 1333) -> Tensor:
    """Resize and normalise an image as the official code does, bit for bit.

    PIL's bilinear filter resizes the 8-bit values. Its triangle is as wide as a source pixel when enlarging and as a
    target pixel when shrinking (antialiasing), and each pass rounds to 8 bits. Torchvision's resize of tensors gives
    other values. At five sizes from 101 x 77 to 1066 x 800, `v2.functional.resize(antialias=True)` on uint8 differs
    by at most 1 grey level of 255; the mean difference is at most 0.0024 on noise and 0.19 on a photograph. Without
    antialiasing, the same photograph at 256 x 192 differs by up to 119 grey levels, 3.5 on average. (Measured by
    `test_images.py::test_error_of_the_tensor_resize`, torchvision 0.29 and Pillow 13 on an x86-64 CPU.)

    Args:
        image: anything that `read_image` takes.
        short_side, long_side: pixels, see `resized_size`.

    Returns:
        float32 [3, H, W] on the CPU, RGB: (value / 255 - mean) / standard deviation, both ImageNet's; between -2.2
        and 2.7.

    Raises:
        FileNotFoundError, ValueError: as for `read_image` and `resized_size`.
    """
    import torch

    image = read_image(image)
    image = image.resize(resized_size(*image.size, short_side, long_side), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # [H, W, 3] -> [3, H, W]
    mean, std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def pad(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Put images of different sizes into one batch, each at the top left; the rest is zeros, the mean colour.

    Padding changes the model's features slightly, in the official model as well. Images of one size need no padding.

    Args:
        images: B float tensors [3, H, W] on one device.

    Returns:
        pixel_values: float32 [B, 3, H, W], H and W of the tallest and the widest image.
        pixel_mask: bool [B, H, W], True = real. All True for a single image.

    Raises:
        ValueError: no images, or an image that is not float [3, H, W].
    """
    import torch

    if not len(images):
        raise ValueError("expected at least one image, got none")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(f"images[{index}]: expected float [3, H, W], got {image.dtype} {list(image.shape)}")
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixel_values = images[0].new_zeros(len(images), 3, height, width, dtype=torch.float32)
    pixel_mask = images[0].new_zeros(len(images), height, width, dtype=torch.bool)
    for image, values, mask in zip(images, pixel_values, pixel_mask, strict=True):
        values[:, : image.shape[1], : image.shape[2]] = image
        mask[: image.shape[1], : image.shape[2]] = True
    return pixel_values, pixel_mask


def _from_array(array: np.ndarray) -> Image.Image:
    colour_or_grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not colour_or_grey or not array.size:
        expected = "a uint8 array: RGB [H, W, 3], RGBA [H, W, 4] or grey [H, W]"
        raise ValueError(f"image: expected {expected}, got {array.dtype} {list(array.shape)}")
    image = Image.fromarray(array)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_tensor(source: object) -> TypeGuard[Tensor]:
    """Whether an object is a tensor; only a program that has imported PyTorch has tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _from_tensor(tensor: Tensor) -> Image.Image:
    import torch

    channels_first = tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4)
    is_pixels = tensor.dtype == torch.uint8 or tensor.is_floating_point()
    if not channels_first or not is_pixels or not tensor.numel():
        expected = "a tensor, uint8 or float: RGB [3, H, W], RGBA [4, H, W] or grey [1, H, W]"
        raise ValueError(f"image: expected {expected}, got {tensor.dtype} {list(tensor.shape)}")
    pixels = tensor.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float()
        low, high = pixels.min().item(), pixels.max().item()
        if not (low >= 0 and high <= 1):  # NaN, too, fails both comparisons
            raise ValueError(f"image: expected a float tensor in 0..1, got {low:.3g}..{high:.3g}")
        pixels = pixels.mul(255).round().to(torch.uint8)  # torchvision's to_pil_image cuts off instead
    array = pixels.permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    return _from_array(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def _decode(image: Image.Image, name: str) -> Image.Image:
    if not image.width or not image.height:
        raise ValueError(f"{name}: expected an image with pixels, got {image.width} x {image.height}")
    is_deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # PIL's code for 16 bits per value
    try:
        # load before reading the orientation: when PIL loads a TIFF file, it applies the orientation and removes it
        image.load()
    except Exception as error:
        raise ValueError(f"{name}: expected a whole image, got {unreadable(error)}") from error
    if is_deep and not image.mode.startswith("I"):  # a colour image; PIL keeps the high bytes of its values
        _warn_of_few_bits(int(np.asarray(image.convert("RGB")).max()) << 8, name)
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
        turn = None
    if image.mode == "RGB" and turn is None:
        return image
    colour = _to_rgb(image, name)
    if turn is not None:
        colour = colour.transpose(turn)
    colour.info = {}
    return colour


def _warn_of_few_bits(highest: int, name: str) -> None:
    """Warn of 16-bit values that leave their high bits unused, as values of 10, 12 or 14 bits do."""
    if highest and highest.bit_length() <= FEW_BITS:
        message = (
            f"{name}: its 16-bit values use {highest.bit_length()} bits, so it is read as nearly black; scale them up"
        )
        warnings.warn(message, stacklevel=5)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError(f"{name}: mode F has no fixed range, expected values scaled to 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{name}: expected values within 0..65535, got {values.min()}..{values.max()}")
        if image.mode != "I" or values.max() > 255:
            _warn_of_few_bits(int(values.max()), name)
            values = values >> 8
        image = Image.fromarray(values.astype(np.uint8))
    try:
        return image.convert("RGB")
    except Exception as error:
        raise ValueError(f"{name}: expected a mode that converts to RGB, got {reason(error)}") from error


_limit_of_environment()
