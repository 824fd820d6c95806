"""Files in 8 bits: smaller, and still a detector."""

import onnx
import pytest
from exported_models import SMALL_NANO, build
from small_detectors import picture

from gdino_lib.export.check import OpenedFile, difference
from gdino_lib.export.detector import text_file
from gdino_lib.export.onnx_file import ExportOptions, export_onnx
from gdino_lib.export.quantize import quantize

pytestmark = pytest.mark.usefixtures("one_thread")
PHRASES = ["cat", "remote control"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(build(SMALL_NANO), path, ExportOptions())
    return path


def test_a_quantised_file_is_smaller_and_finds_nearly_the_same(exported, tmp_path):
    target = tmp_path / "int8.onnx"
    assert quantize(exported, target, [picture(n) for n in range(4)], PHRASES) == [target, text_file(target)]
    assert target.stat().st_size < 0.6 * exported.stat().st_size
    assert text_file(target).stat().st_size < 0.5 * text_file(exported).stat().st_size
    found = difference(build(SMALL_NANO), OpenedFile(target, threads=1), picture(9), PHRASES)
    assert 0 < found.score < 0.1
    assert found.order < 0.3
    kinds = [node.op_type for node in onnx.load(target).graph.node]
    assert kinds.count("QuantizeLinear") >= kinds.count("Conv") > 40
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        quantize(exported, target, [picture()], PHRASES)


def test_bad_input_is_refused_in_one_line(exported, tmp_path):
    with pytest.raises(ValueError, match=r"^images: expected at least one calibration image, got none$"):
        quantize(exported, tmp_path / "a.onnx", [], PHRASES)
    with pytest.raises(TypeError, match=r"^phrases: expected phrases to look for, got None"):
        quantize(exported, tmp_path / "a.onnx", [picture()])
    with pytest.raises(FileNotFoundError, match="no such file"):
        quantize(tmp_path / "none.onnx", tmp_path / "a.onnx", [picture()], PHRASES)
    assert not list(tmp_path.iterdir())
