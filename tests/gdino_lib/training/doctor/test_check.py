"""The doctor: a healthy small model, the folder of the report, and the command."""

import copy
import json

import pytest
import torch
from command_line import one_line
from PIL import Image
from squares_to_learn import CONFIG, RECORDS, examine, model_of, texts

from data_prep.atomic import MANIFEST
from data_prep.formats import csv_table
from gdino_lib.cli.main import main
from gdino_lib.config import PRESETS
from gdino_lib.weights.loading import save


def test_four_images_are_learned_by_heart(folder, tmp_path, drawn):
    model = model_of().train()
    model.text_encoder.projection.weight.grad = torch.ones(64, 48)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random_state = torch.get_rng_state()

    report = examine(RECORDS, folder, tmp_path, model, overfit=True, lr=5e-4, seed=1)
    assert report.is_healthy, report.problems
    assert texts(report, "warning") == []
    result = report.overfitting
    assert result.recalls[-1] == 1
    assert result.losses[-1] < 0.05 * result.losses[0]
    assert result.recalls[0] < 1
    assert result.seconds < 120
    assert result.missing == ()
    assert texts(report, "ok", "overfitting")[0].startswith("the batch is learned by heart: recall 1.00, loss ")

    names = {MANIFEST, "check.json", "overfitting.png", *(f"batch-{n}.png" for n in range(1, 5))}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
    for path in (tmp_path / "report").glob("*.png"):
        assert min(Image.open(path).size) > 300
    values = json.loads((tmp_path / "report" / "check.json").read_text("utf-8"))
    assert values == json.loads(json.dumps(report.to_json()))
    assert values["healthy"]
    assert len(values["prompts"]) == 4
    assert {part["part"] for part in values["parts"]} >= {
        "image_backbone.backbone", "image_backbone.projections", "image_backbone.level_embedding", "text_encoder.bert",
        "text_encoder.projection", "feature_enhancer.layers.0.fusion", "feature_enhancer.layers.0.text_layer",
        "feature_enhancer.layers.0.image_layer", "query_selection.contents", "query_selection.box_head",
        "decoder.layers.0", "decoder.layers.1", "decoder.box_heads", "decoder.norm", "decoder.position_head",
    }  # fmt: skip
    assert sum(part.parameters for part in report.parts) == sum(p.numel() for p in model.parameters())

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.text_encoder.projection.weight.grad.eq(1).all()
    assert sum(parameter.grad is not None for parameter in model.parameters()) == 1
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.slow
def test_the_nano_model_learns_four_images_by_heart(folder, tmp_path):
    options = {"overfit": True, "frozen": ["text_encoder.bert"], "seconds": 300}  # 126 and 142 s on a busy core
    report = examine(RECORDS, folder, tmp_path, model_of(PRESETS["nano"]()), **options)
    assert report.is_healthy, report.problems
    assert report.overfitting.recalls[-1] == 1
    assert report.overfitting.losses[-1] < 0.05 * report.overfitting.losses[0]


def test_the_same_seed_gives_the_same_report(folder, tmp_path):
    one, other = (examine(RECORDS, folder, tmp_path / str(n), seed=3) for n in range(2))
    assert one.to_json() == other.to_json()


# where it is written


def test_the_folder(folder, tmp_path):
    examine(RECORDS, folder, tmp_path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        examine(RECORDS, folder, tmp_path)
    examine(RECORDS, folder, tmp_path, overwrite=True)
    (tmp_path / "report" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds mine\.txt, which no run wrote"):
        examine(RECORDS, folder, tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        examine(RECORDS, tmp_path / "none", tmp_path / "2")
    assert not (tmp_path / "2").exists() or not list((tmp_path / "2").iterdir())
    for name in ("lr", "seconds"):
        with pytest.raises(ValueError, match=f"{name}: expected a number above 0, got 0"):
            examine(RECORDS, folder, tmp_path / "2", **{name: 0})


# the command


@pytest.fixture
def table(tmp_path):
    csv_table.write(RECORDS, tmp_path / "boxes.csv")
    return tmp_path / "boxes.csv"


@pytest.fixture
def small_presets(monkeypatch):
    monkeypatch.setitem(PRESETS, "nano", lambda: CONFIG)


def test_the_command(folder, tmp_path, table, small_presets, capsys):
    arguments = ["check", "--data", str(table), "--images", str(folder), "--out", str(tmp_path / "report")]
    assert main([*arguments, "--from-scratch", "nano", "--no-overfit", "--freeze", "text_encoder.bert"]) == 0
    printed = capsys.readouterr().out
    assert "  ok       6 images, 12 boxes: " in printed
    assert "  ok       frozen on purpose: text_encoder.bert\n" in printed
    assert "decoder.layers.1" in printed
    assert printed.splitlines()[-2:] == ["healthy", f"written to {tmp_path / 'report'}"]

    model = model_of()
    with torch.no_grad():
        model.decoder.norm.weight[3] = torch.nan
    save(model, tmp_path / "sick.safetensors")
    arguments += ["--init", str(tmp_path / "sick.safetensors")]
    assert main([*arguments, "--overwrite"]) == 1
    printed = capsys.readouterr().out
    assert "  problem  weights are not finite (NaN or infinity): decoder.norm.weight\n" in printed
    assert printed.splitlines()[-2] == "1 problem"


def test_the_command_refuses_what_it_cannot_check(folder, tmp_path, table, small_presets, capsys):
    def refused(*arguments):
        assert main(["check", *map(str, arguments)]) == 2
        return one_line(capsys)

    common = ["--from-scratch", "nano", "--out", tmp_path / "report", "--no-overfit"]
    assert "none.csv" in refused("--data", tmp_path / "none.csv", "--images", folder, *common)
    assert "no folder of images" in refused("--data", table, "--images", tmp_path / "none", *common)
    init = ["--init", tmp_path / "none.safetensors", "--out", tmp_path / "report"]
    assert "no weight file at" in refused("--data", table, "--images", folder, *init)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    assert "is not empty" in refused("--data", table, "--images", folder, *common)
    assert "holds mine.txt, which no run wrote" in refused("--data", table, "--images", folder, *common, "--overwrite")
