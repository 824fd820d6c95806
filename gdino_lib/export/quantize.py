"""Quantise an exported file to 8 bits: ONNX Runtime's static quantisation, with calibration images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.atomic import atomic_file, reserved
from gdino_lib.export.detector import METADATA, OnnxDetector, text_file
from gdino_lib.images import ImageSource

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader


def quantize(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    images: Sequence[ImageSource],
    phrases: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write an exported file again with its convolutions, the image backbone, in 8 bits.

    The ranges of activations are those that occur with the calibration images. A text part beside the file is quantised, too:
    its weights in advance, its activations when it runs.

    Args:
        path: a file that `gdino_lib.export.onnx_file.export_onnx` wrote in "fp32".
        images: about 100 images of the kind that the detector will see.
        phrases: phrases to calibrate with; None: those of the file.

    Returns:
        The files.

    Raises:
        ModuleNotFoundError: onnx or ONNX Runtime is not installed.
        FileExistsError: a file exists and `overwrite` is False.
        ValueError, TypeError: a file, images or phrases that cannot be used; no images.
        OSError: a file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    detector, target = OnnxDetector(path), Path(target)
    targets = [target] if detector.phrases is not None else [target, text_file(target)]
    if not images:
        raise ValueError("images: expected at least one calibration image, got none")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for each in targets:
            stack.enter_context(reserved(each, overwrite))
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "written.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared,
            written,
            _reader(detector, images, phrases),
            QuantFormat.QDQ,
            # with Clip, ReLU6, an output is quantised after the activation, in 0..6
            op_types_to_quantize=["Conv", "Clip"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in onnx.load(prepared).graph.node if "projections" in node.name],
        )
        _write(written, Path(path), target)
        if detector.phrases is None:
            source = text_file(path)
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True, skip_optimization=True)
            quantize_dynamic(
                prepared,
                written,
                op_types_to_quantize=["MatMul", "Gather"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                # the shift towards landmarks amplifies small differences of cosines
                nodes_to_exclude=[node.name for node in onnx.load(prepared).graph.node if "bert" not in node.name],
                extra_options={"MatMulConstBOnly": True},
            )
            _write(written, source, targets[1])
    return targets


def _reader(
    detector: OnnxDetector, images: Sequence[ImageSource], phrases: Sequence[str] | None
) -> CalibrationDataReader:
    """Gives the inputs of the graph for each calibration image."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        inputs = (detector.inputs(image, phrases) for image in images)

        def get_next(self) -> Any:
            return next(self.inputs, None)

    return Reader()


def _write(written: Path, source: Path, target: Path) -> None:
    """Put a quantised graph in place, with the metadata of the file that it was made from."""
    import onnx

    graph = onnx.load(written)
    about = next(each.value for each in onnx.load(source).metadata_props if each.key == METADATA)
    onnx.helper.set_model_props(graph, {METADATA: about})
    with atomic_file(target, "wb") as file:
        file.write(graph.SerializeToString())
