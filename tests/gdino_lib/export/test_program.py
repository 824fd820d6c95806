"""Files of torch.export give the model's results."""

import pytest
import torch
from exported_models import CONFIG, build
from small_detectors import picture

from gdino_lib.export.check import check_program
from gdino_lib.export.onnx_file import ExportOptions
from gdino_lib.export.program import export_program

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = ExportOptions(("cat", "remote control"), (64, 70))


@pytest.mark.slow
def test_a_program_gives_the_models_results_without_the_compiled_op(tmp_path):
    model = build(CONFIG.replace(encoder_layers=1, decoder_layers=1))
    path = export_program(model, tmp_path / "a.pt2", OPTIONS)
    lines, good = check_program(model, path, OPTIONS, [picture(0, (90, 70)), picture(1)])
    assert good
    assert lines[0].startswith("2 images, 2 phrases (cat . remote control): largest difference ")
    program = torch.export.load(path)
    assert not any("gdino" in str(node.target) for node in program.graph.nodes)
    assert not any("bert" in name for name in program.state_dict)
    with torch.no_grad():
        model.decoder.norm.bias += 0.1
    assert not check_program(model, path, OPTIONS, [picture()])[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.onnx", OPTIONS),
        ("a.pt2", ExportOptions(("cat",))),
        ("a.pt2", ExportOptions(size=(64, 64))),
        ("a.pt2", ExportOptions(("cat",), (64, 64), "fp16")),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, name, options):
    with pytest.raises(ValueError, match=r"expected (a file with the suffix \.pt2|phrases, a size and fp32; .*)$"):
        export_program(build(CONFIG), tmp_path / name, options)
    assert not list(tmp_path.iterdir())
