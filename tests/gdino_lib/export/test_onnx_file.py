"""Exported files give the model's results, whatever the size of the image and the number of phrases."""

import json
import os

import numpy as np
import onnx
import pytest
import torch
from exported_models import CONFIG, CONFIGS, SMALL_NANO, build
from small_detectors import picture

import gdino_lib as gd
from gdino_lib.export.check import THINGS, OpenedFile, difference, photograph
from gdino_lib.export.detector import METADATA, text_file
from gdino_lib.export.onnx_file import ExportOptions, export_onnx
from gdino_lib.export.parts import exportable, recording

COLOURS = ("red", "blue", "green", "old", "new", "big", "small", "odd")
EIGHTY = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
SIZES = [(90, 60), (61, 97), (128, 37), (33, 70), (64, 64)]
pytestmark = pytest.mark.usefixtures("one_thread")


SLOW = ("five levels", "static queries, no text attention")  # more of the same


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(config, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, config in CONFIGS.items()
    ],
)
def exported(request, tmp_path_factory):
    """A model, and its files with text as an input."""
    model, path = build(request.param), tmp_path_factory.mktemp("exported") / "model.onnx"
    assert export_onnx(model, path, ExportOptions()) == [path, text_file(path)]
    return model, OpenedFile(path, threads=1)


def assert_small(found):
    assert found.score < 1e-4
    assert found.pixels < 0.02
    assert found.order < 1e-5


@pytest.mark.parametrize("phrases", [["zebra"], ["a cat", "dog", "remote control"], EIGHTY], ids=["1", "3", "80"])
def test_any_size_and_any_phrases_give_the_models_results(exported, phrases):
    for number, size in enumerate(SIZES):
        assert_small(difference(*exported, picture(number, size), phrases))


def test_files_hold_standard_operators_only_and_what_a_detector_must_know(exported):
    model, image_part = exported[0], exported[1].detector.path
    for path in (image_part, text_file(image_part)):
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
        assert {node.domain for node in graph.graph.node} == {""}
        (written,) = [json.loads(each.value) for each in graph.metadata_props if each.key == METADATA]
        assert written == {
            "phrases": None,
            "size": None,
            **{name: getattr(model.config, name) for name in ("short_side", "long_side", "max_tokens", "text_framed")},
        }
    assert "GridSample" in {node.op_type for node in onnx.load(image_part).graph.node}


@pytest.mark.parametrize("size", [None, (96, 70)])
@pytest.mark.parametrize("name", ["Swin", "convolutions, framed text, landmarks"])
def test_phrases_in_the_file(tmp_path, name, size):
    model, phrases = build(CONFIGS[name]), ("remote control", "Cat", "dog", "cat")
    assert export_onnx(model, tmp_path / "a.onnx", ExportOptions(phrases, size)) == [tmp_path / "a.onnx"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    detector = OpenedFile(tmp_path / "a.onnx", threads=1)
    assert detector.detector.phrases == phrases
    (shape,) = [each.shape for each in detector.detector._image.get_inputs()]
    assert shape == ([1, 3, *size] if size else [1, 3, "height", "width"])
    for number, side in enumerate(SIZES[:3]):
        assert_small(difference(model, detector, picture(number, side), phrases))


def test_half_precision_stores_rounded_weights_in_half_the_space(tmp_path):
    model = build(CONFIG)
    files = {name: tmp_path / f"{name}.onnx" for name in ("fp32", "fp16")}
    for name, file in files.items():
        export_onnx(model, file, ExportOptions(precision=name))
    for of_part in (lambda file: file, text_file):
        whole, half = (_bytes_of_weights(of_part(file)) for file in files.values())
        assert half < 0.55 * whole
    detector, rounded = OpenedFile(files["fp16"], threads=1), exportable(model, "fp16")
    for number, size in enumerate(SIZES[:2]):
        assert_small(difference(rounded, detector, picture(number, size), ["cat", "dog"]))
    assert difference(model, detector, picture(), ["cat", "dog"]).score > 1e-5
    with torch.no_grad():
        model.decoder.norm.weight[0] = 1e6
    with pytest.raises(ValueError, match=r"^fp16: decoder\.norm\.weight holds weights beyond the range"):
        exportable(model, "fp16")


def _bytes_of_weights(file):
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
    return sum(values.nbytes for values in weights if values.dtype in (np.float32, np.float16))


def test_the_model_stays_as_it_was(tmp_path):
    model = build(SMALL_NANO)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "a.onnx", ExportOptions(("cat",), precision="fp16"))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    model.train()  # its batch norms are not folded


def test_recording_restores_the_environment(monkeypatch):
    monkeypatch.delenv("GDINO_OPS", raising=False)
    with recording():
        pass
    monkeypatch.setenv("GDINO_OPS", "auto")
    with pytest.raises(KeyError), recording():
        raise KeyError
    assert os.environ["GDINO_OPS"] == "auto"
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "changes", "options", "said"),
    [
        ("a.pt", {}, {}, r"a\.pt: expected a file with the suffix \.onnx$"),
        (
            "a.onnx",
            {"max_tokens": 16},
            {"phrases": tuple(EIGHTY[:5])},
            r"^phrases: expected at most 16 tokens together",
        ),
        ("a.onnx", {"text_mode": "word-by-word"}, {}, r"^text mode 'word-by-word': only sub-sentence text"),
        ("a.onnx", {}, {"phrases": ()}, r"^no phrases; expected at least one$"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, name, changes, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        export_onnx(build(CONFIG.replace(**changes)), tmp_path / name, ExportOptions(**options))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"^precision: expected one of fp32, fp16, got 'int4'$"):
        ExportOptions(precision="int4")
    with pytest.raises(ValueError, match=r"^size: expected at least 32 x 32 pixels, got 0 x 64$"):
        ExportOptions(size=(0, 64))


@pytest.mark.parametrize("there", ["a.onnx", "a.text.onnx"])
def test_existing_files_are_kept(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        export_onnx(build(CONFIG), tmp_path / "a.onnx", ExportOptions())
    assert (tmp_path / there).read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize(
    "part",
    [
        "query_selection.norm.weight",
        pytest.param("decoder.norm.bias", marks=pytest.mark.slow),
        pytest.param("decoder.box_heads.0.layers.2.bias", marks=pytest.mark.slow),
    ],
)
def test_the_check_notices_each_kind_of_difference(tmp_path, part):
    model = build(CONFIG)
    export_onnx(model, tmp_path / "a.onnx", ExportOptions(("cat", "dog")))
    with torch.no_grad():
        model.get_parameter(part)[0] += 5.0
    found = difference(model, OpenedFile(tmp_path / "a.onnx", threads=1), picture(), ("cat", "dog"))
    assert not found.is_small
    assert (found.order > 1e-4) == part.startswith("query_selection")


@pytest.mark.slow
def test_nano_on_photographs(tmp_path):
    data = pytest.importorskip("skimage.data")
    model = gd.load("nano", "cpu")
    export_onnx(model, tmp_path / "nano.onnx", ExportOptions())
    detector = OpenedFile(tmp_path / "nano.onnx", threads=1)
    for image in (photograph(), data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        for phrases in (["person"], ["cat", "a cup of coffee", "rocket", "flag"], EIGHTY):
            assert difference(model, detector, image, phrases).is_small
