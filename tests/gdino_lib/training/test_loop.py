"""The training loop: seeds, learning rates, gradients, precision, and runs that are killed at any step."""

from dataclasses import replace

import pytest
import torch
from small_runs import SETTINGS, SIDE, dataset, model
from training_runs import STEPS, Interrupting, KilledError, losses, run

import gdino_lib as gd
from data_prep import Dataset
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training import checkpoints, optimization
from gdino_lib.training.log import read_log
from gdino_lib.training.optimization import schedule_factor
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tmp_path, images):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path, name, replace(SETTINGS, seed=seed), data=images).fit()
    run(tmp_path, "d", data=dataset(tmp_path / "others", seed=1)).fit()
    assert losses(tmp_path / "a") != losses(tmp_path / "d"), "the data set's own"
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")
    assert len(losses(tmp_path / "a")) == STEPS


@pytest.mark.parametrize("moment", [2, 11, 18, 24])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, images, moment, capsys):
    settings = replace(SETTINGS, save_every=2, dropout=0.1, ema=0.9)
    run(tmp_path, "whole", settings, data=images).fit()

    def kill(_):
        raise KilledError

    images.transform = Interrupting(moment, kill)
    killed = run(tmp_path, "killed", settings, data=images)
    with pytest.raises(KilledError):
        killed.fit()
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "lo')  # a line that it did not get to write whole
    images.transform = EvaluationTransform(SIDE, SIDE)
    begun = checkpoints.steps(tmp_path / "killed")  # then other weights than the checkpoint's do not matter
    resumed = run(tmp_path, "killed", settings, seed=7 if begun else 0, data=images, resume=True, progress=True)
    assert resumed.step == {2: 0, 11: 0, 18: 3, 24: 4}[moment]
    capsys.readouterr()
    resumed.fit()
    assert ("(of the 2 steps since it was resumed)" in capsys.readouterr().out) == (moment == 24)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    whole, again = (gd.load(tmp_path / name / "last.safetensors").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_with_all_options_resumes_bit_for_bit(tmp_path, images):
    settings = replace(
        SETTINGS, lora_rank=2, ema=0.9, dropout=0.1, precision="float16", gradient_checkpointing=True, accumulation_steps=2,
        save_every=1, patience=5, schedule="cosine",
    )  # fmt: skip
    validation = Validation(Dataset(images.records), images.images)
    run(tmp_path, "whole", settings, data=images, validation=validation).fit()

    def kill(_):
        raise KilledError

    images.transform = Interrupting(22, kill)
    with pytest.raises(KilledError):
        run(tmp_path, "killed", settings, data=images, validation=validation).fit()
    images.transform = EvaluationTransform(SIDE, SIDE)
    resumed = run(tmp_path, "killed", settings, data=images, validation=validation, resume=True)
    assert resumed.step == 4
    resumed.fit()
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert read_log(tmp_path / "killed")[1] == read_log(tmp_path / "whole")[1]


def test_gradients_that_overflow_float16_at_every_scale_stop_the_run(tmp_path, images, monkeypatch):
    training = run(tmp_path, settings=replace(SETTINGS, epochs=9, precision="float16"), data=images)
    normal = training.criterion

    def broken(*arguments):
        losses = normal(*arguments)
        return losses | {"total": losses["total"] + 0 * (losses["total"] - losses["total"]).sqrt()}  # 0 * infinity

    monkeypatch.setattr(training, "criterion", broken)
    with pytest.raises(ValueError, match=r"step 17: the gradients overflow float16 whatever their scale"):
        training.fit()


def test_two_passes_give_the_losses_of_one(tmp_path, images):
    settings = replace(SETTINGS, lr_scale={"text_encoder.bert": 0.0})  # whose dropout differs between the passes
    run(tmp_path, "one", settings, data=images).fit()
    run(tmp_path, "two", replace(settings, accumulation_steps=2), data=images).fit()
    for (one, norm, _), (two, other, _) in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
        assert other == pytest.approx(norm, rel=5e-3)  # rounding may move a value over a kink: 1e-3 in one of six steps


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, images, monkeypatch):
    again, real = [], optimization.checkpoint
    monkeypatch.setattr(optimization, "checkpoint", lambda *a, **options: again.append(1) or real(*a, **options))
    run(tmp_path, "kept", replace(SETTINGS, dropout=0.2), data=images).fit()
    assert again == []
    run(tmp_path, "twice", replace(SETTINGS, dropout=0.2, gradient_checkpointing=True), data=images).fit()
    assert len(again) >= 4 * STEPS  # Swin's blocks, the text, the enhancer, the decoder
    for (kept, norm, _), (twice, other, _) in zip(losses(tmp_path / "kept"), losses(tmp_path / "twice"), strict=True):
        assert twice == pytest.approx(kept, rel=1e-6)
        assert other == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_stays_near(tmp_path, images, precision):
    run(tmp_path, "full", replace(SETTINGS, epochs=1), data=images).fit()
    run(tmp_path, "half", replace(SETTINGS, epochs=1, precision=precision), data=images).fit()
    full, half = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert half[0][0] != full[0][0] == pytest.approx(half[0][0], rel=0.03)


