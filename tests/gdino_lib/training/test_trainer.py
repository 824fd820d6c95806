"""The trainer: which parameters it trains, which weights it keeps, and what it refuses."""

import re
import warnings
from dataclasses import replace

import pytest
import torch
from small_runs import SETTINGS, SIDE, model
from training_runs import KilledError, losses, run

import gdino_lib as gd
from data_prep import Dataset
from gdino_lib.data.joined import JoinedDataset
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.training.trainer import Trainer, _warn_of_crowded_images
from gdino_lib.training.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_seed_decides_the_first_adapters(tmp_path, images):
    def first(name, seed, drawn_before):
        settings = replace(SETTINGS, lora_rank=2, seed=seed)
        training = run(tmp_path, name, settings, data=images, seed=drawn_before)
        return {n: p for n, p in training.plain_model.named_parameters() if "lora_A" in n}

    one, same, other = first("a", 0, 0), first("b", 0, 7), first("c", 1, 0)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_patience_needs_validation(tmp_path, images):
    with pytest.raises(ValueError, match="patience: needs validation"):
        run(tmp_path, settings=replace(SETTINGS, patience=2), data=images)


RECIPES = {
    "full": {"lr_scale": {}},
    "frozen text": {"lr_scale": {"text_encoder.bert": 0.0}},
    "frozen backbone": {"lr_scale": {"image_backbone.backbone": 0.0}},
    "adapters": {"lora_rank": 2},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_trained_parameters_change_and_frozen_ones_stay(tmp_path, images, recipe):
    settings = replace(SETTINGS, epochs=2, weight_decay=0.0, dropout=0.0, **RECIPES[recipe])
    training = run(tmp_path, settings=settings, data=images)
    before = {name: p.detach().clone() for name, p in training.plain_model.named_parameters()}
    training.fit()
    words = "text_encoder.bert.embeddings."  # the rows of words that no prompt has do not change
    for name, parameter in training.plain_model.named_parameters():
        frozen = any(name.startswith(f"{part}.") for part in settings.lr_scale)
        learns = "lora_" in name if recipe == "adapters" else not frozen
        assert parameter.requires_grad == learns, name
        if learns and not name.startswith(words):
            assert (parameter.grad != 0).any(), f"{name} receives no gradient"
        assert torch.equal(parameter, before[name]) != learns, name


def test_frozen_parts_are_in_evaluation_mode(tmp_path, images):
    settings = replace(SETTINGS, dropout=0.5, lr_scale={"text_encoder": 0.0, "decoder.layers.0": 0.0})
    training = run(tmp_path, settings=settings, data=images)
    training.fit()
    parts = training.plain_model
    assert not parts.text_encoder.bert.embeddings.training
    assert not parts.decoder.layers[0].dropout.training
    assert parts.decoder.layers[1].dropout.training
    assert parts.decoder.layers[1].dropout.p == 0.5


class Judged(Trainer):
    """A trainer whose validations have the results that the test asks for."""

    def _measure(self):
        ap = self.verdicts.pop(0)
        self.seen = [
            *getattr(self, "seen", []),
            {n: p.detach().clone() for n, p in self.plain_model.named_parameters()},
        ]
        return SimplePrecision(ap), Thresholds(0.5, {}, {})


class SimplePrecision:
    def __init__(self, ap):
        self.ap = self.ap50 = ap
        self.classes = ()


def judged(tmp_path, images, verdicts, **changes):
    settings = replace(SETTINGS, epochs=len(verdicts), **changes)
    validation = Validation(Dataset(images.records), images.images)
    options = {"workers": 0, "device": "cpu", "progress": False, "validation": validation}
    training = Judged(model(), images, settings, tmp_path / "run", **options)
    training.verdicts = list(verdicts)
    return training


def test_the_best_weights_are_kept(tmp_path, images):
    training = judged(tmp_path, images, [0.1, 0.3, 0.2])
    result = training.fit()
    assert result.best == {"step": 6, "epoch": 2, "ap": 0.3, "ap50": 0.3}
    assert result.weights == tmp_path / "run" / "best.safetensors"
    best = dict(gd.load(result.weights, "cpu").named_parameters())
    assert all(torch.equal(best[name], value) for name, value in training.seen[1].items())
    assert Thresholds.load(thresholds_path(result.weights)).default == 0.5


def test_training_stops_when_nothing_gets_better(tmp_path, images):
    training = judged(tmp_path, images, [0.3, 0.1, 0.2, 0.9], patience=2)
    result = training.fit()
    assert (result.step, result.best["ap"]) == (9, 0.3)


def test_of_equal_validations_the_last_is_kept_but_none_counts_as_better(tmp_path, images, capsys):
    training = judged(tmp_path, images, [0.0, 0.0, 0.0, 0.9], patience=2)
    training._progress = True
    result = training.fit()
    assert (result.step, result.best["epoch"]) == (9, 3)
    best = dict(gd.load(result.weights, "cpu").named_parameters())
    assert all(torch.equal(best[name], value) for name, value in training.seen[2].items())
    assert "the best so far" not in capsys.readouterr().out  # of nothing


def test_the_average_is_validated_and_saved_but_training_continues_from_the_weights(tmp_path, images):
    training = judged(tmp_path, images, [0.1, 0.2], ema=0.5)
    result = training.fit()
    best = dict(gd.load(result.weights, "cpu").named_parameters())
    assert all(torch.equal(best[name], value) for name, value in training.seen[1].items())
    assert not all(torch.equal(best[n], p) for n, p in training.plain_model.named_parameters())
    run(tmp_path, "plain", replace(SETTINGS, epochs=2), data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 13}, "batch_size: expected at most 12, the number of images, got 13"),
        ({"lr_scale": {"neck": 0.1}}, "no parameter's name begins with 'neck'; the model's parts are text_encoder, image_"),
        (
            {"lr_scale": dict.fromkeys(("text_encoder", "image_backbone", "feature_enhancer", "query_selection", "decoder",
                                        "contrastive_heads"), 0)},
            "every part is frozen",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tmp_path, images, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path, settings=replace(SETTINGS, **changes), data=images)


