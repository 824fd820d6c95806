"""The program `gdino`: exit status and last line, as a function and as a process."""

import subprocess
import sys
from pathlib import Path

import pytest

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.weights import hub

ROOT = Path(__file__).parents[3]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gdino_lib.cli.main", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )


def test_as_a_module():
    result = subprocess.run([sys.executable, "-m", "gdino_lib", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (0, f"gdino {gd.__version__}\n")


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
        "interrupted; no half-written file is left",
        "error: disk on fire",
        "error: out of memory",
        "error: out of memory: 30 GiB wanted",
    }


def test_a_programming_error_is_not_hidden(monkeypatch):
    monkeypatch.setattr("gdino_lib.weights.loading.convert", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["convert", "a", "b.pth", "--to", "official"])


def test_as_a_process(tmp_path):
    result = run("convert", tmp_path / "nothing.pth", tmp_path / "b.pth", "--to", "official")
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr
        == f"error: no weight file at {tmp_path / 'nothing.pth'}, and no model of that name; names are "
        + (", ".join(hub.names()) + "\n")
    )
