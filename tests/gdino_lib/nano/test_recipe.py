"""The embedded model's recipe: its data, its rounds and the export of its weights."""

from dataclasses import replace

import pytest
import torch
from scripts import load_script
from small_runs import model, shapes

from gdino_lib.nano import pictograms, recipe
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.training.settings import LossSettings
from gdino_lib.training.validation import Validation
from gdino_lib.weights import loading


def test_exported_weights_load_with_rounding_errors_only(tmp_path):
    before = model().eval()
    recipe.add_landmarks(before, ["cat", "red circle", "dog"])
    loading.save(before, tmp_path / "best.safetensors")
    recipe.export(tmp_path / "best.safetensors", tmp_path / "nano")
    after = loading.load(tmp_path / "nano", "cpu")
    assert after.config == before.config
    kept = after.state_dict()
    for name, tensor in before.state_dict().items():
        largest = tensor.float().abs().max()
        bound = 0.005 if name in recipe.IN_8_BITS else 0.0006  # half a step of 8 bits; half a step of float16
        assert (kept[name].float() - tensor.float()).abs().max() <= bound * largest, name
    images, mask = torch.randn(1, 3, 96, 96), torch.ones(1, 96, 96, dtype=torch.bool)
    with torch.inference_mode():
        one, other = (m(images, [["cat", "dog"]], mask) for m in (before, after))
    torch.testing.assert_close(other.boxes, one.boxes, atol=0.02, rtol=0)


def test_the_text_file_stays_the_same_when_the_rest_is_trained_further(tmp_path):
    trained = model()
    for number in range(2):
        loading.save(trained, tmp_path / "best.safetensors")
        recipe.export(tmp_path / "best.safetensors", tmp_path / str(number))
        with torch.no_grad():
            trained.decoder.norm.weight.add_(1)
    files = [
        [(tmp_path / n / file).read_bytes() for n in "01"] for file in ("text.safetensors", "detector.safetensors")
    ]
    assert [one == other for one, other in files] == [True, False]


def test_things_to_learn_exclude_names_close_to_unseen_ones(monkeypatch):
    """No unseen name, no near-twin, and no name that MiniLM finds too similar; the shares are those asked for."""
    further = [Pictogram(name, (name,), ("<svg ",)) for name in ("anvil", "kitten", "lathe")]

    def further_things(folder, known, unseen, near_twins):
        assert (folder, known, unseen) == ("folder", pictograms.pictograms(), pictograms.unseen())
        assert near_twins == pictograms.near_twins()
        return tuple(further)

    def name_similarity(names, others, _):
        assert names == ["anvil", "kitten", "lathe"]
        assert set(others) == {wording for thing in pictograms.unseen() for wording in thing.wordings}
        return torch.tensor([[0.1, 0.2], [0.1, 0.8], [0.3, 0.1]])

    monkeypatch.setattr(recipe.icons, "drawn_by_others", lambda things, _: tuple(things))
    monkeypatch.setattr(recipe.icons, "further_things", further_things)
    monkeypatch.setattr(recipe, "name_similarity", name_similarity)
    things, shares = recipe.things_to_learn("folder", 0.3)
    names = [thing.name for thing in things]
    assert names[-2:] == ["anvil", "lathe"]
    assert not set(names).intersection(thing.name for thing in (*pictograms.unseen(), *pictograms.near_twins()))
    assert abs(sum(shares) - 1) < 1e-9
    assert abs(sum(shares[-2:]) - 0.3) < 1e-9


@pytest.mark.parametrize("plan", recipe.ROUNDS, ids=range(1, len(recipe.ROUNDS) + 1))
def test_a_round_trains_and_a_finished_round_is_not_repeated(tmp_path, monkeypatch, plan):
    """Each round at a small size: BERT stays frozen, the rest learns, and a second call returns the same file."""
    settings = replace(plan.settings, epochs=1, batch_size=2, lr_scale={"text_encoder.bert": 0.0}, denoising=4)
    plan = replace(plan, settings=settings)
    monkeypatch.setattr(recipe, "EPOCH_SCENES", 4)
    monkeypatch.setattr(recipe, "SIZES", (64,))
    monkeypatch.setattr(recipe, "things_to_learn", lambda *_: (pictograms.seen()[:5], [0.2] * 5))
    validation = Validation(shapes(tmp_path / "judged", 2), tmp_path / "judged")
    before, trained = model().state_dict(), model()
    path = recipe.train_round(trained, plan, "icons", tmp_path / "run", validation, workers=0)
    after = loading.load(path, "cpu").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(recipe.TEXT) for name in changed)
    assert any(name.startswith("decoder") for name in changed)
    written = path.stat().st_mtime_ns
    assert recipe.train_round(model(), plan, "icons", tmp_path / "run", validation, workers=0) == path
    assert path.stat().st_mtime_ns == written


