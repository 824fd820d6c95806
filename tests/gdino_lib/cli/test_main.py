"""The command `gdino`: what it prints, what it refuses, and how it ends."""

import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peers import ODD, randomise

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.cli.parser import build_parser
from gdino_lib.detect.detector import DTYPES
from gdino_lib.detect.postprocess import Score
from gdino_lib.weights import hub, loading

ROOT = Path(__file__).parents[3]

ALONE = """
import sys
from gdino_lib.cli.main import main
try:
    code = main({arguments})
except SystemExit as end:
    code = end.code
assert code == {code}, code
heavy = {{"torch", "transformers", "numpy", "PIL", "safetensors", "huggingface_hub"}} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.fixture
def model_file(tmp_path):
    model = gd.GroundingDINO(ODD.replace(bert_layers=1, vocabulary=99))
    randomise(model)
    loading.save(model, tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gdino_lib.cli.main", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: gdino"),
        (["--version"], 0, f"gdino {gd.__version__}\n"),
        (["detect", "--help"], 0, "usage: gdino"),
        (["convert", "--help"], 0, "usage: gdino"),
        (["convert"], 2, "the following arguments are required: "),
        (["detect"], 2, "the following arguments are required: "),
        ([], 2, "the following arguments are required: "),
        (["detct"], 2, "unknown command detct; did you mean detect; gdino --help says more\n"),
        (["zzz"], 2, "unknown command zzz; expected one of detect, convert, "),
        (["detect", "a.png", "--phrases", "cat", "--nms", "two"], 2, "argument --nms: expected a number in 0..1"),
        (["detect", "a.png", "--prompt", "cat"], 2, "unknown option --prompt; did you mean --phrases; "),
        (["detect", "a.png", "--phrases", "cat", "--model", "none.pth"], 2, "no weight file at none.pth"),
    ],
)
def test_help_and_wrong_arguments_import_nothing_heavy(arguments, code, said):
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", ALONE.format(arguments=arguments, code=code)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    if code:
        assert result.stderr.startswith(f"error: {said}")
        assert result.stderr.count("\n") == 1
    else:
        assert result.stdout.startswith(said)
    assert time.perf_counter() - start < 3  # on a busy machine; 0.1 s on an idle one


def test_as_a_module():
    result = subprocess.run([sys.executable, "-m", "gdino_lib", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (0, f"gdino {gd.__version__}\n")


@pytest.mark.parametrize("there", [False, True])
def test_nano_is_offered_only_where_it_is(monkeypatch, capsys, tmp_path, there):
    if there:
        (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(hub, "NANO", tmp_path)
    with pytest.raises(SystemExit):
        main(["detect", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    offered = "nano, tiny, base, a weight file or a folder (default: nano)"
    missing = "tiny, base, a weight file or a folder (default: nano, which is not part of this version)"
    assert (offered if there else missing) in words
    if not there:
        assert main(["detect", "a.png", "--phrases", "cat"]) == 2
        assert "'nano' is not part of this version; use --model tiny" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["a.png", "--phrases", "cat", ".", "dog", "."], 'unexpected: . dog .; phrases stand in quotes: --phrases "cat . dog ."'),
        (["--phrases", "cat", ".", "dog", ".", "a.png"], "'dog' is no file; if it belongs to the phrases, put these in quotes"),
        (["a.png", "--prompt", "cat"], "unknown option --prompt; did you mean --phrases;"),
        (["a.png", "--phrase=cat"], "unknown option --phrase; did you mean --phrases"),
        (["a.png", "--phrases", "cat", "--threshold", "0.3"], "--box-threshold or --text-threshold"),
        (["a.png", "--phrases", "cat", "--iou", "0.3"], "unknown option --iou; did you mean --nms;"),
        (["a.png", "--phrases", "cat", "--weights", "x.pth"], "unknown option --weights; did you mean --model;"),
        (["a.png", "--phrases", "cat", "--zzz"], "unknown option --zzz; gdino detect --help"),
        (["a.png", "--phrases", "cat", "-q"], "unexpected: -q; "),
    ],
)  # fmt: skip
def test_what_may_be_meant(monkeypatch, capsys, tmp_path, arguments, hint):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["detect", *arguments])
    except SystemExit as end:
        status = end.code
    line = one_line(capsys)
    assert status == 2
    assert hint in line
    assert line.endswith("; gdino detect --help says more\n")


def test_the_layouts_are_those_of_the_library():
    for layout in loading.FORMATS:
        assert build_parser().parse_args(["convert", "a", "b", "--to", layout]).to == layout
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(["convert", "a", "b", "--to", "onnx"])
    assert end.value.code == 2


def test_the_choices_of_detect_are_those_of_the_library():
    detect = ["detect", "a.png", "--phrases", "cat"]
    for flag, names in (("dtype", DTYPES), ("score", Score.__args__)):
        for name in names:
            assert getattr(build_parser().parse_args([*detect, f"--{flag}", name]), flag) == name
    defaults = inspect.signature(gd.Detector.__call__).parameters
    options = vars(build_parser().parse_args(detect))
    for name in ("box_threshold", "text_threshold", "top_k", "score"):
        assert options[name] == defaults[name].default


def test_convert_says_what_it_did(capsys, tmp_path, model_file):
    assert main(["convert", str(model_file), str(tmp_path / "official.pth"), "--to", "official"]) == 0
    captured = capsys.readouterr()
    count = len(gd.load(model_file, "cpu").state_dict())
    assert captured.err == ""
    assert captured.out.splitlines() == [
        f"{model_file} (gdino_lib): {count} tensors of the model, all used",
        f"written to {tmp_path / 'official.pth'} (official)",
    ]
    state = torch.load(tmp_path / "official.pth", weights_only=True)["model"]
    torch.save(state | {"label_enc.weight": torch.zeros(3)}, tmp_path / "official.pth")

    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "port"), "--to", "hugging-face"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"(official): {count} tensors of the model, all used")
    assert lines[-1] == f"written to {tmp_path / 'port'} (hugging-face)"
    assert len(lines) == 5
    assert any("label_enc.weight: an embedding that only the authors'" in line for line in lines)
    assert any("bert.pooler.dense.weight and 1 more like it" in line for line in lines)
    assert any("relative_position_index and 4 more like it" in line for line in lines)
    assert torch.equal(
        gd.load(tmp_path / "port", "cpu").state_dict()["decoder.norm.weight"], state["transformer.decoder.norm.weight"]
    )


def test_errors_are_one_line_and_status_2(capsys, tmp_path, model_file):
    target = tmp_path / "out.safetensors"
    convert = ["convert", str(model_file), str(target), "--to", "gdino_lib"]
    assert main(["convert", str(tmp_path / "nothing.pth"), str(target), "--to", "gdino_lib"]) == 2
    assert "no weight file" in one_line(capsys)
    assert main(["convert", "large", str(target), "--to", "gdino_lib"]) == 2
    assert "never released" in one_line(capsys)
    assert main(["convert", str(model_file), str(tmp_path / "a.pth"), "--to", "gdino_lib"]) == 2
    assert "is a .safetensors file" in one_line(capsys)
    target.write_text("old")
    assert main(convert) == 2
    assert "--overwrite" in one_line(capsys)
    assert target.read_text() == "old"
    assert main([*convert, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (OSError("disk\non fire"), 2), (MemoryError(), 2), (MemoryError("30 GiB\nwanted"), 2)],
)
def test_how_a_command_ends(monkeypatch, capsys, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr("gdino_lib.weights.loading.convert", fail)
    assert main(["convert", "a", "b.pth", "--to", "official"]) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.removesuffix("\n") in {
        "interrupted; nothing half-written is left",
        "error: disk on fire",
        "error: out of memory",
        "error: out of memory: 30 GiB wanted",
    }


def test_a_programming_error_is_not_hidden(monkeypatch):
    monkeypatch.setattr("gdino_lib.weights.loading.convert", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["convert", "a", "b.pth", "--to", "official"])


def test_a_terminated_run_leaves_nothing(monkeypatch, tmp_path, model_file):
    real = loading.write_safetensors

    def killed(path, state, metadata=None):
        real(path, state, metadata)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loading, "write_safetensors", killed)
    with pytest.raises(SystemExit) as end:
        main(["convert", str(model_file), str(tmp_path / "port"), "--to", "hugging-face"])
    assert end.value.code == 143
    assert list(tmp_path.iterdir()) == [model_file]


def test_as_a_process(tmp_path):
    result = run("convert", tmp_path / "nothing.pth", tmp_path / "b.pth", "--to", "official")
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr
        == f"error: no weight file at {tmp_path / 'nothing.pth'}, and no model of that name; names are "
        + (", ".join(hub.names()) + "\n")
    )


def test_build_ops_says_what_it_found_and_where_it_wrote(monkeypatch, capsys, tmp_path):
    from gdino_lib.ops import native

    monkeypatch.setattr(native, "build", lambda device: tmp_path / f"{device}.so")
    assert main(["build-ops", "--cuda"]) == 0
    printed = capsys.readouterr().out
    assert "cpu: compiler " in printed
    for device in ("cpu", "cuda"):
        assert f"{device}: written to {tmp_path / device}.so" in printed


def test_build_ops_without_a_compiler_is_one_line_and_keeps_what_was_built(monkeypatch, capsys, tmp_path):
    from gdino_lib.ops import native

    monkeypatch.setenv("GDINO_CACHE", str(tmp_path))
    native.library_path("cpu").write_bytes(b"built elsewhere")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["build-ops"]) == 2
    captured = capsys.readouterr()
    assert "cpu: compiler not found" in captured.out
    assert captured.err == "error: no compiler (no-such-compiler) for deformable attention\n"
    assert native.library_path("cpu").read_bytes() == b"built elsewhere"
