"""Compare an exported file with the model that it was exported from: their results, and their times.

The image tokens that become queries are sorted by their scores, and each rank has learned contents of its own. Scores of two
tokens can be equal up to rounding. Then two right programs may sort them differently, and the boxes of both ranks differ. So
the model is run with the order of the exported file, and the order itself is compared with the model's scores.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gdino_lib.detect.detector import Detector
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.export.detector import OnnxDetector, model_pixels
from gdino_lib.export.onnx_file import ExportOptions
from gdino_lib.export.parts import exportable
from gdino_lib.images import ImageSource, read_image
from gdino_lib.messages import shortened
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.timm_backbone import fold_batch_norms

MOST_SCORE, MOST_PIXELS, MOST_ORDER = 1e-3, 1.0, 1e-4  # differences that rounding explains
THINGS = ("cat", "dog", "bus", "car", "cup", "pen", "hat", "box", "key", "jar")
PROMPTS = (  # for files that take any phrases: one phrase, several, and many
    ("face",),
    ("a woman in uniform", "flag", "glasses", "medal"),
    tuple(f"{colour} {thing}" for colour in ("red", "blue", "green", "old") for thing in THINGS),
)


class Difference(NamedTuple):
    """How far an exported file's results are from the model's.

    Attributes:
        score: largest difference of a token's score, in 0..1.
        pixels: largest difference of a box's edge, centre or side.
        order: largest amount by which the order of the queries contradicts the model's scores, as a share of their range.
    """

    score: float
    pixels: float
    order: float

    @property
    def is_small(self) -> bool:
        """Whether rounding explains the differences."""
        return self.score <= MOST_SCORE and self.pixels <= MOST_PIXELS and self.order <= MOST_ORDER


def photograph() -> Path:
    """A photograph that is installed with matplotlib: Grace Hopper in uniform, 512 x 600 pixels."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


class OpenedFile:
    """An ONNX file that was exported, with the order of its queries as a further output.

    Attributes:
        detector: the file as a detector.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        import onnx
        import onnxruntime

        self.detector = OnnxDetector(path, threads)
        graph = onnx.load(path)
        self._outputs = ["logits", "boxes", *(node.output[1] for node in graph.graph.node if node.op_type == "TopK")]
        for name in self._outputs[2:]:  # empty if the queries are static
            graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = threads or 0, 3  # 3: errors only
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), settings)

    def run(self, image: ImageSource, phrases: Sequence[str]) -> list[Tensor]:
        """Logits [1, Q, T], boxes [1, Q, 4] and, unless queries are static, the image token of each query [1, Q]."""
        found = self._session.run(self._outputs, self.detector.inputs(image, phrases))
        return [torch.from_numpy(np.asarray(each)) for each in found]


def difference(model: GroundingDINO, exported: OpenedFile, image: ImageSource, phrases: Sequence[str]) -> Difference:
    """How far an exported file's results for one image are from those of a model on the CPU, for the same pixels."""
    upright = read_image(image)
    pixels = torch.from_numpy(exported.detector.pixels(upright))
    return _difference(model, pixels, phrases, exported.run(upright, phrases), upright.size)


def _difference(
    model: GroundingDINO, pixels: Tensor, phrases: Sequence[str], found: list[Tensor], size: tuple[int, int]
) -> Difference:
    """The same for given pixels, float [1, 3, H, W], and results as from `OpenedFile.run`; `size` is (width, height)."""
    (chunk,) = Vocabulary.build(tuple(phrases), model.config.max_tokens).chunks
    logits, boxes, *chosen = found
    with torch.no_grad(), _GivenOrder(chosen) as given:
        out = model.eval()(pixels, [chunk])
    scale = torch.tensor([*size, *size])
    return Difference(
        (out.logits.sigmoid() - logits.sigmoid()).abs().max().item(),
        ((out.boxes - boxes) * scale).abs().max().item(),
        given.contradiction,
    )