def test_each_round_starts_from_the_weights_of_the_previous_one(tmp_path, monkeypatch):
    rounds = []

    def train_round(trained, plan, icons, out, validation, workers):
        with torch.no_grad():
            trained.decoder.norm.weight.add_(1)
        out.mkdir()
        loading.save(trained, out / "best.safetensors")
        rounds.append((plan, out.name))
        return out / "best.safetensors"

    monkeypatch.setattr(recipe, "begin_nano", lambda *_: model())
    monkeypatch.setattr(recipe, "learn_first_names", lambda *_: None)
    monkeypatch.setattr(recipe, "train_round", train_round)
    monkeypatch.setattr(recipe, "things_to_learn", lambda *_: (pictograms.seen()[:3], [1 / 3] * 3))
    monkeypatch.setattr(recipe, "VALIDATION_SCENES", 1)
    monkeypatch.setattr("sys.argv", ["nano", "--icons", "icons", "--out", str(tmp_path / "nano")])
    recipe.main()
    assert [plan for plan, _ in rounds] == list(recipe.ROUNDS)
    assert [name for _, name in rounds] == [*(f"nano-round-{n}" for n in range(1, len(rounds))), "nano"]
    trained = loading.load(tmp_path / "nano/nano.safetensors", "cpu")
    steps = sum(1 - plan.merge_alpha for plan, _ in rounds)  # each round adds 1; merging keeps a part of it
    torch.testing.assert_close(trained.decoder.norm.weight, model().decoder.norm.weight + steps)
    assert trained.config.landmarks == len(set(recipe.wordings(pictograms.seen()[:3])))
    assert trained.text_encoder.landmarks.isfinite().all()


def test_channels_are_dropped_at_random_in_training_only():
    backbone = model().image_backbone.backbone
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = backbone.eval()(images)
        recipe.drop_channels(backbone, 0.3)
        for one, other in zip(plain, backbone(images), strict=True):
            assert torch.equal(one, other)
        one, other = (backbone.train()(images) for _ in range(2))
    for before, maps, again in zip(plain, one, other, strict=True):
        gone = (maps == 0).all(dim=(2, 3))  # (B, C)
        torch.testing.assert_close(maps, torch.where(gone[..., None, None], 0, before / 0.7), atol=1e-5, rtol=1e-4)
        assert 0.1 < gone.float().mean() < 0.5
        assert (gone[0] != gone[1]).any()
        assert (gone != (again == 0).all(dim=(2, 3))).any()


def test_all_variants_of_the_ablation_are_valid_and_differ():
    script = load_script("benchmarks/ablate_nano")
    made = {}
    for name, variant in script.VARIANTS.items():
        settings, config = replace(recipe.SETTINGS, **variant.settings), recipe.CONFIG.replace(**variant.config)
        assert set(variant.data) <= {"things", "share", "wordings", "negatives", "crowds", "unanswered"}, name
        loss = replace(settings.loss, **variant.loss)
        made[name] = repr((settings, loss, config, sorted(variant.data.items()), variant.noise, variant.names))
    assert len(set(made.values())) == len(made)


def test_variants_of_the_fourth_round_differ_from_it_only_in_their_own_changes():
    script, fourth = load_script("benchmarks/ablate_nano"), recipe.ROUNDS[3]
    plain = script.in_fourth_round(script.VARIANTS["recipe"])
    assert LossSettings(**plain.loss) == fourth.settings.loss
    assert plain.noise == fourth.noise
    fewer = script.in_fourth_round(script.VARIANTS["60 queries"])
    assert (fewer.loss, fewer.noise, fewer.config) == (plain.loss, plain.noise, {"queries": 60})
    paper = script.in_fourth_round(script.VARIANTS["weights of section 4.1"])
    assert LossSettings(**paper.loss) == LossSettings.section_4_1()
    alone = script.in_fourth_round(script.VARIANTS["no losses before the last layer"])
    assert LossSettings(**alone.loss) == replace(fourth.settings.loss, layers=0)
    assert script.in_fourth_round(script.VARIANTS["no noise on the text"]).noise == 0
