"""Parts that are frozen, or that receive no gradient or one that is not finite."""

import pytest
import torch
from squares_to_learn import RECORDS, examine, model_of, one_problem, texts


def test_a_part_that_is_frozen_by_mistake(folder, tmp_path):
    model = model_of()
    model.feature_enhancer.layers[0].fusion.requires_grad_(False)
    model.text_encoder.bert.requires_grad_(False)
    report = examine(RECORDS, folder, tmp_path, model, frozen=["text_encoder.bert"])
    text = one_problem(report)
    assert text.startswith("frozen (requires_grad is off), but not named as frozen: feature_enhancer.layers.0.fusion; ")
    assert "frozen on purpose: text_encoder.bert" in texts(report, "ok", "gradients")
    trained = {part.part: part.trained for part in report.parts}
    assert trained["text_encoder.bert"] == trained["feature_enhancer.layers.0.fusion"] == 0
    assert model.decoder.norm.weight.requires_grad


def test_parts_frozen_on_purpose(folder, tmp_path):
    model = model_of()
    report = examine(RECORDS, folder, tmp_path, model, frozen=["text_encoder", "image_backbone.backbone"])
    assert report.is_healthy, report.problems
    assert texts(report, "ok", "gradients")[0] == "frozen on purpose: text_encoder, image_backbone.backbone"
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(
        ValueError, match="no parameter's name begins with 'text'; the model's parts are text_encoder, "
    ):
        examine(RECORDS, folder, tmp_path / "2", model, frozen=["text"])
    report = examine(RECORDS, folder, tmp_path / "3", model.requires_grad_(False))
    assert one_problem(report).startswith("every part is frozen")


def test_a_part_that_no_gradient_reaches(folder, tmp_path):
    model = model_of()
    model.text_encoder.projection.register_forward_hook(lambda module, inputs, output: output.detach())
    text = one_problem(examine(RECORDS, folder, tmp_path, model))
    assert text.startswith("no gradient reaches text_encoder.bert, text_encoder.projection: ")
    model = model_of()
    model.decoder.norm.unused = torch.nn.Parameter(torch.ones(3))
    text = one_problem(examine(RECORDS, folder, tmp_path / "2", model))
    assert text.startswith("no gradient reaches decoder.norm.unused: ")


def test_a_gradient_that_is_not_finite(folder, tmp_path):
    def spoil(module, inputs, output):
        output.register_hook(lambda gradient: gradient * torch.nan)

    model = model_of()
    model.decoder.position_head.register_forward_hook(spoil)
    report = examine(RECORDS, folder, tmp_path, model, overfit=True)
    text = one_problem(report)
    assert text.startswith("gradients are not finite (NaN or infinity): ")
    assert "decoder.position_head.layers.0.weight" in text
    assert report.overfitting is None


def test_weights_that_are_not_finite(folder, tmp_path):
    model = model_of()
    with torch.no_grad():
        model.decoder.norm.weight[3] = torch.nan
    text = one_problem(examine(RECORDS, folder, tmp_path, model))
    assert text == "weights are not finite (NaN or infinity): decoder.norm.weight"


def test_predictions_that_are_not_finite_name_the_image(folder, tmp_path):
    model = model_of()
    model.decoder.norm.register_forward_hook(lambda module, inputs, output: output / 0)
    text = one_problem(examine(RECORDS, folder, tmp_path, model, overfit=True))
    assert text.startswith("one step: ")
    assert ".png: the model's predictions are not finite" in text


def test_logits_that_are_all_padding(folder, tmp_path):
    model = model_of()
    model.contrastive_heads[-1].register_forward_hook(lambda *parts: torch.full_like(parts[-1], -torch.inf))
    problems = [remark.text for remark in examine(RECORDS, folder, tmp_path, model).problems]
    assert sum("all logits are those of padding" in text for text in problems) == 4
