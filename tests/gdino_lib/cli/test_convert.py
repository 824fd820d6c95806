"""`gdino convert`: its output, its errors, and the files of a terminated run."""

import os
import signal

import pytest
import torch
from command_line import one_line

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.weights import loading


def test_convert_prints_which_tensors_were_used(capsys, tmp_path, model_file):
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


def test_a_terminated_run_leaves_no_file(monkeypatch, tmp_path, model_file):
    real = loading.write_safetensors

    def killed(path, state, metadata=None):
        real(path, state, metadata)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loading, "write_safetensors", killed)
    with pytest.raises(SystemExit) as end:
        main(["convert", str(model_file), str(tmp_path / "port"), "--to", "hugging-face"])
    assert end.value.code == 143
    assert list(tmp_path.iterdir()) == [model_file]
