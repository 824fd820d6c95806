"""Guided image editing: what a phrase finds is removed, blurred, recoloured or replaced, and nothing else changes.

>>> found = segment(image, detector(image, ["dog"]))
>>> edited = edit(image, found, "recolour", "teal")

The steps are: boxes -> masks (`gdino_lib.apps.segment`) -> regions, the masks grown by a few pixels -> new pixels -> composite. In
the composite the new pixels fade in over the edge of the regions, and every pixel outside keeps its value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageColor

from gdino_lib.apps.segment import masks_of, require_opencv
from gdino_lib.images import ImageSource, read_image
from gdino_lib.nano import pictograms
from gdino_lib.nano.drawings import draw

if TYPE_CHECKING:
    import supervision as sv

Operation: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(pixels uint8 [H, W, 3] in RGB, regions bool [N, H, W]) -> new pixels uint8 [H, W, 3], of which the regions are used."""
Action: TypeAlias = Literal["remove", "blur", "recolour", "replace"]

ACTIONS = ("remove", "blur", "recolour", "replace")
GROWN = 64  # by default a region is its mask grown by this part of the image's shorter side
WIDEST = 65_535  # pixels that a mask can grow by
RADIUS = 5  # pixels around the front from which inpainting takes colours
BLURRED_SIDE = 128  # pixels; a region is blurred on a copy of at most this size, which a wide kernel crosses fast
BLUR = 1 / 6  # standard deviation of the blur, as a part of a region's longer side


