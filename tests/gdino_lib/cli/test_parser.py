"""The parser of `gdino`: fast help, messages about wrong arguments, and choices equal to those of the library."""

import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import one_line

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.cli.parser import build_parser
from gdino_lib.config import PRESETS
from gdino_lib.detect.dtypes import DTYPES
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


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: gdino"),
        (["--version"], 0, f"gdino {gd.__version__}\n"),
        (["detect", "--help"], 0, "usage: gdino"),
        (["edit", "--help"], 0, "usage: gdino"),
        (["convert", "--help"], 0, "usage: gdino"),
        (["convert"], 2, "the following arguments are required: "),
        (["detect"], 2, "the following arguments are required: "),
        ([], 2, "the following arguments are required: "),
        (["detct"], 2, "unknown command detct; did you mean detect; see gdino --help\n"),
        (["zzz"], 2, "unknown command zzz; expected one of detect, edit, convert, "),
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


@pytest.mark.parametrize("there", [False, True])
def test_nano_is_offered_only_if_it_is_installed(monkeypatch, capsys, tmp_path, there):
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
        (
            ["a.png", "--phrases", "cat", ".", "dog", "."],
            'unexpected arguments: . dog .; put phrases in quotes: --phrases "cat . dog ."',
        ),
        (
            ["--phrases", "cat", ".", "dog", ".", "a.png"],
            "'dog' is not a file; if it is part of the phrases, put the phrases in quotes",
        ),
        (["a.png", "--prompt", "cat"], "unknown option --prompt; did you mean --phrases;"),
        (["a.png", "--phrase=cat"], "unknown option --phrase; did you mean --phrases"),
        (["a.png", "--phrases", "cat", "--threshold", "0.3"], "--box-threshold or --text-threshold"),
        (["a.png", "--phrases", "cat", "--iou", "0.3"], "unknown option --iou; did you mean --nms;"),
        (["a.png", "--phrases", "cat", "--weights", "x.pth"], "unknown option --weights; did you mean --model;"),
        (["a.png", "--phrases", "cat", "--zzz"], "unknown option --zzz; see gdino detect --help"),
        (["a.png", "--phrases", "cat", "-q"], "unexpected arguments: -q; "),
    ],
)  # fmt: skip
def test_the_message_suggests_what_was_meant(monkeypatch, capsys, tmp_path, arguments, hint):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["detect", *arguments])
    except SystemExit as end:
        status = end.code
    line = one_line(capsys)
    assert status == 2
    assert hint in line
    assert line.endswith("; see gdino detect --help\n")


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


def test_the_sizes_of_train_and_check_are_those_of_the_library():
    files = ["--images", "images", "--out", "out"]
    for command in (["train", "--train", "a.csv", *files], ["check", "--data", "a.csv", *files]):
        for name in PRESETS:
            assert build_parser().parse_args([*command, "--from-scratch", name]).from_scratch == name
        with pytest.raises(SystemExit):
            build_parser().parse_args([*command, "--from-scratch", "huge"])
