"""Interpolating two weight files: what is written, and what is refused in one line."""

import pytest
import torch
from command_line import one_line
from peers import SMALL
from weight_files import model_of

import gdino_lib as gd
from gdino_lib.cli.main import main
from gdino_lib.weights.loading import convert, save
from gdino_lib.weights.merge import merge

CONFIG = SMALL.replace(vocabulary=99, bert_layers=1, encoder_layers=1, decoder_layers=1, logit_epsilon=1e-3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("a", "b")):
        save(model_of(CONFIG, seed), folder / f"{name}.safetensors")
    save(model_of(CONFIG.replace(queries=21, points=2), 0), folder / "other.safetensors")
    return folder


def state(path):
    return gd.load(path, "cpu").state_dict()


@pytest.mark.parametrize("alpha", [0, 0.7, 1])
def test_each_weight_is_interpolated(files, tmp_path, alpha):
    written = merge(files / "a.safetensors", files / "b.safetensors", tmp_path / "m.safetensors", alpha)
    a, b, merged = state(files / "a.safetensors"), state(files / "b.safetensors"), state(tmp_path / "m.safetensors")
    assert merged.keys() == a.keys()
    for name, tensor in merged.items():
        expected = (1 - alpha) * a[name].double() + alpha * b[name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(tensor, written.state_dict()[name])
    if alpha in (0, 1):
        assert all(torch.equal(tensor, (a, b)[alpha][name]) for name, tensor in merged.items())
    assert gd.load(tmp_path / "m.safetensors", "cpu").config == CONFIG


def test_half_precision_is_read_as_float32(files, tmp_path):
    half = model_of(CONFIG, 1).half()
    save(half, tmp_path / "half.safetensors")
    merge(files / "a.safetensors", tmp_path / "half.safetensors", tmp_path / "m.safetensors", 0.5)
    merged, a = state(tmp_path / "m.safetensors"), state(files / "a.safetensors")
    for name, tensor in half.state_dict().items():
        if tensor.is_floating_point():
            assert merged[name].dtype == torch.float32
            torch.testing.assert_close(merged[name], (a[name] + tensor.float()) / 2)


def test_layouts_may_differ(files, tmp_path):
    config = gd.load(files / "a.safetensors", "cpu").config.replace(
        bert_width=96, bert_heads=12, text_heads=4, fusion_heads=4
    )
    save(model_of(config, 0), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "a.pth", "official")
    first = gd.load(tmp_path / "a.pth", "cpu")
    save(model_of(first.config, 1), tmp_path / "b.safetensors")
    merged = merge(tmp_path / "a.pth", tmp_path / "b.safetensors", tmp_path / "m.safetensors", 0.5)
    assert merged.config == first.config


def refused(capsys, *arguments):
    assert main(["merge", *map(str, arguments)]) == 2
    return one_line(capsys)


def test_the_command(files, tmp_path, capsys):
    a, b, out = files / "a.safetensors", files / "b.safetensors", tmp_path / "m.safetensors"
    assert main(["merge", str(a), str(b), "--alpha", "0.25", str(out)]) == 0
    assert capsys.readouterr().out == f"0.75 * {a} + 0.25 * {b} written to {out}\n"
    before = out.read_bytes()
    assert "--overwrite" in refused(capsys, a, b, "--alpha", 0.5, out)
    assert out.read_bytes() == before
    assert main(["merge", str(a), str(b), "--alpha", "0.5", str(out), "--overwrite"]) == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize("alpha", ["-0.1", "1.01", "nan", "inf"])
def test_alpha_outside_its_range(files, tmp_path, capsys, alpha):
    arguments = (files / "a.safetensors", files / "b.safetensors", f"--alpha={alpha}", tmp_path / "m.safetensors")
    assert "alpha: expected a number in 0..1" in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(files, tmp_path, capsys):
    a, out = files / "a.safetensors", tmp_path / "m.safetensors"
    line = refused(capsys, a, files / "other.safetensors", "--alpha", 0.5, out)
    assert "are different models: points 4 and 2, queries 20 and 21" in line
    assert "no weight file at" in refused(capsys, a, tmp_path / "none.safetensors", "--alpha", 0.5, out)
    assert "expected a .safetensors file" in refused(capsys, a, a, "--alpha", 0.5, tmp_path / "m.pth")
    assert list(tmp_path.iterdir()) == []


def test_counts_that_differ(tmp_path, capsys):
    config = CONFIG.replace(backbone="tf_efficientnet_lite0", levels=3)
    model = model_of(config, 0)
    save(model, tmp_path / "a.safetensors")
    merge(tmp_path / "a.safetensors", tmp_path / "a.safetensors", tmp_path / "m.safetensors", 0.5)
    next(buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")).add_(3)
    save(model, tmp_path / "b.safetensors")
    arguments = (tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--alpha", 0.5, tmp_path / "n.safetensors")
    assert "num_batches_tracked holds whole numbers that differ between" in refused(capsys, *arguments)


def test_a_disk_that_is_full(files, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    out = tmp_path / "m.safetensors"
    out.write_text("old")
    monkeypatch.setattr("data_prep.atomic.os.fsync", full)
    arguments = (files / "a.safetensors", files / "b.safetensors", "--alpha", 0.5, out, "--overwrite")
    assert "No space left" in refused(capsys, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert out.read_text() == "old"
