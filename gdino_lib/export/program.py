"""Write a model as a file of torch.export, which PyTorch runs without this package."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import torch

from data_prep.atomic import atomic_file, reserved
from gdino_lib.export.onnx_file import ExportOptions, image_part
from gdino_lib.export.parts import recording
from gdino_lib.model.grounding_dino import GroundingDINO


def export_program(
    model: GroundingDINO, path: str | os.PathLike[str], options: ExportOptions, overwrite: bool = False
) -> Path:
    """Write an image part with the text of one prompt in it, for images of one size.

        program = torch.export.load("nano.pt2")
        logits, boxes = program.module()(pixel_values)

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: a path without the suffix .pt2; no phrases or no size; a precision other than "fp32"; phrases that need
            several prompts.
        OSError: the file cannot be written; no half-written file is left.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"{path}: expected a file with the suffix .pt2")
    if options.phrases is None or options.size is None or options.precision != "fp32":
        raise ValueError(
            "torch-export: expected phrases, a size and fp32; only ONNX files have other inputs and precisions"
        )
    with reserved(path, overwrite):
        part = image_part(model, options)
        with recording(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the weights of the image part that it does not use
            program = torch.export.export(part.module, tuple(part.arguments.values()), strict=False)
            data = io.BytesIO()
            torch.export.save(program, data)
        with atomic_file(path, "wb") as file:
            file.write(data.getbuffer())
    return path
