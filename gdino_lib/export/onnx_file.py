"""Write a model as ONNX files: an image part with or without the text of one prompt in it, and a text part."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.atomic import atomic_file, reserved
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.export.detector import METADATA, text_file
from gdino_lib.export.parts import PRECISIONS, ImagePart, TextPart, exportable, recording
from gdino_lib.model.fixed_prompt import FixedPromptModel
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.prompts import tokenize

if TYPE_CHECKING:
    import onnx

OPSET = 18  # GridSample needs 16 or later
EXAMPLE_SIZE = 160, 224  # height and width of the image with which a graph for all sizes is recorded
EXAMPLE_PHRASES = ("cat", "remote control")
IMAGE_AXES = {"pixel_values": {2: "height", 3: "width"}}
TEXT_AXES = {name: {1: "tokens"} for name in ("text_features", "token_blocks", "token_positions")}
OUTPUT_AXES = {"logits": {1: "queries", 2: "tokens"}, "boxes": {1: "queries"}}
SEQUENCE_AXES = {name: {0: "sequences", 1: "length"} for name in ("input_ids", "attention_mask", "features")}

Axes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class ExportOptions:
    """What an exported file takes as inputs.

    Attributes:
        phrases: the phrases to look for; None: the text is an input.
        size: (height, width) in pixels that all images have; None: images may have any size.
        precision: "fp32"; or "fp16", which stores the weights in half precision and computes in float32.

    Raises:
        ValueError: an unknown precision, or a size without pixels.
    """

    phrases: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.size is not None and min(self.size) < 32:
            raise ValueError(f"size: expected at least 32 x 32 pixels, got {self.size[0]} x {self.size[1]}")


def export_onnx(
    model: GroundingDINO, path: str | os.PathLike[str], options: ExportOptions, overwrite: bool = False
) -> list[Path]:
    """Write a model as ONNX files, which `gdino_lib.export.detector.OnnxDetector` runs.

    Inputs and outputs are those of `gdino_lib.export.parts.ImagePart` and `TextPart`. With phrases, the file has one input,
    `pixel_values`. Without phrases, the text part is written beside it, see `text_file`.

    Returns:
        The files.

    Raises:
        ModuleNotFoundError: onnx is not installed.
        FileExistsError: a file exists and `overwrite` is False.
        ValueError: a path without the suffix .onnx; phrases that need several prompts; a text mode other than
            "sub-sentence" without phrases.
        OSError: a file cannot be written; no half-written file is left.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: expected a file with the suffix .onnx")
    if options.phrases is None and model.config.text_mode != "sub-sentence":
        raise ValueError(f"text mode {model.config.text_mode!r}: only sub-sentence text can be an input; pass phrases")
    targets = [path] if options.phrases is not None else [path, text_file(path)]
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(reserved(target, overwrite))
        parts = image_part(model, options)
        about = {"phrases": options.phrases, "size": options.size} | {
            name: getattr(model.config, name) for name in ("short_side", "long_side", "max_tokens", "text_framed")
        }
        if options.phrases is None:
            _write(_text_graph(parts.model), text_file(path), about, options.precision)
        graph = _graph(parts.module, parts.arguments, parts.axes, ("logits", "boxes"))
        _write(graph, path, about, options.precision)
    return targets


@dataclass(frozen=True)
class RecordedPart:
    """An image part that can be recorded, with example arguments.

    Attributes:
        model: the copy that the part runs; module: the part.
        arguments: example tensors by the names of the inputs; axes: names of their axes whose length may change.
    """

    model: GroundingDINO
    module: nn.Module
    arguments: dict[str, Tensor]
    axes: Axes


def image_part(model: GroundingDINO, options: ExportOptions) -> RecordedPart:
    """The image part that `options` describe, with example arguments.

    Raises:
        ValueError: phrases that cannot be used, or that need several prompts.
    """
    phrases = _one_prompt(options.phrases, model.config.max_tokens) if options.phrases is not None else EXAMPLE_PHRASES
    model = exportable(model, options.precision)
    pixels = torch.randn(1, 3, *(options.size or EXAMPLE_SIZE), generator=torch.Generator().manual_seed(0))
    axes: Axes = IMAGE_AXES if options.size is None else {}
    if options.phrases is not None:
        module = FixedPromptModel(model, phrases).eval()
        model.text_encoder = nn.Identity()  # or a file of torch.export would hold its weights
        return RecordedPart(model, module, {"pixel_values": pixels}, axes)
    prompt = tokenize([phrases], model.config.max_tokens)
    with torch.no_grad():
        text = (model.text_encoder(prompt).features, prompt.blocks, prompt.positions)
    arguments = {"pixel_values": pixels} | dict(zip(TEXT_AXES, text, strict=True))
    return RecordedPart(model, ImagePart(model).eval(), arguments, {**axes, **TEXT_AXES})


def _one_prompt(phrases: tuple[str, ...], max_tokens: int) -> tuple[str, ...]:
    """The phrases in the order in which a `Detector` puts them into a prompt."""
    vocabulary = Vocabulary.build(phrases, max_tokens)
    if len(vocabulary.chunks) != 1:
        raise ValueError(
            f"phrases: expected at most {max_tokens} tokens together, got phrases for {len(vocabulary.chunks)} prompts; "
            "export with --dynamic-text, or with fewer phrases"
        )
    return vocabulary.chunks[0]


def _text_graph(model: GroundingDINO) -> onnx.ModelProto:
    ids = torch.tensor([[101, 102, 0], [101, 4937, 102]])  # [CLS] [SEP] and [CLS] cat [SEP]
    arguments = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    encoder: Any = model.text_encoder
    return _graph(TextPart(encoder).eval(), arguments, SEQUENCE_AXES, ("features",))


def _graph(module: nn.Module, arguments: Mapping[str, Tensor], axes: Axes, outputs: Sequence[str]) -> onnx.ModelProto:
    import onnx

    axes = {**axes, **{name: OUTPUT_AXES[name] for name in outputs if name in OUTPUT_AXES}}
    with tempfile.TemporaryDirectory() as folder, recording(), warnings.catch_warnings():
        # a tracer warns of each check of a shape; the export is tested with other sizes
        warnings.simplefilter("ignore")
        file = os.path.join(folder, "model.onnx")
        # `dynamo=False`, because torch.export (PyTorch 2.14) had not finished nano with symbolic heights and widths after
        # three minutes of CPU time. A trace records the arithmetic on sizes in two seconds.
        torch.onnx.export(
            module,
            tuple(arguments.values()),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(arguments),
            output_names=list(outputs),
            dynamic_axes={name: dict(numbers) for name, numbers in axes.items()},
        )
        return onnx.load(file)


def _write(graph: onnx.ModelProto, path: Path, about: Mapping[str, Any], precision: str) -> None:
    import onnx

    if precision == "fp16":
        store_in_half_precision(graph)
    onnx.helper.set_model_props(graph, {METADATA: json.dumps(about)})
    with atomic_file(path, "wb") as file:
        file.write(graph.SerializeToString())


def store_in_half_precision(graph: onnx.ModelProto) -> None:
    """Store the weights of a graph in float16 where this loses nothing, which `exportable` has made true for most of them.

    A Cast beside each weight gives float32 to the operators, as before. ONNX Runtime executes these Casts once, when it loads
    the file.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