def edit(
    image: ImageSource,
    found: sv.Detections,
    do: Action | Operation,
    with_: str | None = None,
    *,
    grow: int | None = None,
    feather: int | None = None,
) -> Image.Image:
    """Edit the objects that detections enclose.

    Args:
        image: the image that was searched, as the Detector takes it.
        found: with `mask`, see `gdino_lib.apps.segment.segment`.
        do: "remove": fill from the surroundings (OpenCV's inpainting). "blur". "recolour": move the mean colour to `with_`.
            "replace": remove, then draw the pictogram `with_` into the box. Or a function of pixels and regions, such as
            `gdino_lib.apps.diffusion.Diffusion`; see `Operation`.
        with_: a colour that Pillow knows, "teal" or "#008080", to recolour; the name of a pictogram, "fox", to replace.
        grow: pixels by which a mask grows into a region, because masks miss the edge of their objects and their shadows.
            None: 1/64 of the image's shorter side, at least 1; to recolour 0, because a coloured rim would show.
        feather: pixels at the edge of a region in which the edit fades in. None: half of `grow`.

    Returns:
        Mode RGB, as large as the upright image. Every pixel outside the regions has its value of `image`, unless a pictogram
        covers it; a pictogram never leaves its box. Without detections, an equal image.

    Raises:
        FileNotFoundError, ValueError: an image that cannot be read, detections without masks or with masks of another size,
            an action, a colour or a pictogram that is not known, a number out of range, or a package that is not installed.
    """
    original = read_image(image)
    pixels = np.array(original)
    masks = masks_of(found)
    if masks.shape[1:] != pixels.shape[:2]:
        raise ValueError(f"masks: expected the image's size {list(pixels.shape[:2])}, got {list(masks.shape[1:])}")
    by = grow if grow is not None else 0 if do == "recolour" else max(min(pixels.shape[:2]) // GROWN, 1)
    fade = by // 2 if feather is None else feather
    if not (0 <= by <= WIDEST and 0 <= fade <= WIDEST):
        raise ValueError(f"grow and feather: expected 0..{WIDEST} pixels, got {by} and {fade}")
    if callable(do) and with_ is not None:
        raise ValueError(f"with_: expected None beside a function, got {with_!r}")
    operation = do if callable(do) else choose_operation(do, with_)
    if not len(found):
        return Image.fromarray(pixels)
    regions = grown(masks, by)
    new = operation(pixels.copy(), regions)
    if new.dtype != np.uint8 or new.shape != pixels.shape:
        raise ValueError(f"new pixels: expected uint8 {list(pixels.shape)}, got {new.dtype} {list(new.shape)}")
    edited = Image.fromarray(composite(pixels, new, opacity(union(regions), fade)))
    return paste(edited, found, pictogram(with_)) if do == "replace" and with_ is not None else edited


def choose_operation(do: str, with_: str | None) -> Operation:
    """The operation of an action.

    Raises:
        ValueError: an unknown action, colour or pictogram; a colour or pictogram where none belongs, or none where one does;
            OpenCV or the extra `scenes` is not installed.
    """
    if do not in ACTIONS:
        raise ValueError(f"do: expected one of {', '.join(ACTIONS)}, got {do!r}")
    wanted = {"recolour": "a colour", "replace": "the name of a pictogram"}.get(do)
    if (with_ is None) != (wanted is None):
        raise ValueError(f"{do}: expected {wanted or 'nothing'} to do it with, got {with_!r}")
    require_opencv()
    if do == "blur":
        return blur
    if with_ is None:
        return remove
    if do == "replace":
        pictogram(with_)
        return remove
    try:
        colour = ImageColor.getrgb(with_)[:3]
    except ValueError:
        raise ValueError(f'recolour: expected a colour such as "teal" or "#008080", got {with_!r}') from None
    return lambda pixels, regions: recolour(pixels, regions, colour)


def grown(masks: np.ndarray, by: int) -> np.ndarray:
    """Masks bool [N, H, W] with every pixel that lies at most `by` pixels from a True one."""
    import cv2

    result = np.zeros_like(masks)
    for mask, region in zip(masks, result, strict=True):
        if mask.any():  # OpenCV has no distance to nothing
            region[:] = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= by
    return result


def union(regions: np.ndarray) -> np.ndarray:
    """The pixels of all regions, bool [N, H, W] -> [H, W]."""
    return np.asarray(regions.any(axis=0))


def opacity(region: np.ndarray, feather: int) -> np.ndarray:
    """How far the edit covers each pixel: float32 [H, W], 0 outside a region bool [H, W], rising to 1 over `feather` pixels."""
    import cv2

    padded = np.pad(region, 1, mode="edge").astype(np.uint8)  # at the border of the image nothing fades
    if padded.all():  # OpenCV has no distance to nothing
        return np.ones(region.shape, dtype=np.float32)
    inside = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.minimum(inside / (feather + 1), 1).astype(np.float32)


def composite(pixels: np.ndarray, new: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Both mixed, uint8 [H, W, 3]: `new` by the share `alpha`, float [H, W]; where `alpha` is 0, exactly `pixels`."""
    result = pixels.copy()
    inside = alpha > 0
    share = alpha[inside, None]
    result[inside] = np.rint(share * new[inside] + (1 - share) * pixels[inside]).astype(np.uint8)
    return result


def remove(pixels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Fill the regions from their surroundings by Telea's inpainting (2004). An `Operation`.

    It continues colours, no textures: a large region becomes a smear.
    """
    import cv2

    return cv2.inpaint(pixels, union(regions).astype(np.uint8), RADIUS, cv2.INPAINT_TELEA)


def blur(pixels: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Blur each region by a Gaussian as wide as a sixth of its longer side. An `Operation`.

    A face can then not be recognised by looking at it. The large shapes and colours remain, and programs may recover more than
    people see; remove what must not be known.
    """
    import cv2

    result = pixels.copy()
    for region in regions:
        if not region.any():
            continue
        bounds = bounds_of(region)
        part = result[bounds]
        height, width = part.shape[:2]
        scale = min(1.0, BLURRED_SIDE / max(height, width))
        small = cv2.resize(
            part, (max(round(width * scale), 1), max(round(height * scale), 1)), interpolation=cv2.INTER_AREA
        )
        blurred = cv2.GaussianBlur(small, (0, 0), BLUR * max(small.shape[:2]), borderType=cv2.BORDER_REPLICATE)
        wide = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
        part[region[bounds]] = wide[region[bounds]]
    return result


def recolour(pixels: np.ndarray, regions: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    """Move the mean colour of each region to `colour`, RGB 0..255, in CIELAB; light, shadow and texture stay."""
    import cv2

    target = cv2.cvtColor(np.array([[colour]], dtype=np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    result = pixels.copy()
    for region in regions:
        if region.any():
            lab = cv2.cvtColor(result[region][None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)  # (1, n, 3)
            moved = cv2.cvtColor(lab - lab.mean((0, 1)) + target, cv2.COLOR_LAB2RGB)[0]
            result[region] = np.rint(np.clip(moved, 0, 1) * 255).astype(np.uint8)
    return result


def bounds_of(region: np.ndarray) -> tuple[slice, slice]:
    """(rows, columns) of the smallest rectangle around the True pixels of bool [H, W]; there must be at least one."""
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def paste(image: Image.Image, found: sv.Detections, picture: Image.Image) -> Image.Image:
    """A copy of an image with a picture in each box: as large as fits, in the middle, not stretched.

    Args:
        image: mode RGB.
        found: boxes inside the image, drawn in their order.
        picture: mode RGBA; where it is transparent, and outside the boxes, the image keeps its pixels.
    """
    result = image.copy()
    for x1, y1, x2, y2 in np.asarray(found.xyxy, dtype=float):
        left, top, right, bottom = (int(value) for value in (np.ceil(x1), np.ceil(y1), np.floor(x2), np.floor(y2)))
        scale = min((right - left) / picture.width, (bottom - top) / picture.height)
        size = [int(length * scale) for length in picture.size]
        if min(size) < 1:
            continue
        fitted = picture.resize(size, Image.Resampling.LANCZOS)
        result.paste(fitted, (left + (right - left - size[0]) // 2, top + (bottom - top - size[1]) // 2), fitted)
    return result


def pictogram(name: str, side: int = 512) -> Image.Image:
    """The pictogram of a name, RGBA, `side` pixels at its longer side.

    Raises:
        ValueError: there is no such pictogram, or the extra `scenes` is not installed.
    """
    wordings = {wording.casefold(): thing for thing in pictograms.pictograms() for wording in thing.wordings}
    thing = wordings.get(name.strip().casefold())
    if thing is None:
        words = name.casefold().split()
        near = [word for word in words if word in wordings] or difflib.get_close_matches(name.casefold(), wordings)
        hint = f"; similar are {', '.join(near)}" if near else ""
        raise ValueError(f"replace: no pictogram is called {name!r}{hint}")
    return draw(thing.drawings[0], side)
