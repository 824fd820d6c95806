"""Scenes to train on: prompts, targets and batches, which are the same in every process."""

import random

import numpy as np
import pytest
import torch
from small_runs import SETTINGS, model

from gdino_lib.data.loader import build_loader
from gdino_lib.images import prepare
from gdino_lib.nano import pictograms
from gdino_lib.nano.samples import PromptSettings
from gdino_lib.nano.scene_dataset import SceneDataset, choose_wording
from gdino_lib.prompts import word_pieces
from gdino_lib.training.trainer import Trainer

THINGS = pictograms.pictograms()
SEEN = pictograms.seen()
UNSEEN = pictograms.unseen()
BY_NAME = {thing.name: thing for thing in THINGS}


def dataset(**changes):
    options = {"batch_size": 4, "sizes": (64, 96, 128), "seed": 3} | changes
    return SceneDataset(SEEN, 12, **options)


def test_training_neither_shows_nor_names_the_unseen():
    data = dataset()
    words = {wording for thing in UNSEEN for wording in thing.wordings}
    asked = set()
    for epoch in range(3):
        data.set_epoch(epoch)
        for index in range(len(data)):
            scene, prompt, _ = data.scene(index)
            asked.update(prompt)
            assert {box.label for box in scene.record.boxes} <= {thing.name for thing in SEEN}
    assert not asked & words
    assert asked - {thing.name for thing in SEEN}, "prompts use other wordings than the names, too"


def test_crowds_is_the_share_of_scenes_that_repeat_things():
    def repeats(crowds):
        data = SceneDataset(SEEN, 60, batch_size=4, sizes=(64,), crowds=crowds)
        labels = [[box.label for box in data.scene(number)[0].record.boxes] for number in range(60)]
        return np.mean([len(set(names)) < len(names) / 2 for names in labels if len(names) > 3])

    assert repeats(0.0) < 0.1
    assert repeats(1.0) > 0.5


def test_samples_agree_with_their_scenes():
    data = dataset()
    for index in range(len(data)):
        scene, prompt, phrases = data.scene(index)
        sample = data[index]
        assert sample.prompt == prompt
        assert len(set(prompt)) == len(prompt)
        size = scene.image.size
        assert torch.equal(sample.pixel_values, prepare(scene.image, min(size), max(size)))
        assert sample.pixel_values.shape[1:] == size[::-1]
        x, y, w, h = sample.target.boxes.double().unbind(1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * torch.tensor([*size, *size])
        given = torch.tensor([box.xyxy for box in scene.record.boxes], dtype=torch.float64)
        torch.testing.assert_close(corners, given, atol=1e-4, rtol=0)
        assert sample.target.phrases.tolist() == phrases
        for box, phrase in zip(scene.record.boxes, phrases, strict=True):
            assert prompt[phrase] in BY_NAME[box.label].wordings


def test_absent_names_fit_nothing_in_the_scene():
    cats = [BY_NAME[name] for name in ("cat", "black cat", "dog", "guide dog")]
    data = SceneDataset(cats, 30, batch_size=1, sizes=(64,), prompts=PromptSettings(4), most=1)
    owner = {wording: thing for thing in cats for wording in thing.wordings}
    for index in range(30):
        scene, prompt, _ = data.scene(index)
        kind = scene.record.boxes[0].label.split()[-1]
        assert sum(owner[phrase].name.split()[-1] == kind for phrase in prompt) == 1
    circles = [BY_NAME[f"{colour} circle"] for colour in ("red", "blue", "green")]
    data = SceneDataset(circles, 30, batch_size=1, sizes=(64,), prompts=PromptSettings(3), most=1)
    assert {len(data.scene(index)[1]) for index in range(30)} == {1, 2, 3}, "colours are told apart"


def test_unanswered_is_the_share_of_prompts_with_only_absent_names():
    prompts = [PromptSettings(16, unanswered=share) for share in (0.0, 0.4)]
    plain, some = (SceneDataset(SEEN, 60, batch_size=1, sizes=(64,), prompts=each) for each in prompts)
    alone = 0
    for index in range(60):
        scene, prompt, _ = plain.scene(index)
        other, asked, phrases = some.scene(index)
        assert scene.image == other.image
        if other.record.boxes:
            assert (other.record, asked, len(phrases)) == (scene.record, prompt, len(scene.record.boxes))
            continue
        alone += 1
        there = {wording for box in scene.record.boxes for wording in BY_NAME[box.label].wordings}
        assert asked
        assert set(asked) == set(prompt) - there
        assert some[index].target.boxes.shape == (0, 4)
    assert 14 < alone < 34
    assert plain.fingerprint != some.fingerprint


def test_wordings_are_the_name_half_of_the_time():
    car, rng = BY_NAME["automobile"], random.Random(0)
    chosen = [choose_wording(car, rng) for _ in range(400)]
    assert set(chosen) == set(car.wordings)
    assert 150 < chosen.count("automobile") < 250
    assert choose_wording(BY_NAME["accordion"], rng) == "accordion"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_one_size_and_are_the_same_in_every_process(workers):
    data, alone = dataset(), dataset()
    loader = build_loader(data, 4, shuffle=True, workers=workers)
    shapes = []
    for epoch in range(3):
        data.set_epoch(epoch)
        alone.set_epoch(epoch)
        for batch in loader:
            assert batch.pixel_mask.all(), "nothing is padded"
            shapes.append(batch.pixel_values.shape[-1])
            index = int(batch.targets[0].name.removesuffix(".png"))
            assert torch.equal(batch.pixel_values[0], alone[index].pixel_values)
            assert batch.prompts[0] == alone[index].prompt
    assert len(shapes) == 9
    assert len(set(shapes)) > 1


def test_each_epoch_has_new_scenes_and_the_fingerprint_depends_on_the_seed():
    data = dataset()
    first = data[0].pixel_values
    data.set_epoch(1)
    assert first.shape != data[0].pixel_values.shape or not torch.equal(first, data[0].pixel_values)
    assert dataset().fingerprint == data.fingerprint != dataset(seed=4).fingerprint


def test_prompts_keep_to_max_tokens():
    data = dataset(prompts=PromptSettings(200, max_tokens=40), most=1)
    tokens = [sum(len(word_pieces(phrase)) + 1 for phrase in data.scene(index)[1]) for index in range(12)]
    assert max(tokens) <= 38
    assert np.mean(tokens) > 15


def test_the_trainer_learns_from_scenes(tmp_path):
    options = {"sizes": (64,), "most": 2, "prompts": PromptSettings(2, 0.5, 60)}
    data = SceneDataset(SEEN, 4, batch_size=SETTINGS.batch_size, **options)
    trainer = Trainer(model(), data, SETTINGS, tmp_path / "run", workers=0, device="cpu", progress=False)
    assert trainer.fit().step == SETTINGS.epochs * (4 // SETTINGS.batch_size)
