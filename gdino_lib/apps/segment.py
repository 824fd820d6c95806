"""From boxes to masks: which pixels of a box belong to the object.

>>> found = segment(image, detector(image, ["dog"]))
>>> found.mask  # bool [N, H, W]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from gdino_lib.images import ImageSource, read_image

if TYPE_CHECKING:
    import supervision as sv

Segmenter: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(pixels uint8 [H, W, 3] in RGB, boxes float32 [N, 4] as x1, y1, x2, y2 in pixels) -> masks bool [N, H, W]."""

MARGIN = 0.25  # of a box's width and height: the strip around it in which GrabCut learns the background
LONGEST = 512  # pixels; GrabCut works on a smaller copy where a box with its margin is longer
ITERATIONS = 5
FEWEST = 16  # pixels inside and around a box; GrabCut fits five colours to each side


def segment(
    image: ImageSource, found: sv.Detections, with_: Literal["grabcut", "box", "sam2"] | Segmenter = "grabcut"
) -> sv.Detections:
    """A copy of detections with a mask for each box.

    Args:
        image: the image that was searched, as the Detector takes it.
        found: its boxes, `xyxy` in pixels of the upright image.
        with_: "grabcut", "box" (see `grabcut` and `whole_boxes`), "sam2" (`gdino_lib.apps.sam2.Sam2` with its default
            weights, downloaded once), or a function of pixels and boxes such as `Sam2("folder")`; see `Segmenter`.

    Returns:
        The same detections with `mask`: bool [N, H, W], True at the object's pixels.

    Raises:
        FileNotFoundError, ValueError: an image that cannot be read, an unknown name, a package that is not installed, or
            masks of another shape or type than promised.
    """
    pixels = np.array(read_image(image))
    segmenter = choose_segmenter(with_) if isinstance(with_, str) else with_
    shape = (len(found), *pixels.shape[:2])
    if not len(found):
        return replace(found, mask=np.zeros(shape, dtype=bool))
    masks = np.asarray(segmenter(pixels, np.asarray(found.xyxy, dtype=np.float32)))
    if masks.dtype != bool or masks.shape != shape:
        raise ValueError(f"masks: expected bool {list(shape)}, got {masks.dtype} {list(masks.shape)}")
    return replace(found, mask=masks)


def choose_segmenter(name: str, device: str = "auto") -> Segmenter:
    """The segmenter called "grabcut", "box" or "sam2"; any other name is where the weights of a SAM 2 are.

    Raises:
        FileNotFoundError, ValueError: as `Sam2`; OpenCV is not installed.
    """
    if name == "grabcut":
        require_opencv()
        return grabcut
    if name == "box":
        return whole_boxes
    from gdino_lib.apps.sam2 import WEIGHTS, Sam2  # imports PyTorch and transformers

    return Sam2(WEIGHTS if name == "sam2" else name, device)


def require_opencv() -> None:
    """Make sure that OpenCV is installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec("cv2") is None:
        raise ValueError("OpenCV is not installed; pip install 'gdino_lib[edit]'")


def whole_boxes(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Masks that fill their boxes: every pixel that a box touches. A `Segmenter`."""
    masks = np.zeros((len(boxes), *pixels.shape[:2]), dtype=bool)
    for mask, box in zip(masks, boxes, strict=True):
        mask[_slices(box, pixels)] = True
    return masks


