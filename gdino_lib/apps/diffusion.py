"""A diffusion model as an operation of `gdino_lib.apps.edit`: it paints what a text says into the regions.

>>> pipeline = load_pipeline("folder-or-name-of-an-inpainting-model")
>>> edited = edit(image, found, Diffusion(pipeline, DiffusionSettings("a red fox", seed=1)))

The pipeline is one of `diffusers`, which `pip install 'gdino_lib[edit]'` installs; this module imports without it.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from gdino_lib.apps.edit import bounds_of
from gdino_lib.apps.other_models import check_model, hide_progress_without_terminal
from gdino_lib.detect.dtypes import DTYPES
from gdino_lib.messages import first_line
from gdino_lib.ranges import CheckedFields, NonNegativeFloat, PositiveInt, Range, Seed
from gdino_lib.weights.loading import choose_device

NEEDED = ("prompt", "image", "mask_image", "height", "width", "strength", "num_inference_steps", "generator")
SMALLEST = (
    8  # a window is at least this part of the model's resolution: beyond eightfold enlargement there is no context
)


class RefusedError(ValueError):
    """The model's own safety checker refuses what the model has painted."""


@dataclass(frozen=True)
class DiffusionSettings(CheckedFields):
    """What to paint, and how.

    Attributes:
        prompt: what the regions shall show; empty: whatever the model thinks belongs there.
        negative_prompt: what they shall not show; empty: nothing. Not every pipeline takes it.
        seed: of the first region's noise; the next region has the next seed. On one machine, equal seeds give equal pictures.
        strength: share of the denoising steps that run, above 0, at most 1. At 1 a region starts from noise; below, it starts
            from its own pixels with noise on them and keeps their layout.
        steps: denoising steps at full strength.
        guidance: weight of the prompt; 1 switches guidance off.
        size: the resolution in pixels at which the model paints; 0: its own.
        context: side of the window that the model sees, in longer sides of the region.
    """

    prompt: str
    negative_prompt: str = ""
    seed: Seed = 0
    strength: Annotated[float, Range(0, 1, above=True)] = 1.0
    steps: PositiveInt = 30
    guidance: NonNegativeFloat = 7.5
    size: Annotated[int, Range(0, 8192)] = 0
    context: Annotated[float, Range(1, 100)] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if int(self.strength * self.steps) < 1:
            raise ValueError(
                f"strength and steps: expected at least one step, got the share {self.strength} of {self.steps} steps"
            )


