"""The training loop: what it promises about its results, its folder, and runs that are interrupted."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import SETTINGS, SIDE, dataset, model, shapes
from traps import Trap

import gdino_lib as gd
from data_prep import Dataset
from data_prep.formats import csv_table
from gdino_lib.cli.main import main
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.training import checkpoints, optimization
from gdino_lib.training.log import read_log
from gdino_lib.training.optimization import schedule_factor
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation
from gdino_lib.weights import loading

STEPS = 6  # two epochs of twelve pictures, four a step


def run(tmp_path, name="run", settings=SETTINGS, *, data, seed=0, **options):
    options = {"workers": 0, "device": "cpu", "progress": False} | options
    return Trainer(model(seed), data, settings, tmp_path / name, **options)


@pytest.fixture(autouse=True)
def one_thread():
    """Models as small as these only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path):
    return dataset(tmp_path / "images")


def losses(out):
    steps, _ = read_log(out)
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    return [(entry["loss"], entry["gradient_norm"], entry["parts"]) for entry in steps]


class KilledError(Exception):
    """In place of SIGKILL: nothing is caught, nothing is cleaned up by the trainer."""


class Interrupting(EvaluationTransform):
    """Calls `act` at the n-th image that is read."""

    def __init__(self, number, act):
        super().__init__(SIDE, SIDE)
        object.__setattr__(self, "left", number)
        object.__setattr__(self, "act", act)

    def __call__(self, *arguments):
        object.__setattr__(self, "left", self.left - 1)
        out = super().__call__(*arguments)
        return (self.act(out) or out) if self.left == 0 else out

    def __repr__(self):  # the same data, for a run that goes on
        return repr(EvaluationTransform(SIDE, SIDE))


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tmp_path, images):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path, name, replace(SETTINGS, seed=seed), data=images).fit()
    run(tmp_path, "d", data=dataset(tmp_path / "others", seed=1)).fit()
    assert losses(tmp_path / "a") != losses(tmp_path / "d"), "the data set's own"
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")
    assert len(losses(tmp_path / "a")) == STEPS