def test_each_step_has_its_rate_and_its_gradients_are_clipped(tmp_path, images):
    settings = replace(SETTINGS, warmup_steps=3, lr=2e-3, lr_scale={"decoder": 0.5}, clip=0.25)
    training, seen = run(tmp_path, settings=settings, data=images), []
    step = training.loop.optimizer.step

    def watched(*arguments, **options):
        groups = training.loop.optimizer.param_groups
        norm = torch.stack([p.grad.norm() for group in groups for p in group["params"] if p.grad is not None]).norm()
        seen.append((sorted({group["lr"] for group in groups}), norm.item()))
        return step(*arguments, **options)

    training.loop.optimizer.step = watched
    training.fit()
    for number, (rates, norm) in enumerate(seen):
        factor = schedule_factor(settings, number, STEPS)
        assert rates == pytest.approx([1e-3 * factor, 2e-3 * factor])
        assert norm <= 0.25 * 1.001
    assert max(norm for _, norm, _ in losses(tmp_path / "run")) > 0.25  # before they were
    assert len(seen) == STEPS


def test_several_threads_repeat_bit_for_bit(tmp_path, images):
    torch.set_num_threads(2)
    settings = replace(SETTINGS, epochs=4, batch_size=12)
    wide = {"bert_width": 256, "bert_heads": 4}  # sums long enough to be shared among threads
    options = {"workers": 0, "device": "cpu", "progress": False}
    for name in ("a", "b", "c"):
        Trainer(model(**wide), images, settings, tmp_path / name, **options).fit()
    assert losses(tmp_path / "a") == losses(tmp_path / "b") == losses(tmp_path / "c")
    assert not torch.are_deterministic_algorithms_enabled()


def test_pixels_that_are_no_numbers_stop_with_the_images_name(tmp_path, images):
    images.transform = Interrupting(10, lambda sample: sample._replace(pixel_values=sample.pixel_values * torch.nan))
    training = run(tmp_path, settings=replace(SETTINGS, save_every=1), data=images)
    with pytest.raises(ValueError, match=r"\d{5}\.png: the model's predictions are not finite"):
        training.fit()
    assert [path.name for path in checkpoints.steps(tmp_path / "run")] == ["step-00000001", "step-00000002"]


def test_a_loss_that_explodes_stops_before_it_changes_the_weights(tmp_path, images, monkeypatch):
    training = run(tmp_path, data=images)
    before = {name: p.detach().clone() for name, p in training.plain_model.named_parameters()}
    normal = training.criterion

    def explode(*arguments):
        return {name: value * torch.inf for name, value in normal(*arguments).items()}

    monkeypatch.setattr(training, "criterion", explode)
    with pytest.raises(ValueError, match=r"step 1: the loss is inf.*try a lower learning rate.*images: \d{5}\.png"):
        training.fit()
    assert all(torch.equal(p, before[name]) for name, p in training.plain_model.named_parameters())