def require_diffusers() -> None:
    """Make sure that `diffusers` is installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec("diffusers") is None:
        raise ValueError("diffusers is not installed; pip install 'gdino_lib[edit]'")


def load_pipeline(path_or_name: str | os.PathLike[str], device: str = "auto", dtype: str = "float32") -> Any:
    """An inpainting pipeline of `diffusers`, whatever its architecture; only safetensors are read, and no code.

    Args:
        path_or_name: a folder in the layout of `diffusers`, or a name on the Hugging Face hub, which is downloaded once.
        device: as `gdino_lib.load` takes it.
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Raises:
        FileNotFoundError: there is no such pipeline, or it cannot be downloaded.
        ValueError: `diffusers` is not installed, another kind of model, or a device or dtype that cannot be used.
    """
    require_diffusers()
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    place = choose_device(device)
    source = check_model(path_or_name, "model_index.json", "an inpainting pipeline")
    from diffusers.pipelines.auto_pipeline import AutoPipelineForInpainting

    hide_progress_without_terminal()
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(source, use_safetensors=True)
    except Exception as error:  # the configuration and the weights each have errors of their own
        raise ValueError(
            f"{source!r}: expected an inpainting pipeline that diffusers can load, got {first_line(error)}"
        ) from None
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipeline.to(place, DTYPES[dtype])


class Diffusion:
    """A `gdino_lib.apps.edit.Operation`: the pipeline paints the regions one after the other.

    For each region it sees a window, a part of the image around the region, enlarged or reduced to the model's own resolution.
    So an object of 40 pixels is painted with as much detail as the model can give, then reduced again.

    Args:
        pipeline: from `load_pipeline`, or any object that is called like `diffusers.StableDiffusionInpaintPipeline`.
        settings: what to paint.

    Raises:
        ValueError: the pipeline does not take a prompt, an image and a mask, or it does not tell its resolution.
    """

    def __init__(self, pipeline: Any, settings: DiffusionSettings) -> None:
        known = inspect.signature(pipeline.__call__).parameters
        missing = [name for name in NEEDED if name not in known]
        if missing:
            raise ValueError(
                f"{type(pipeline).__name__} does not take {', '.join(missing)}; expected an inpainting pipeline"
            )
        self.pipeline = pipeline
        self.settings = settings
        self.size = settings.size or native_size(pipeline)

    def __call__(self, pixels: np.ndarray, regions: np.ndarray) -> np.ndarray:
        """New pixels uint8 [H, W, 3] for pixels of this shape and regions bool [N, H, W].

        Raises:
            RefusedError: the model's own safety checker refuses what it has painted.
        """
        for number, region in enumerate(regions):
            if region.any():
                window = window_around(bounds_of(region), region.shape, self.settings.context, self.size // SMALLEST)
                painted = self._paint(pixels[window], region[window], (self.settings.seed + number) % 2**64)
                pixels = pixels.copy()
                pixels[window][region[window]] = painted[region[window]]
        return pixels

    def _paint(self, pixels: np.ndarray, region: np.ndarray, seed: int) -> np.ndarray:
        """The window uint8 [h, w, 3], painted at the model's resolution and brought back to its size."""
        height, width = region.shape
        multiple = 2 * self.pipeline.vae_scale_factor
        scale = self.size / max(height, width)
        w, h = (max(round(length * scale / multiple), 1) * multiple for length in (width, height))
        optional = {"guidance_scale": self.settings.guidance, "negative_prompt": self.settings.negative_prompt or None}
        known = inspect.signature(self.pipeline.__call__).parameters
        painted = self.pipeline(
            prompt=self.settings.prompt,
            image=Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS),
            mask_image=Image.fromarray(region).convert("L").resize((w, h), Image.Resampling.NEAREST),
            height=h,
            width=w,
            strength=float(self.settings.strength),
            num_inference_steps=self.settings.steps,
            generator=torch.Generator("cpu").manual_seed(
                seed
            ),  # on the CPU, so that a seed means the same on every device
            **{name: value for name, value in optional.items() if name in known and value is not None},
        )
        if any(getattr(painted, "nsfw_content_detected", None) or ()):
            raise RefusedError(
                f"the model's safety checker refuses what it painted for {self.settings.prompt!r} with seed {seed}; "
                "try another seed"
            )
        return np.asarray(painted.images[0].resize((width, height), Image.Resampling.LANCZOS))


def native_size(pipeline: Any) -> int:
    """The side in pixels of the square pictures that a pipeline was trained on.

    Raises:
        ValueError: it does not tell.
    """
    unet = getattr(pipeline, "unet", None)
    latents = getattr(pipeline, "default_sample_size", None) if unet is None else unet.config.sample_size
    if not isinstance(latents, int) or latents < 1:
        raise ValueError(f"{type(pipeline).__name__} does not tell its resolution; give size, in pixels")
    return latents * pipeline.vae_scale_factor


def window_around(
    bounds: tuple[slice, slice], shape: tuple[int, ...], context: float, least: int
) -> tuple[slice, slice]:
    """The part of an image around a region: a square inside the image, or a rectangle where the image is narrower.

    Args:
        bounds: (rows, columns) of the region.
        shape: (height, width) of the image.
        context: side of the square in longer sides of the region, at least 1.
        least: pixels, least side of the square.
    """
    side = max(round(context * max(part.stop - part.start for part in bounds)), least)
    parts = []
    for part, length in zip(bounds, shape, strict=True):
        size = min(side, length)
        start = min(max((part.start + part.stop - size) // 2, 0), length - size)
        parts.append(slice(start, start + size))
    return parts[0], parts[1]