def test_more_boxes_than_queries_give_a_warning(images):
    most = max(len(record.boxes) for record in images.records)
    for dataset in (images, JoinedDataset([images])):
        with pytest.warns(UserWarning, match=rf"have more boxes than the model has queries \({most - 1}\)"):
            _warn_of_crowded_images(dataset, most - 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _warn_of_crowded_images(dataset, most)


def test_a_missing_image_is_named(tmp_path, images):
    (tmp_path / "images" / "00007.png").unlink()
    with pytest.raises(ValueError, match=r"00007\.png"):
        run(tmp_path, data=images).fit()


def test_unusable_validation_data_are_refused_at_once(tmp_path, images):
    bare = Dataset(tuple(replace(record, boxes=()) for record in images.records), images.classes)
    with pytest.raises(ValueError, match="validation: none of 12 records with classes has a box"):
        run(tmp_path, data=images, validation=Validation(bare, images.images))
    with pytest.raises(FileNotFoundError, match=r"elsewhere: no such folder"):
        run(tmp_path, data=images, validation=Validation(Dataset(images.records), tmp_path / "elsewhere"))
    assert not (tmp_path / "run").exists()


def test_adapters_are_saved_beside_the_merged_weights(tmp_path, images):
    from gdino_lib.training import lora

    training = run(tmp_path, settings=replace(SETTINGS, lora_rank=2), data=images)
    training.fit()
    merged = gd.load(tmp_path / "run" / "last.safetensors", "cpu")
    loaded = lora.load(model(), tmp_path / "run" / "last-adapters").eval()
    pixels, prompts = torch.randn(1, 3, SIDE, SIDE), [["red circle", "blue square"]]
    with torch.inference_mode():
        expected = training.plain_model.eval()(pixels, prompts)
        for each in (merged, loaded):
            torch.testing.assert_close(each(pixels, prompts).boxes, expected.boxes)


class Recorder:
    """Keeps the weights that each epoch ends with; `stop` raises instead, once."""

    def __init__(self, stop=0):
        self.seen, self.stop = {}, stop

    def on_epoch_end(self, epoch, detector):
        if epoch == self.stop:
            self.stop = 0
            raise KilledError
        self.seen[epoch] = {name: p.detach().clone() for name, p in detector.model.named_parameters()}


def test_callbacks_see_the_averaged_weights_of_each_epoch_and_change_nothing(tmp_path, images):
    recorder, settings = Recorder(), replace(SETTINGS, epochs=2, ema=0.5)
    result = run(tmp_path, settings=settings, data=images, callbacks=[recorder]).fit()
    last = dict(gd.load(result.weights, "cpu").named_parameters())
    assert list(recorder.seen) == [1, 2]
    assert all(torch.equal(last[name], value) for name, value in recorder.seen[2].items())
    run(tmp_path, "plain", settings, data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


def test_a_callback_that_was_interrupted_is_called_again(tmp_path, images):
    settings = replace(SETTINGS, epochs=2, save_every=1)
    recorder = Recorder(stop=1)
    with pytest.raises(KilledError):
        run(tmp_path, settings=settings, data=images, callbacks=[recorder]).fit()
    run(tmp_path, settings=settings, data=images, callbacks=[recorder], resume=True).fit()
    assert list(recorder.seen) == [1, 2]
    again = Recorder()
    run(tmp_path, settings=settings, data=images, callbacks=[again], resume=True).fit()
    assert list(again.seen) == [2], "a finished run calls for its last epoch"
    assert all(torch.equal(recorder.seen[2][name], value) for name, value in again.seen[2].items())