class _GivenOrder(TorchFunctionMode):
    """Replaces the model's choice of image tokens by a given choice.

    Attributes:
        contradiction: see `Difference.order`.
    """

    def __init__(self, chosen: list[Tensor]) -> None:
        super().__init__()
        self.chosen, self.contradiction = chosen, 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.topk:
            return result
        scores, (chosen,) = args[0], self.chosen
        ours, given = result.values, scores.gather(1, chosen)
        self.contradiction = ((ours - given).abs().max() / (scores.max() - scores.min())).item()
        return type(result)((given, chosen))


class _Choice(TorchDispatchMode):
    """Records the image tokens that a program of torch.export chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.topk.default:
            self.chosen.append(result[1])
        return result


def times(
    model: GroundingDINO, exported: OnnxDetector, image: ImageSource, phrases: Sequence[str], repeats: int = 5
) -> tuple[float, float]:
    """Median seconds that the model's `Detector` and the exported file take for one image; they take turns."""
    upright, detector = read_image(image), Detector(fold_batch_norms(copy.deepcopy(model)))
    calls: tuple[Callable[[], object], ...] = (lambda: detector(upright, phrases), lambda: exported(upright, phrases))
    seconds: tuple[list[float], list[float]] = [], []
    for repeat in range(repeats + 1):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repeat:  # the first call compiles, and reads the text
                taken.append(time.perf_counter() - start)
    return median(seconds[0]), median(seconds[1])


def check_onnx(
    model: GroundingDINO, path: str | os.PathLike[str], images: Sequence[ImageSource], precision: str = "fp32"
) -> tuple[list[str], bool]:
    """Compare an ONNX file with the model on images.

    Args:
        model: the model that was exported.
        precision: of the file. A file in "fp16" must give the results of the model with equally rounded weights.

    Returns:
        (lines for the user, whether all differences are small enough).
    """
    exported = OpenedFile(path)
    prompts = PROMPTS if exported.detector.phrases is None else (exported.detector.phrases,)
    rounded = model if precision == "fp32" else exportable(model, precision)
    lines, good = [], True
    for phrases in prompts:
        found = [difference(rounded, exported, image, phrases) for image in images]
        lines.append(_difference_line(found, phrases))
        if rounded is not model:
            lost = [difference(model, exported, image, phrases) for image in images]
            lines.append(f"  by rounding to {precision}: {_difference_text(lost)}")
        good &= all(each.is_small for each in found)
    ours, theirs = times(model, exported.detector, images[0], prompts[0])
    lines.append(
        f"time for one image: PyTorch {1000 * ours:.0f} ms, ONNX Runtime {1000 * theirs:.0f} ms ({theirs / ours:.2f} of it)"
    )
    return lines, good


def check_program(
    model: GroundingDINO, path: str | os.PathLike[str], options: ExportOptions, images: Sequence[ImageSource]
) -> tuple[list[str], bool]:
    """The same as `check_onnx` for a file of torch.export, without times."""
    assert options.phrases is not None, "export_program refuses files without phrases"
    assert options.size is not None, "export_program refuses files without a size"
    program = torch.export.load(path).module()
    found = []
    for image in images:
        upright = read_image(image)
        pixels = torch.from_numpy(model_pixels(upright, options.size))
        with torch.no_grad(), _Choice() as choice:
            results = program(pixels)
        found.append(_difference(model, pixels, options.phrases, [*results, *choice.chosen], upright.size))
    return [_difference_line(found, options.phrases)], all(each.is_small for each in found)


def _difference_line(found: Sequence[Difference], phrases: Sequence[str]) -> str:
    return (
        f"{len(found)} image{'s' * (len(found) > 1)}, {len(phrases)} phrase{'s' * (len(phrases) > 1)} "
        f"({shortened(' . '.join(phrases))}): {_difference_text(found)}"
    )


def _difference_text(found: Sequence[Difference]) -> str:
    score, pixels, order = (max(column) for column in zip(*found, strict=True))
    return (
        f"largest difference {score:.1e} in scores, {pixels:.1e} pixels in boxes, {order:.1e} in the order of queries"
    )