@pytest.mark.parametrize("moment", [2, 11, 18, 24])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, images, moment, capsys):
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


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, images, number, error):
    run(tmp_path, "whole", data=images).fit()
    handler = signal.getsignal(number)  # a shell's background jobs ignore Ctrl-C
    images.transform = Interrupting(6, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(error) as stopped:
        run(tmp_path, "stopped", data=images).fit()
    if number == signal.SIGTERM:
        assert stopped.value.code == 143
    assert [path.name for path in checkpoints.steps(tmp_path / "stopped")] == ["step-00000001"]  # a batch is read ahead
    assert signal.getsignal(number) == handler
    images.transform = EvaluationTransform(SIDE, SIDE)
    run(tmp_path, "stopped", data=images, resume=True).fit()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_signal_breaks_a_validation_off_which_is_done_again(tmp_path, images):
    settings, validation = replace(SETTINGS, ema=0.5), Validation(Dataset(images.records), images.images)
    run(tmp_path, "whole", settings, data=images, validation=validation).fit()

    class Stopped(Trainer):
        def _measure(self):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")

    options = {"workers": 0, "device": "cpu", "progress": False, "validation": validation}
    with pytest.raises(SystemExit):
        Stopped(model(), images, settings, tmp_path / "stopped", **options).fit()
    assert [path.name for path in checkpoints.steps(tmp_path / "stopped")] == ["step-00000003"]
    run(tmp_path, "stopped", settings, data=images, validation=validation, resume=True).fit()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert read_log(tmp_path / "stopped")[1] == read_log(tmp_path / "whole")[1]


class StoppedSaving(Trainer):
    """SIGTERM comes whenever it writes weights."""

    def _save_weights(self, name, averaged=False):
        os.kill(os.getpid(), signal.SIGTERM)
        super()._save_weights(name, averaged)


def test_a_signal_while_the_best_is_written_loses_nothing(tmp_path, images):
    """It is written whole, with its thresholds and the log's entry; then the run stops."""
    settings, validation = replace(SETTINGS, ema=0.5), Validation(Dataset(images.records), images.images)

    options = {"workers": 0, "device": "cpu", "progress": False, "validation": validation}
    with pytest.raises(SystemExit):
        StoppedSaving(model(), images, settings, tmp_path / "stopped", **options).fit()
    assert [path.name for path in checkpoints.steps(tmp_path / "stopped")] == ["step-00000003"]
    assert [entry["step"] for entry in read_log(tmp_path / "stopped")[1]] == [3]
    assert (tmp_path / "stopped" / "best.thresholds.json").is_file()
    gd.load(tmp_path / "stopped" / "best.safetensors")
    run(tmp_path, "stopped", settings, data=images, validation=validation, resume=True).fit()
    run(tmp_path, "whole", settings, data=images, validation=validation).fit()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert read_log(tmp_path / "stopped")[1] == read_log(tmp_path / "whole")[1]


def test_a_signal_during_the_last_save_still_stops(tmp_path, images):
    with pytest.raises(SystemExit) as stopped:
        StoppedSaving(model(), images, SETTINGS, tmp_path / "run", workers=0, device="cpu", progress=False).fit()
    assert stopped.value.code == 143
    gd.load(tmp_path / "run" / "last.safetensors")


def test_the_same_trainer_goes_on_after_it_was_interrupted(tmp_path, images):
    """As when a notebook's cell is interrupted and run again."""
    images.transform = Interrupting(6, lambda _: os.kill(os.getpid(), signal.SIGINT))
    training = run(tmp_path, data=images)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    assert training.fit().step == STEPS
    run(tmp_path, "whole", data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_adapters_begin_as_the_seed_says(tmp_path, images):
    def first(name, seed, drawn_before):
        settings = replace(SETTINGS, lora_rank=2, seed=seed)
        training = run(tmp_path, name, settings, data=images, seed=drawn_before)
        return {n: p for n, p in training.plain_model.named_parameters() if "lora_A" in n}

    one, same, other = first("a", 0, 0), first("b", 0, 7), first("c", 1, 0)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_everything_at_once_goes_on_bit_for_bit(tmp_path, images):
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


def test_gradients_that_overflow_float16_whatever_their_scale_are_told(tmp_path, images, monkeypatch):
    training = run(tmp_path, settings=replace(SETTINGS, epochs=9, precision="float16"), data=images)
    normal = training.criterion

    def broken(*arguments):
        losses = normal(*arguments)
        return losses | {"total": losses["total"] + 0 * (losses["total"] - losses["total"]).sqrt()}  # 0 * infinity

    monkeypatch.setattr(training, "criterion", broken)
    with pytest.raises(ValueError, match=r"step 17: the gradients overflow float16 whatever their scale"):
        training.fit()


def test_patience_needs_something_to_judge_by(tmp_path, images):
    with pytest.raises(ValueError, match="patience: nothing tells whether anything gets better"):
        run(tmp_path, settings=replace(SETTINGS, patience=2), data=images)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_reaches_the_trainer_alone(tmp_path, number):
    """As launchers, `timeout` and Ctrl-C send it: the loader's workers must outlive it."""
    path = script(tmp_path, epochs=200, workers=2)
    process = subprocess.Popen(
        [sys.executable, str(path), "run"], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (143, 1 if number == signal.SIGINT else 143, -number), said
    steps = losses(tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run")[-1].name == f"step-{len(steps):08d}"


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
    step = training.optimizer.step

    def watched(*arguments, **options):
        groups = training.optimizer.param_groups
        norm = torch.stack([p.grad.norm() for group in groups for p in group["params"] if p.grad is not None]).norm()
        seen.append((sorted({group["lr"] for group in groups}), norm.item()))
        return step(*arguments, **options)

    training.optimizer.step = watched
    training.fit()
    for number, (rates, norm) in enumerate(seen):
        factor = schedule_factor(settings, number, STEPS)
        assert rates == pytest.approx([1e-3 * factor, 2e-3 * factor])
        assert norm <= 0.25 * 1.001
    assert max(norm for _, norm, _ in losses(tmp_path / "run")) > 0.25  # before they were
    assert len(seen) == STEPS


RECIPES = {
    "full": {"lr_scale": {}},
    "frozen text": {"lr_scale": {"text_encoder.bert": 0.0}},
    "frozen backbone": {"lr_scale": {"image_backbone.backbone": 0.0}},
    "adapters": {"lora_rank": 2},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_should_learn_changes_and_what_is_frozen_stays(tmp_path, images, recipe):
    settings = replace(SETTINGS, epochs=2, weight_decay=0.0, dropout=0.0, **RECIPES[recipe])
    training = run(tmp_path, settings=settings, data=images)
    before = {name: p.detach().clone() for name, p in training.plain_model.named_parameters()}
    training.fit()
    words = "text_encoder.bert.embeddings."  # rows of words that no prompt has are still
    for name, parameter in training.plain_model.named_parameters():
        frozen = any(name.startswith(f"{part}.") for part in settings.lr_scale)
        learns = "lora_" in name if recipe == "adapters" else not frozen
        assert parameter.requires_grad == learns, name
        if learns and not name.startswith(words):
            assert (parameter.grad != 0).any(), f"{name} receives no gradient"
        assert torch.equal(parameter, before[name]) != learns, name


def test_frozen_parts_are_as_in_evaluation(tmp_path, images):
    settings = replace(SETTINGS, dropout=0.5, lr_scale={"text_encoder": 0.0, "decoder.layers.0": 0.0})
    training = run(tmp_path, settings=settings, data=images)
    training.fit()
    parts = training.plain_model
    assert not parts.text_encoder.bert.embeddings.training
    assert not parts.decoder.layers[0].dropout.training
    assert parts.decoder.layers[1].dropout.training
    assert parts.decoder.layers[1].dropout.p == 0.5


class Judged(Trainer):
    """Its validations say what the test wants."""

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


def test_of_equals_the_last_is_kept_but_none_of_them_is_better(tmp_path, images, capsys):
    training = judged(tmp_path, images, [0.0, 0.0, 0.0, 0.9], patience=2)
    training._progress = True
    result = training.fit()
    assert (result.step, result.best["epoch"]) == (9, 3)
    best = dict(gd.load(result.weights, "cpu").named_parameters())
    assert all(torch.equal(best[name], value) for name, value in training.seen[2].items())
    assert "the best so far" not in capsys.readouterr().out  # of nothing


def test_the_average_is_judged_and_kept_and_training_goes_on_from_the_weights(tmp_path, images):
    training = judged(tmp_path, images, [0.1, 0.2], ema=0.5)
    result = training.fit()
    best = dict(gd.load(result.weights, "cpu").named_parameters())
    assert all(torch.equal(best[name], value) for name, value in training.seen[1].items())
    assert not all(torch.equal(best[n], p) for n, p in training.plain_model.named_parameters())
    run(tmp_path, "plain", replace(SETTINGS, epochs=2), data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


def test_an_existing_folder_is_left_alone_unless_asked(tmp_path, images):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileExistsError, match=r"not empty; choose another folder, or ask for resume, .* --resume"):
        run(tmp_path, data=images)
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.txt', which no run wrote"):
        run(tmp_path, data=images, resume=True)
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.txt', which no run wrote"):
        run(tmp_path, data=images, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "ten years of work"
    run(tmp_path, "other", replace(SETTINGS, epochs=1), data=images).fit()
    run(tmp_path, "other", data=images, overwrite=True)
    assert not list((tmp_path / "other").iterdir())
    with pytest.raises(ValueError, match="ask for one of them"):
        run(tmp_path, "other", data=images, overwrite=True, resume=True)


def test_an_earlier_run_stays_when_the_settings_are_wrong(tmp_path, images):
    run(tmp_path, data=images).fit()
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ValueError, match="'nek'"):
        run(tmp_path, settings=replace(SETTINGS, lr_scale={"nek": 0.1}), data=images, overwrite=True)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_what_a_killed_run_left_half_written_is_removed(tmp_path, images):
    run(tmp_path, data=images).fit()
    (tmp_path / "run" / ".best.safetensors.ab12.partial").write_text("half")
    (tmp_path / "run" / ".best-adapters.partial").mkdir()
    (tmp_path / "run" / "checkpoints" / ".step-00000005.partial").mkdir()
    run(tmp_path, settings=replace(SETTINGS, epochs=3), data=images, resume=True).fit()
    assert not list((tmp_path / "run").rglob(".*"))
    assert len(losses(tmp_path / "run")) == STEPS * 3 // 2


def test_a_run_that_is_over_is_not_begun_anew_without_its_checkpoints(tmp_path, images):
    """They may be deleted; its weights stay."""
    run(tmp_path, data=images).fit()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match="a run that is over, without checkpoints to go on from"):
        run(tmp_path, data=images, resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_to_resume_what_has_not_begun_is_to_begin(tmp_path, images):
    assert run(tmp_path, "new", data=images, resume=True).fit().step == STEPS


def test_several_threads_repeat_bit_for_bit(tmp_path, images):
    torch.set_num_threads(2)
    settings = replace(SETTINGS, epochs=4, batch_size=12)
    wide = {"bert_width": 256, "bert_heads": 4}  # sums long enough to be shared among threads
    options = {"workers": 0, "device": "cpu", "progress": False}
    for name in ("a", "b", "c"):
        Trainer(model(**wide), images, settings, tmp_path / name, **options).fit()
    assert losses(tmp_path / "a") == losses(tmp_path / "b") == losses(tmp_path / "c")
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_goes_on_only_with_its_own_settings_and_data(tmp_path, images):
    run(tmp_path, data=images).fit()
    with pytest.raises(ValueError, match=r"its run has lr = 0\.001, not 0\.1; resume with the same settings"):
        run(tmp_path, settings=replace(SETTINGS, lr=0.1), data=images, resume=True)
    with pytest.raises(ValueError, match="has made 6 steps, and 1 epochs are 3; resume with more epochs"):
        run(tmp_path, settings=replace(SETTINGS, epochs=1), data=images, resume=True)
    with pytest.raises(ValueError, match="other training data"):
        run(tmp_path, data=dataset(tmp_path / "other", 16), resume=True)
    with pytest.raises(ValueError, match="other validation data"):
        run(tmp_path, data=images, validation=Validation(Dataset(images.records), images.images), resume=True)
    with pytest.raises(ValueError, match="a model of another configuration"):
        Trainer(
            model(queries=9), images, SETTINGS, tmp_path / "run", resume=True, workers=0, device="cpu", progress=False
        )
    longer = run(tmp_path, settings=replace(SETTINGS, epochs=3), data=images, resume=True)
    longer.fit()
    assert len(losses(tmp_path / "run")) == STEPS * 3 // 2


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


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, images, monkeypatch):
    training = run(tmp_path, settings=replace(SETTINGS, save_every=1), data=images)
    save = torch.save

    def full(state, file):
        if training.step == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        training.fit()
    monkeypatch.undo()
    assert [path.name for path in checkpoints.steps(tmp_path / "run")] == ["step-00000001", "step-00000002"]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    run(tmp_path, settings=replace(SETTINGS, save_every=1), data=images, resume=True).fit()
    run(tmp_path, "whole", data=images).fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_disk_that_is_really_full_is_told_in_one_line(tmp_path, small_scratch, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]).returncode
    ):
        pytest.skip("mounting a tmpfs needs root")
    try:
        arguments = ["train", *csv_of(tmp_path), "--from-scratch", "nano", "--out", str(disk / "run"), "--workers", "0"]
        assert main([*arguments, "--batch-size", "4", "--epochs", "9", "--device", "cpu"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert "No space left on device" in error
        for path in checkpoints.steps(disk / "run"):
            checkpoints.read(path)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_missing_image_is_named(tmp_path, images):
    (tmp_path / "images" / "00007.png").unlink()
    with pytest.raises(ValueError, match=r"00007\.png"):
        run(tmp_path, data=images).fit()


def test_what_cannot_be_validated_by_is_said_at_once(tmp_path, images):
    bare = Dataset(tuple(replace(record, boxes=()) for record in images.records), images.classes)
    with pytest.raises(ValueError, match="validation: none of 12 records with classes has a box"):
        run(tmp_path, data=images, validation=Validation(bare, images.images))
    with pytest.raises(FileNotFoundError, match=r"elsewhere: no such folder"):
        run(tmp_path, data=images, validation=Validation(Dataset(images.records), tmp_path / "elsewhere"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [checkpoints.MODEL, checkpoints.TRAINING, checkpoints.STATE])
def test_a_damaged_checkpoint_is_named(tmp_path, images, name):
    run(tmp_path, data=images).fit()
    path = checkpoints.steps(tmp_path / "run")[-1] / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run(tmp_path, data=images, resume=True)


def test_code_in_a_checkpoint_is_not_run(tmp_path, images):
    run(tmp_path, data=images).fit()
    path = checkpoints.steps(tmp_path / "run")[-1] / checkpoints.TRAINING
    torch.save({"optimizer": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run(tmp_path, data=images, resume=True)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_says_what_it_is_of(tmp_path, images):
    run(tmp_path, data=images).fit()
    state = checkpoints.read(checkpoints.steps(tmp_path / "run")[-1]).state
    assert state["step"] == STEPS
    assert state["settings"]["lr"] == SETTINGS.lr
    assert gd.GroundingDINOConfig.from_dict(state["config"]) == model().config
    assert state["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}\+?", state["versions"]["revision"] or "0" * 40)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_checkpoint_is_no_weight_file_and_says_so(tmp_path, images, lora_rank):
    run(tmp_path, settings=replace(SETTINGS, epochs=1, lora_rank=lora_rank), data=images).fit()
    folder = checkpoints.steps(tmp_path / "run")[-1]
    for path in (folder, folder / checkpoints.MODEL):
        with pytest.raises(
            ValueError, match=r"as a training checkpoint does: finish .* --resume, or use .* last\.safe"
        ):
            gd.load(path, "cpu")


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


def csv_of(tmp_path):
    records = shapes(tmp_path / "images")
    csv_table.write(records, tmp_path / "shapes.csv")
    return ["--train", str(tmp_path / "shapes.csv"), "--images", str(tmp_path / "images")]


@pytest.fixture
def small_scratch(monkeypatch):
    from gdino_lib import config

    monkeypatch.setitem(config.PRESETS, "nano", lambda: model().config)


def test_the_command_trains_and_goes_on(tmp_path, small_scratch, capsys):
    out = tmp_path / "run"
    arguments = ["train", *csv_of(tmp_path), "--val", str(tmp_path / "shapes.csv"), "--from-scratch", "nano"]
    arguments += ["--out", str(out), "--batch-size", "4", "--lr-scale", "text_encoder.bert=0.5", "--loss", "layers=0.5"]
    arguments += ["--workers", "0", "--warmup-steps", "2", "--drops", "0.5", "0.9", "--device", "cpu"]
    assert main([*arguments, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("CPU with 1 thread, float32; 12 images, short side 64 pixels at most; 3 steps of 4 images\n")
    assert "epoch 1/1: loss" in said
    assert re.search(r"3 steps; the weights: .*best\.safetensors, AP 0\.\d{3} after epoch 1", said)
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
    assert "; 12 images (4 of them, others each time, in no step of an epoch), short side" in capsys.readouterr().out


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
        (["--short-side", "0"], "--short-side: expected at least 8 pixels, got 0"),
        (["--short-side", "-5", "--no-augmentation"], "--short-side: expected at least 8 pixels, got -5"),
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


SCRIPT = """
import sys
from pathlib import Path
from dataclasses import replace
from data_prep.formats import csv_table
sys.path.append({tests!r})
from small_runs import SETTINGS, model
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation
folder = Path({folder!r})
records = csv_table.read(folder / "shapes.csv")
data = GroundingDataset(records, folder / "images", EvaluationTransform(64, 64))
settings = replace(SETTINGS, **{changes!r})
judged_by = replace(records, images=records.images[:11])  # no multiple of two
Trainer(model(), data, settings, folder / sys.argv[1], workers={workers}, device="cpu", progress=False,
        resume="--resume" in sys.argv, validation=Validation(judged_by, folder / "images")).fit()
"""


def script(tmp_path, workers=0, **changes):
    csv_of(tmp_path)
    path = tmp_path / "script.py"
    path.write_text(
        SCRIPT.format(
            tests=str(Path(__file__).parents[2] / "helpers"), folder=str(tmp_path), changes=changes, workers=workers
        )
    )
    return path


def test_two_processes_give_the_losses_of_one(tmp_path):
    path = script(tmp_path, epochs=7, ema=0.9, lr_scale={"text_encoder.bert": 0.0})  # 21 steps, no BERT's dropout
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(path), "two"]
    for command in (launch, [sys.executable, str(path), "one"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 21
    for (alone, norm, _), (together, other, _) in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
        assert other == pytest.approx(norm, rel=0.05)  # rounding errors are let in by every ReLU
    (_, validated), (_, validated_alone) = read_log(tmp_path / "two"), read_log(tmp_path / "one")
    assert len(validated) == len(validated_alone) == 7
    for entry, alone in zip(validated, validated_alone, strict=True):
        assert entry["ap"] == pytest.approx(alone["ap"], abs=0.02)


@pytest.mark.slow
def test_losses_switched_off_on_several_processes(tmp_path):
    path = script(tmp_path, epochs=2, loss={"layers": 0.0, "proposals": 0.0})
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(path), "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "two")) == STEPS


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    """SIGKILL, while it starts, learns, validates or saves."""
    path = script(tmp_path, epochs=40, save_every=1)
    subprocess.run([sys.executable, str(path), "whole"], check=True)
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        process = subprocess.Popen([sys.executable, str(path), "killed", "--resume"])
        log, before = tmp_path / "killed" / "log.jsonl", 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # until it has begun to learn
            if log.is_file() and (size := log.stat().st_size) != before:
                if before:
                    break
                before = size
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    subprocess.run([sys.executable, str(path), "killed", "--resume"], check=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_the_command_begins_with_the_weights_that_are_given(tmp_path):
    """At a rate of next to 0 they stay; the validation's images may lie elsewhere."""
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


def test_a_package_that_is_missing_is_said_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gdino_lib.cli.train.find_spec", lambda name: None if name in ("peft", "pycocotools") else 1)
    command = ["train", *csv_of(tmp_path), "--from-scratch", "nano", "--out", str(tmp_path / "run")]
    for more, names in (["--lora-rank", "2"], "peft"), (["--val", str(tmp_path / "shapes.csv")], "pycocotools"):
        assert main([*command, *more]) == 2
        assert capsys.readouterr().err == f"error: {names} not installed; pip install 'gdino_lib[train]'\n"
    assert not (tmp_path / "run").exists()
