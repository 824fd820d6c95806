"""Checkpoints are written whole or not at all, run no code, and are not taken for weight files."""

import errno
import re
from dataclasses import replace

import pytest
import torch
from small_runs import SETTINGS, model
from training_runs import STEPS, losses, run
from traps import Trap

import gdino_lib as gd
from gdino_lib.training import checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_checkpoint_states_its_settings_progress_and_versions(tmp_path, images):
    run(tmp_path, data=images).fit()
    state = checkpoints.read(checkpoints.steps(tmp_path / "run")[-1]).state
    assert state["step"] == STEPS
    assert state["settings"]["lr"] == SETTINGS.lr
    assert gd.GroundingDINOConfig.from_dict(state["config"]) == model().config
    assert state["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}\+?", state["versions"]["revision"] or "0" * 40)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_checkpoint_is_refused_as_a_weight_file_with_the_remedy(tmp_path, images, lora_rank):
    run(tmp_path, settings=replace(SETTINGS, epochs=1, lora_rank=lora_rank), data=images).fit()
    folder = checkpoints.steps(tmp_path / "run")[-1]
    for path in (folder, folder / checkpoints.MODEL):
        with pytest.raises(ValueError, match=r"like a training checkpoint: finish .* --resume, or use .* last\.safe"):
            gd.load(path, "cpu")
