"""Batches that are not learned by heart, and the remarks on them."""

import itertools
import json

import pytest
import torch
from squares_to_learn import RECORDS, examine, model_of, texts

from gdino_lib.training.doctor import overfitting
from gdino_lib.training.doctor.overfitting import measure_recall


@pytest.fixture
def hasty(monkeypatch):
    """Lets a few steps count as conclusive."""
    monkeypatch.setattr(overfitting, "CONCLUSIVE_STEPS", 2)
    return {"overfit": True, "seconds": 2.0}


def test_a_loss_that_is_flat(folder, tmp_path, hasty):
    report = examine(RECORDS, folder, tmp_path, frozen=["image_backbone.backbone"], lr=1e-12, **hasty)
    first, *boxes = texts(report, "problem", "overfitting")
    assert first.startswith("the loss is flat: recall 0.")
    assert "100.0% of its start" in first
    assert first.endswith("these do not train: image_backbone.backbone")
    assert len(boxes) == 6, "five boxes, and how many more"
    assert all(".png: box " in text and " is not found: " in text for text in boxes[:-1])
    assert boxes[-1].endswith("more boxes are not found")
    prompts = texts(report, "warning", "overfitting")
    assert len(prompts) == 4
    assert all(" was asked for: " in text and " . " in text for text in prompts)


def test_a_trained_model_has_less_far_to_fall(folder, tmp_path, monkeypatch):
    found = iter([0.5, *[1.0] * 99])
    monkeypatch.setattr(overfitting, "measure_recall", lambda *_: (next(found), []))
    monkeypatch.setattr(overfitting, "TRAINED_STEPS", 8)
    monkeypatch.setattr(overfitting, "LOSS_GOAL_SHARE", 0.0)
    report = examine(RECORDS, folder, tmp_path, overfit=True)
    assert texts(report, "ok", "overfitting")[0].startswith("all boxes are found; a trained model's loss has less far")
    assert 9 <= len(report.overfitting.losses) < 50
    monkeypatch.setattr(overfitting, "measure_recall", lambda *_: (1.0, []))
    report = examine(RECORDS, folder, tmp_path / "2", overfit=True, seconds=0.5, lr=1e-9)
    assert texts(report, "warning")[-1].startswith("all boxes are found, but the loss hardly falls: recall 1.00")
    assert report.is_healthy


def test_a_loss_that_explodes(folder, tmp_path):
    model, calls = model_of(), itertools.count()
    model.decoder.norm.register_forward_hook(lambda module, inputs, output: output / (next(calls) < 8))
    report = examine(RECORDS, folder, tmp_path, model, overfit=True)
    first = texts(report, "problem", "overfitting")[0]
    assert first.startswith("diverged in step 3: ")
    assert ".png: the model's predictions are not finite" in first
    values = json.loads((tmp_path / "report" / "check.json").read_text("utf-8"))
    assert values["overfitting"]["losses"][-1] is None


def test_too_little_time_proves_nothing(folder, tmp_path):
    report = examine(RECORDS, folder, tmp_path, overfit=True, seconds=0.01)
    assert report.is_healthy
    assert "proves nothing" in texts(report, "warning", "overfitting")[0]


def test_a_box_that_is_taken_for_another(folder):
    from types import SimpleNamespace

    logits = torch.full((1, 2, 4), -9.0)
    logits[0, 0, 2] = 9.0  # the second phrase, where the first is
    target = SimpleNamespace(boxes=torch.tensor([[0.5, 0.5, 0.4, 0.4]]), phrases=torch.tensor([0]), name="a.png")
    out = SimpleNamespace(
        logits=logits, boxes=torch.tensor([[[0.5, 0.5, 0.4, 0.4]] * 2]), phrase_of_token=torch.tensor([[-1, 0, 1, -1]])
    )
    batch = SimpleNamespace(targets=[target], prompts=[["cat", "dog"]])
    recall, lines = measure_recall(out, batch)
    assert recall == 0
    assert lines == ["a.png: box 1, 'cat', is not found: no 'cat' is sure enough, it is taken for dog"]
    logits[0, 1, 1] = 9.0
    assert measure_recall(out, batch) == (1, [])
    target.boxes, target.phrases = target.boxes.repeat(2, 1), target.phrases.repeat(2)
    assert measure_recall(out, batch)[0] == 0.5, "one box found does not count twice"
