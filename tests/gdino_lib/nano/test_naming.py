"""The first training stage: its loss, the weights that it changes, and resuming it."""

import json
from dataclasses import replace

import pytest
import torch
from small_runs import SETTINGS, model
from torch.nn.functional import cross_entropy

from gdino_lib.data.loader import Batch
from gdino_lib.data.targets import Target
from gdino_lib.nano import pictograms
from gdino_lib.nano.naming import learn_names, naming_loss, object_features
from gdino_lib.nano.samples import PromptSettings
from gdino_lib.nano.scene_dataset import SceneDataset
from gdino_lib.prompts import tokenize
from gdino_lib.training import checkpoints

QUICK = replace(SETTINGS, batch_size=4, epochs=1, lr=3e-3, warmup_steps=1, precision="bfloat16", dropout=0.1)
THINGS = pictograms.seen()[:4]
ALONE = PromptSettings(negatives=0)  # the prompt names only the thing in the picture


def single(count: int) -> SceneDataset:
    return SceneDataset(THINGS, count, batch_size=4, sizes=(64,), prompts=ALONE, most=1)


def batch() -> Batch:
    """Two pictures with three things; both prompts contain the phrase "cat"."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    targets = [Target(boxes[:2], torch.tensor([0, 1]), "a"), Target(boxes[2:], torch.tensor([1]), "b")]
    prompts = [["cat", "red hat"], ["bus", "cat"]]
    return Batch(images, torch.ones(2, 64, 64, dtype=torch.bool), prompts, targets)


def test_a_box_pools_the_tokens_inside_it():
    image = model().image_backbone(batch().pixel_values, batch().pixel_mask)
    quarters = torch.zeros_like(image.features)
    start = 0
    for height, width in image.shapes:
        level = torch.zeros(height, width, image.features.shape[-1])
        level[: height // 2, : width // 2, 0] = 1  # the upper left quarter
        level[height // 2 :, width // 2 :, 1] = 1
        quarters[:, start : start + height * width] = level.flatten(0, 1)
        start += height * width
    found = object_features(image.with_features(quarters), [target.boxes for target in batch().targets])
    assert found.shape == (3, image.features.shape[-1])
    assert found.argmax(1)[:2].tolist() == [0, 1]
    torch.testing.assert_close(found[2, 0], found[2, 1])
    torch.testing.assert_close(found.mean(1), torch.zeros(3), atol=1e-5, rtol=0)


def test_each_thing_is_compared_with_every_phrase_of_the_batch():
    """The loss equals its plain definition, phrase by phrase; the shared "cat" counts once."""
    m = model().eval()
    found, share = naming_loss(m, batch())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image = m.image_backbone(batch().pixel_values, batch().pixel_mask)
        things = object_features(image, [target.boxes for target in batch().targets])
        phrases = []
        for phrase in ("cat", "red hat", "bus"):
            prompt = tokenize([[phrase]])
            words = m.text_encoder(prompt).features[0][prompt.phrases[0] == 0].float().mean(0)
            phrases.append((words - words.mean()) / (words.var(correction=0) + 1e-5).sqrt())
    logits = things @ torch.stack(phrases).T / 32**0.5
    torch.testing.assert_close(found, cross_entropy(logits, torch.tensor([0, 1, 0])), atol=0.05, rtol=0.02)
    assert share == pytest.approx((logits.argmax(1) == torch.tensor([0, 1, 0])).float().mean().item())


def test_names_are_learned_and_no_other_weights_change(tmp_path):
    m = model()
    before = {name: tensor.clone() for name, tensor in m.state_dict().items()}
    circles = [thing for thing in pictograms.seen() if thing.name in ("red circle", "blue circle", "green circle")]
    data = SceneDataset(
        [thing._replace(wordings=(thing.name,)) for thing in circles],
        1200,
        batch_size=8,
        sizes=(64,),
        prompts=ALONE,
        most=1,
    )
    shares = learn_names(m, data, replace(QUICK, batch_size=8), tmp_path, workers=0)
    assert len(shares) == 150
    assert sum(shares[-20:]) / 20 > 0.9  # a third by chance
    changed = {name for name, tensor in m.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(("image_backbone.", "text_encoder.projection.")) for name in changed)
    assert all(parameter.requires_grad for parameter in m.parameters())


def test_an_interrupted_stage_resumes_bit_for_bit(tmp_path, monkeypatch):
    settings = replace(QUICK, save_every=3)
    whole, halves = model(), model()
    learn_names(whole, single(32), settings, tmp_path / "whole", workers=0)

    write = checkpoints.write

    def killed(out, step, *rest):
        write(out, step, *rest)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            learn_names(model(), single(32), settings, tmp_path / "halves", workers=0)
    assert len(learn_names(halves, single(32), settings, tmp_path / "halves", workers=0)) == 2
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, halves.state_dict()[name]), name
    again = model()
    assert learn_names(again, single(32), settings, tmp_path / "halves", workers=0) == []  # nothing is left to do
    assert torch.equal(again.image_backbone.level_embedding, whole.image_backbone.level_embedding)


def test_other_settings_or_data_are_refused(tmp_path):
    learn_names(model(), single(8), QUICK, tmp_path, workers=0)
    for data, settings in ((single(8), replace(QUICK, lr=1.0)), (single(12), QUICK)):
        with pytest.raises(ValueError, match="made with other data or settings; remove"):
            learn_names(model(), data, settings, tmp_path, workers=0)


def test_a_stage_from_before_a_setting_existed_resumes(tmp_path):
    learn_names(model(), single(8), QUICK, tmp_path, workers=0)
    for file in (tmp_path / "checkpoints").glob("*/state.json"):
        state = json.loads(file.read_text())
        del state["settings"]["patience"], state["sha256"]
        file.write_text(json.dumps(state))
    assert learn_names(model(), single(8), QUICK, tmp_path, workers=0) == []  # nothing is left to do
    file.write_text(json.dumps(state | {"settings": state["settings"] | {"lr": 0.5}}))
    with pytest.raises(ValueError, match="made with other data or settings"):
        learn_names(model(), single(8), QUICK, tmp_path, workers=0)
