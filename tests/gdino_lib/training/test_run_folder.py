"""The folder of a run: which files are removed, and which run may continue in it."""

import json
import shutil
from dataclasses import replace

import pytest
from small_runs import SETTINGS, dataset, model
from training_runs import STEPS, losses, run

from data_prep import Dataset
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


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
    before = losses(tmp_path / "other")
    run(tmp_path, "other", replace(SETTINGS, epochs=1, seed=1), data=images, overwrite=True).fit()
    assert losses(tmp_path / "other") != before
    assert len(losses(tmp_path / "other")) == len(before)
    with pytest.raises(ValueError, match="ask for one of them"):
        run(tmp_path, "other", data=images, overwrite=True, resume=True)


def test_an_earlier_run_stays_when_the_settings_are_wrong(tmp_path, images):
    run(tmp_path, data=images).fit()
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ValueError, match="'nek'"):
        run(tmp_path, settings=replace(SETTINGS, lr_scale={"nek": 0.1}), data=images, overwrite=True)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_half_written_files_of_a_killed_run_are_removed(tmp_path, images):
    run(tmp_path, data=images).fit()
    (tmp_path / "run" / ".best.safetensors.ab12.partial").write_text("half")
    (tmp_path / "run" / ".best-adapters.partial").mkdir()
    (tmp_path / "run" / "checkpoints" / ".step-00000005.partial").mkdir()
    run(tmp_path, settings=replace(SETTINGS, epochs=3), data=images, resume=True).fit()
    assert not list((tmp_path / "run").rglob(".*"))
    assert len(losses(tmp_path / "run")) == STEPS * 3 // 2


def test_a_finished_run_without_checkpoints_is_not_replaced(tmp_path, images):
    """A user may delete the checkpoints of a finished run; its weights stay."""
    run(tmp_path, data=images).fit()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(FileExistsError, match="a finished run without checkpoints to resume from"):
        run(tmp_path, data=images, resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_resume_without_an_earlier_run_begins_one(tmp_path, images):
    assert run(tmp_path, "new", data=images, resume=True).fit().step == STEPS


def test_a_run_from_before_a_field_existed_resumes(tmp_path, images):
    run(tmp_path, data=images).fit()
    for file in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        state = json.loads(file.read_text())
        del state["config"]["swin_maps"], state["settings"]["patience"], state["settings"]["dropout"]
        del state["sha256"]  # as an earlier version wrote it
        file.write_text(json.dumps(state))
    run(tmp_path, settings=replace(SETTINGS, epochs=3), data=images, resume=True).fit()
    assert len(losses(tmp_path / "run")) == STEPS * 3 // 2


def test_a_run_resumes_only_with_its_own_settings_and_data(tmp_path, images):
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