def grabcut(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Masks by OpenCV's GrabCut, which separates two mixtures of colours by a minimal cut. A `Segmenter`.

    GrabCut (Rother, Kolmogorov and Blake, 2004) takes everything outside a box for background, so a mask never leaves its
    box. An object whose colours resemble the background around it loses parts. Where GrabCut cannot work, because a box
    fills the image or has hardly any pixels, or where it finds no object, the mask is the whole box. Equal inputs give equal
    masks.
    """
    require_opencv()
    masks = np.zeros((len(boxes), *pixels.shape[:2]), dtype=bool)
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = _slices(box, pixels)
        outer = _with_margin(rows, pixels.shape[0]), _with_margin(columns, pixels.shape[1])
        inner = tuple(
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip((rows, columns), outer, strict=True)
        )
        mask[outer] = _cut_out(pixels[outer], inner)
    return masks


def _slices(box: np.ndarray, pixels: np.ndarray) -> tuple[slice, slice]:
    """(rows, columns) of the pixels that a box touches, at least one of each, inside the image."""
    height, width = pixels.shape[:2]
    (x1, y1), (x2, y2) = np.floor(box[:2]), np.ceil(box[2:])
    left, top = int(np.clip(x1, 0, width - 1)), int(np.clip(y1, 0, height - 1))
    return slice(top, int(np.clip(y2, top + 1, height))), slice(left, int(np.clip(x2, left + 1, width)))


def _with_margin(part: slice, length: int) -> slice:
    margin = int(np.ceil(MARGIN * (part.stop - part.start)))
    return slice(max(part.start - margin, 0), min(part.stop + margin, length))


def _cut_out(pixels: np.ndarray, inner: tuple[slice, ...]) -> np.ndarray:
    """The mask bool [H, W] of the object in the box `inner`, (rows, columns) of uint8 [H, W, 3]."""
    import cv2

    height, width = pixels.shape[:2]
    box = np.zeros((height, width), dtype=np.uint8)
    box[inner] = 1
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(box, size, interpolation=cv2.INTER_NEAREST) * np.uint8(cv2.GC_PR_FGD)  # the rest is GC_BGD, 0
    if min((labels == 0).sum(), (labels != 0).sum()) < FEWEST:
        return box.astype(bool)
    cv2.setRNGSeed(0)  # GrabCut starts from k-means with random centres
    cv2.grabCut(
        np.ascontiguousarray(small),
        labels,
        (0, 0, 1, 1),  # not used beside a mask
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        ITERATIONS,
        cv2.GC_INIT_WITH_MASK,
    )
    kept = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8) * 255
    mask = (cv2.resize(kept, (width, height), interpolation=cv2.INTER_LINEAR) > 127) & box.astype(bool)
    return mask if mask.any() else box.astype(bool)


def coco_fields(found: sv.Detections, form: Literal["rle", "polygons"] = "rle") -> list[Mapping[str, Any]]:
    """The fields of a COCO annotation that describe the mask of each box: `segmentation`, `area` and `iscrowd`.

    Args:
        found: with `mask`.
        form: "rle": compressed run lengths, from which `pycocotools` decodes exactly the mask. "polygons": outlines as
            [x1, y1, x2, y2, ...], one for each part. COCO's polygons have no holes: `pycocotools` decodes the mask with its
            holes filled.

    Returns:
        One dictionary a box, for `data_prep.Box.extra`; `area` counts the mask's pixels.

    Raises:
        ValueError: no masks, or an unknown form.
    """
    import supervision as sv

    if form not in ("rle", "polygons"):
        raise ValueError(f"form: expected rle or polygons, got {form!r}")
    fields = []
    for mask in masks_of(found):
        height, width = mask.shape
        if form == "rle":
            segmentation: Any = {"size": [height, width], "counts": sv.mask_to_rle(mask, compressed=True)}
        else:
            # outlines run through the centres of the outermost pixels, which at twice the size lie a quarter pixel inside
            doubled = sv.mask_to_polygons(mask.repeat(2, axis=0).repeat(2, axis=1))
            segmentation = [((polygon + 0.5) / 2).flatten().tolist() for polygon in doubled]
        fields.append({"segmentation": segmentation, "area": int(mask.sum()), "iscrowd": 0})
    return fields


def masks_of(found: sv.Detections) -> np.ndarray:
    """The masks of detections, bool [N, H, W].

    Raises:
        ValueError: there are none.
    """
    if found.mask is None:
        raise ValueError("expected detections with masks, got boxes only; gdino_lib.apps.segment.segment adds them")
    return np.asarray(found.mask, dtype=bool)
