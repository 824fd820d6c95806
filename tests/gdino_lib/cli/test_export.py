"""`gdino export`: its files, what it prints, and its refusals."""

import sys

import pytest
from command_line import one_line
from detect_runs import picture, status
from small_detectors import build

from gdino_lib.cli.main import main
from gdino_lib.export import check
from gdino_lib.weights import loading

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    loading.save(build(max_tokens=128, encoder_layers=1, decoder_layers=1).model, path)
    return str(path)


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_text_as_an_input(weights, capsys, tmp_path):
    images = [picture("a.png"), picture("b.png", (40, 77), 1)]
    assert main(["export", weights, "--dynamic-text", "--images", *images]) == 0
    written, text, *checks, times = capsys.readouterr().out.splitlines()
    assert written.startswith("written to small.onnx (")
    assert text.startswith("written to small.text.onnx (")
    assert len(checks) == len(check.PROMPTS)
    for line, count in zip(checks, ("1 phrase ", "4 phrases ", "40 phrases "), strict=True):
        assert line.startswith(f"2 images, {count}(")
        assert ": largest difference " in line
    assert times.startswith("time for one image: PyTorch ")
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "b.png", "small.onnx", "small.text.onnx"}


def test_phrases_size_and_half_precision(weights, capsys):
    arguments = [
        "export",
        weights,
        "--phrases",
        "cat . dog",
        "--size",
        "64x96",
        "--precision",
        "fp16",
        "--out",
        "a.onnx",
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("1 image, 2 phrases (cat . dog): largest difference ")
    assert lines[2].startswith("  by rounding to fp16: largest difference ")
    assert main(arguments) == 2
    assert "a.onnx exists; choose another name, or pass --overwrite" in one_line(capsys)
    assert main([*arguments, "--overwrite"]) == 0


def test_a_file_that_differs_ends_with_status_1(weights, capsys, monkeypatch):
    monkeypatch.setattr(check, "MOST_SCORE", 0.0)
    assert main(["export", weights, "--phrases", "cat . dog", "--out", "a.onnx"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--phrases", "cat", "--format", "tflite"], "argument --format: invalid choice: 'tflite'"),
        ([], "one of the arguments --phrases --dynamic-text is required"),
        (["--phrases", "cat", "--dynamic-text"], "not allowed with argument --phrases"),
        (["--phrases", " . "], 'expected phrases, as in "cat . remote control .", got none'),
        (["--phrases", "cat", "--size", "64"], "argument --size: expected height x width in pixels, as in 800x1200"),
        (["--phrases", "cat", "--size", "8x64"], "size: expected at least 32 x 32 pixels, got 8 x 64"),
        (["--phrases", "cat", "--size", "64x64", "--dynamic"], "not allowed with argument --size"),
        (["--phrases", "cat", "--format", "torch-export"], "--format torch-export: expected --phrases and --size HxW"),
        (["--phrases", "cat", "--out", "a.pt"], "a.pt: expected a file with the suffix .onnx"),
        (["--phrases", " . ".join(f"thing {n}" for n in range(60))], "phrases: expected at most 128 tokens together"),
        (["--phrases", "cat", "--images", "none.png"], "'none.png': no such file, expected an image"),
        (["--phrases", "cat", "--out", "none/a.onnx"], "the folder none does not exist"),
    ],
)
def test_bad_input_gets_one_line(weights, capsys, tmp_path, arguments, said):
    assert status(["export", weights, *arguments]) == 2
    assert said in one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(weights, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("gdino_lib.cli.options.find_spec", lambda name: None if name == "onnx" else name)
    assert main(["export", weights, "--phrases", "cat"]) == 2
    assert "onnx not installed; pip install 'gdino_lib[export]'" in one_line(capsys)


def test_a_missing_model_is_named(capsys):
    assert main(["export", "none.pth", "--phrases", "cat"]) == 2
    assert "no weight file at none.pth" in one_line(capsys)
