"""The command `gdino train`."""

import json
import re
import shutil

import pytest
import torch
from small_runs import model
from training_runs import STEPS, csv_of, losses

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.training import checkpoints
from gdino_lib.weights import loading

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small_scratch(monkeypatch):
    from gdino_lib import config

    monkeypatch.setitem(config.PRESETS, "nano", lambda: model().config)


def test_the_command_trains_and_resumes(tmp_path, small_scratch, capsys):
    out = tmp_path / "run"
    arguments = ["train", *csv_of(tmp_path), "--val", str(tmp_path / "shapes.csv"), "--from-scratch", "nano"]
    arguments += ["--out", str(out), "--batch-size", "4", "--lr-scale", "text_encoder.bert=0.5", "--loss", "layers=0.5"]
    arguments += ["--workers", "0", "--warmup-steps", "2", "--drops", "0.5", "0.9", "--device", "cpu"]
    assert main([*arguments, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("CPU with 1 thread, float32; 12 images, short side 64 pixels at most; 3 steps of 4 images\n")
    assert "epoch 1/1: loss" in said
    assert re.search(r"3 steps; weights: .*best\.safetensors, AP 0\.\d{3} after epoch 1", said)
    settings = json.loads((checkpoints.steps(out)[-1] / "state.json").read_text())["settings"]
    assert settings["lr_scale"] == {"image_backbone.backbone": 0.1, "text_encoder.bert": 0.5}
    assert settings["loss"]["layers"] == 0.5
    assert settings["drops"] == [0.5, 0.9]
    assert main([*arguments, "--epochs", "2"]) == 2
    assert "(on the command line --resume, --overwrite)" in capsys.readouterr().err
    assert main([*arguments, "--epochs", "2", "--resume"]) == 0
    assert "; 6 steps of 4 images, 3 of them done\n" in capsys.readouterr().out
    assert len(losses(out)) == STEPS
    gd.load(out / "best.safetensors")
    arguments[arguments.index("--batch-size") + 1] = "8"
    assert main([*arguments, "--epochs", "1", "--overwrite"]) == 0
    left_out = "4 of them, different ones in each epoch, fill no batch and are left out"
    assert f"; 12 images ({left_out}), short side" in capsys.readouterr().out


def test_several_data_sets_in_one_run(tmp_path, small_scratch, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    sets = [*csv_of(first), "--everywhere", "red circle . blue square", *csv_of(second), "--everywhere", "none"]
    arguments = ["train", *sets, "--from-scratch", "nano", "--out", str(tmp_path / "run"), "--batch-size", "4"]
    arguments += ["--workers", "0", "--device", "cpu", "--epochs", "1"]
    assert main([*arguments, "--mix", "0.7", "0.3"]) == 0
    assert "; 24 images of 2 data sets, short side" in capsys.readouterr().out
    for more, message in (
        (["--mix", "1"], "--mix: expected 2, one for each --train, got 1"),
        (["--images", str(first)], "--images: expected 2, one for each --train, got 3"),
        (["--mix", "1", "-1"], "mix: expected shares above 0, got 1.0, -1.0"),
    ):
        assert main([*arguments, "--overwrite", *more]) == 2
        assert message in capsys.readouterr().err
    arguments[arguments.index("red circle . blue square")] = "red circle . cat"
    assert main([*arguments, "--overwrite"]) == 2
    assert "everywhere: expected names of the classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs: expected a whole number of at least 1, got 0"),
        (["--dropout", "2"], "dropout: expected a number in 0..1, got 2.0"),
        (["--lr-scale", "bert"], "expected NAME=NUMBER, got 'bert'"),
        (["--loss", "iou=1"], "--loss: expected one of"),
        (["--schedule", "steep"], "invalid choice: 'steep'"),
        (["--batch-size", "4", "--accumulation-steps", "3"], "batch_size 4 is not a multiple of accumulation_steps 3"),
        (["--val", "nothing.csv"], "nothing.csv"),
        (["--short-side", "0"], "--short-side: expected 8 to 10000 pixels, got 0"),
        (["--short-side", "-5", "--no-augmentation"], "--short-side: expected 8 to 10000 pixels, got -5"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, small_scratch, capsys, arguments, message):
    try:
        status = main(
            ["train", *csv_of(tmp_path), "--from-scratch", "nano", "--out", str(tmp_path / "run"), *arguments]
        )
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_training_starts_from_the_given_weights(tmp_path):
    """With a learning rate near 0, the weights do not change. The validation images are in another folder."""
    first = model()
    loading.save(first, tmp_path / "first.safetensors")
    files = csv_of(tmp_path)
    shutil.copytree(tmp_path / "images", tmp_path / "judged")
    command = ["train", *files, "--init", str(tmp_path / "first.safetensors"), "--out", str(tmp_path / "run")]
    command += ["--val", str(tmp_path / "shapes.csv"), "--val-images", str(tmp_path / "judged"), "--lr", "1e-30"]
    assert main([*command, "--epochs", "1", "--batch-size", "12", "--workers", "0", "--device", "cpu"]) == 0
    last = gd.load(tmp_path / "run" / "last.safetensors", "cpu").state_dict()
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(last[name], tensor, atol=1e-20, rtol=0)
    shutil.rmtree(tmp_path / "judged")
    assert main([*command, "--epochs", "1", "--device", "cpu", "--overwrite"]) == 2


def test_a_missing_package_is_named_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gdino_lib.cli.options.find_spec", lambda name: None if name in ("peft", "pycocotools") else 1)
    command = ["train", *csv_of(tmp_path), "--from-scratch", "nano", "--out", str(tmp_path / "run")]
    for more, names in (["--lora-rank", "2"], "peft"), (["--val", str(tmp_path / "shapes.csv")], "pycocotools"):
        assert main([*command, *more]) == 2
        assert capsys.readouterr().err == f"error: {names} not installed; pip install 'gdino_lib[train]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_a_full_disk_is_reported_in_one_line(tmp_path, small_disk, small_scratch, capsys):
    arguments = [
        "train",
        *csv_of(tmp_path),
        "--from-scratch",
        "nano",
        "--out",
        str(small_disk / "run"),
        "--workers",
        "0",
    ]
    assert main([*arguments, "--batch-size", "4", "--epochs", "9", "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "No space left on device" in error
    for path in checkpoints.steps(small_disk / "run"):
        checkpoints.read(path)
