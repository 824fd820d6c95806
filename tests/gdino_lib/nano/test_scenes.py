"""Named pictograms and scenes of them: what is learnt, what is never seen, and that any process draws the same."""

import os
import random
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import SETTINGS, model

from data_prep.formats import coco, csv_table, odvg, voc
from gdino_lib.cli.main import main
from gdino_lib.data.datasets import build_loader, check_distinct
from gdino_lib.images import prepare
from gdino_lib.nano import pictograms, scenes
from gdino_lib.nano.scenes import SceneDataset, choose_wording, draw_scene, write_scenes
from gdino_lib.training.trainer import Trainer

THINGS = pictograms.pictograms()
SEEN, UNSEEN = pictograms.seen(), pictograms.unseen()
BY_NAME = {thing.name: thing for thing in THINGS}


def dataset(**changes):
    options = {"batch_size": 4, "sizes": (64, 96, 128), "seed": 3} | changes
    return SceneDataset(SEEN, 12, **options)


# what there is


def test_over_a_thousand_names_of_one_thing_each():
    assert len(THINGS) == 1363
    assert {len(thing.drawings) for thing in THINGS} >= {1, 2, 3}
    check_distinct([thing.name for thing in THINGS])
    assert all(thing.wordings[0] == thing.name for thing in THINGS)
    owners = [re.sub("[^a-z0-9]", "", wording.lower()) for thing in THINGS for wording in thing.wordings]
    assert len(set(owners)) == len(owners)
    assert sum(len(thing.wordings) > 1 for thing in THINGS) > 500


@pytest.mark.parametrize("kind", ["skin", "flag", "keycap", "letter", "facing right"])
def test_what_is_left_out(kind):
    left_out = {
        "skin": "\N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-3}",
        "flag": "\N{REGIONAL INDICATOR SYMBOL LETTER F}\N{REGIONAL INDICATOR SYMBOL LETTER R}",
        "keycap": "7\N{COMBINING ENCLOSING KEYCAP}",
        "letter": "\N{NEGATIVE SQUARED LATIN CAPITAL LETTER A}",
        "facing right": "\N{RUNNER}\N{ZERO WIDTH JOINER}\N{BLACK RIGHTWARDS ARROW}",
    }
    assert not any(left_out[kind] in thing.drawings for thing in THINGS)


def test_one_name_for_drawings_of_the_same():
    assert BY_NAME["cat"].drawings == ("\N{CAT}", "\N{CAT FACE}")
    assert len(BY_NAME["astronaut"].drawings) == 3
    assert "woman running" not in BY_NAME
    assert {"runner", "running"} <= set(BY_NAME["person running"].wordings)
    assert "car" in BY_NAME["automobile"].wordings


@pytest.mark.parametrize(
    ("name", "may_flip", "may_turn"),
    [
        ("cat", True, True),
        ("left arrow", False, False),
        ("waxing crescent moon", False, False),
        ("three o'clock", False, False),
        ("leftwards hand", False, True),
        ("upside-down face", True, False),
        ("castle", True, True),
        ("trackball", True, True),
    ],
)
def test_what_the_names_allow(name, may_flip, may_turn):
    assert (BY_NAME[name].may_flip, BY_NAME[name].may_turn) == (may_flip, may_turn)


def test_each_drawing_is_there_and_coloured():
    for thing in THINGS[::20]:
        for character in thing.drawings:
            glyph = np.asarray(pictograms.draw(character, 48))
            assert max(glyph.shape) == 48
            assert glyph[..., 3].any(0).all() or glyph[..., 3].any(1).all()
            assert glyph.any()
    cat = np.asarray(pictograms.draw("\N{CAT FACE}", 64))
    assert (np.ptp(cat[..., :3].astype(int), axis=2) > 80).any()
    astronaut, person = (
        pictograms.draw(text, 64) for text in ("\N{ADULT}\N{ZERO WIDTH JOINER}\N{ROCKET}", "\N{ADULT}")
    )
    assert astronaut.tobytes() != person.tobytes()


# what is never seen


def test_the_list_is_what_the_rule_makes():
    listed = pictograms._listed()
    text = pictograms.files("gdino_lib.nano").joinpath("pictograms_unseen.txt").read_text("utf-8")
    assert text == pictograms.listing(listed)
    # another release of FreeType may draw a few pixels otherwise
    surely, perhaps = (pictograms.choose_unseen(alike=pictograms.ALIKE + margin) for margin in (0.004, -0.004))
    assert list(surely) == list(listed) == list(perhaps)
    for name, twins in listed.items():
        assert set(surely[name]) <= set(twins) <= set(perhaps[name])
    assert sum(map(len, surely.values())) > 300


def test_unseen_names_and_their_twins_are_not_learnt():
    assert len(UNSEEN) == 200
    assert len(SEEN) > 800
    seen, unseen = ({thing.name for thing in things} for things in (SEEN, UNSEEN))
    twins = {thing.name for thing in pictograms.near_twins()}
    assert not seen & unseen
    assert not twins & (seen | unseen)
    assert len(seen) + len(twins) + len(unseen) == len(THINGS)
    assert {"crying cat", "elephant", "scissors", "zombie", "gear", "train"} <= unseen
    assert not [name for name in seen if re.search(r"\b(cat|broom|train|elephant|lobster)\b", name)]
    shown = {character for thing in SEEN for character in thing.drawings}
    assert not shown.intersection(character for thing in UNSEEN for character in thing.drawings)
    for thing in UNSEEN:
        assert not [other.name for other in SEEN if pictograms.say_the_same(thing, other)]


def test_unseen_names_are_of_all_kinds():
    codes = sorted(ord(min(thing.drawings)[0]) for thing in THINGS)
    chosen = np.array([ord(min(thing.drawings)[0]) for thing in UNSEEN])
    tenths = [codes[round(share * (len(codes) - 1) / 10)] for share in range(11)]
    counts = [((chosen >= low) & (chosen <= high)).sum() for low, high in pairwise(tenths)]
    assert min(counts) >= 15


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
    assert asked - {thing.name for thing in SEEN}, "further wordings are used"


# scenes


def test_a_scene_depends_on_seed_and_index_alone():
    there, back = ({i: draw_scene(i, seed=1, size=96, things=SEEN) for i in order} for order in ((0, 1, 2), (2, 1, 0)))
    for index in range(3):
        assert there[index].image.tobytes() == back[index].image.tobytes()
        assert there[index].record == back[index].record
    assert there[0].image.tobytes() != there[1].image.tobytes()
    assert there[0].record != draw_scene(0, seed=2, size=96, things=SEEN).record
    code = (
        "import hashlib; from gdino_lib.nano import pictograms, scenes\n"
        "scene = scenes.draw_scene(2, seed=1, size=96, things=pictograms.seen())\n"
        "print(hashlib.sha256(scene.image.tobytes()).hexdigest(), scene.record)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    digest = scenes.hashlib.sha256(there[2].image.tobytes()).hexdigest()
    assert other.stdout.strip() == f"{digest} {there[2].record}"


def test_boxes_are_tight_around_what_is_drawn(monkeypatch):
    drawn = []
    paste = scenes._paste

    def note(rng, image, sprite, left, top):
        drawn.append((sprite, left, top))
        paste(rng, image, sprite, left, top)

    monkeypatch.setattr(scenes, "_paste", note)
    for index in range(25):
        drawn.clear()
        scene = draw_scene(index, seed=5, size=(120, 100), things=THINGS)
        assert scene.image.size == (scene.record.width, scene.record.height) == (120, 100)
        assert len(drawn) == len(scene.record.boxes) == len(scene.masks) >= 1
        for box, (sprite, left, top) in zip(scene.record.boxes, drawn, strict=True):
            canvas = Image.new("L", (120, 100))
            canvas.paste(sprite.getchannel("A"), (left, top))
            solid = canvas.point(lambda value: 255 * (value >= scenes.SOLID))
            assert box.xyxy == solid.getbbox()


def test_most_of_each_thing_stays_in_sight():
    for index in range(25):
        masks = draw_scene(index, seed=6, size=128, things=THINGS).masks
        for number, mask in enumerate(masks):
            hidden = masks[number + 1 :].any(0)
            assert (mask & ~hidden).sum() >= scenes.VISIBLE * mask.sum()


def test_scenes_vary():
    drawn = [draw_scene(index, seed=7, size=64, things=SEEN) for index in range(80)]
    counts = {len(scene.record.boxes) for scene in drawn}
    assert counts >= {1, 2, 3, 4, 5, 6}
    assert max(counts) <= 8
    edges = [box.x1 == 0 or box.y1 == 0 or box.x2 == 64 or box.y2 == 64 for s in drawn for box in s.record.boxes]
    assert 0.02 < np.mean(edges) < 0.5


def test_noise_covers_large_scenes():
    grain = np.asarray(scenes._noise(random.Random(0), 1500, 700, 0.5), dtype=float)
    quarters = [grain[y : y + 60, x : x + 60].mean() for y in (0, 640) for x in (0, 640, 1280)]
    assert np.ptp(quarters) < 3
    assert 120 < np.mean(quarters) < 136


def test_some_scenes_are_crowds_where_asked_for():
    def repeats(crowds):
        data = SceneDataset(SEEN, 60, batch_size=4, sizes=(64,), crowds=crowds)
        labels = [[box.label for box in data.scene(number)[0].record.boxes] for number in range(60)]
        return np.mean([len(set(names)) < len(names) / 2 for names in labels if len(names) > 3])

    assert repeats(0.0) < 0.1
    assert repeats(1.0) > 0.5


@pytest.mark.parametrize("changes", [{"size": 63}, {"most": 0}, {"things": ()}])
def test_impossible_scenes_are_refused(changes):
    with pytest.raises(ValueError, match="expected sides of at least 64"):
        draw_scene(0, **{"seed": 0, "size": 64, "things": SEEN} | changes)


@pytest.mark.parametrize("size", ["256", 256.5, (300,), (300, "400"), None])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=re.escape(f"(width, height), got {size!r}")):
        draw_scene(0, seed=0, size=size, things=SEEN)


def test_the_font_is_closed_again():
    code = "from gdino_lib.nano import pictograms; pictograms.pictograms()"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "unclosed file" not in ended.stderr


def test_a_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(pictograms, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'gdino_lib[scenes]'")):
        pictograms.package_folder("emoji")


# what the trainer gets


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


def test_what_bears_the_name_does_not_count_as_absent():
    cats = [BY_NAME[name] for name in ("cat", "black cat", "dog", "guide dog")]
    data = SceneDataset(cats, 30, batch_size=1, sizes=(64,), negatives=4, most=1)
    owner = {wording: thing for thing in cats for wording in thing.wordings}
    for index in range(30):
        scene, prompt, _ = data.scene(index)
        kind = scene.record.boxes[0].label.split()[-1]
        assert sum(owner[phrase].name.split()[-1] == kind for phrase in prompt) == 1
    circles = [BY_NAME[f"{colour} circle"] for colour in ("red", "blue", "green")]
    data = SceneDataset(circles, 30, batch_size=1, sizes=(64,), negatives=3, most=1)
    assert {len(data.scene(index)[1]) for index in range(30)} == {1, 2, 3}, "colours are told apart"


def test_some_prompts_name_nothing_that_is_there_where_asked_for():
    plain, some = (SceneDataset(SEEN, 60, batch_size=1, sizes=(64,), unanswered=share) for share in (0.0, 0.4))
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
def test_batches_are_of_one_size_and_the_same_in_any_process(workers):
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


def test_an_epoch_has_new_scenes_and_a_data_set_its_fingerprint():
    data = dataset()
    first = data[0].pixel_values
    data.set_epoch(1)
    assert first.shape != data[0].pixel_values.shape or not torch.equal(first, data[0].pixel_values)
    assert dataset().fingerprint == data.fingerprint != dataset(seed=4).fingerprint


def test_prompts_fit():
    data = dataset(max_tokens=40, negatives=200, most=1)
    tokens = [sum(len(scenes.word_pieces(phrase)) + 1 for phrase in data.scene(index)[1]) for index in range(12)]
    assert max(tokens) <= 38
    assert np.mean(tokens) > 15


def test_the_trainer_learns_from_scenes(tmp_path):
    options = {"sizes": (64,), "negatives": 2, "most": 2, "unanswered": 0.5, "max_tokens": 60}
    data = SceneDataset(SEEN, 4, batch_size=SETTINGS.batch_size, **options)
    trainer = Trainer(model(), data, SETTINGS, tmp_path / "run", workers=0, device="cpu", progress=False)
    assert trainer.fit().step == SETTINGS.epochs * (4 // SETTINGS.batch_size)


# on disk


@pytest.mark.parametrize("kind", ["voc", "coco", "odvg", "csv"])
def test_what_is_written_is_read_again(tmp_path, kind):
    written = write_scenes(tmp_path / "out", 3, things=UNSEEN, annotations=kind, seed=4, size=64)
    folder = tmp_path / "out"
    read = {
        "voc": lambda: voc.read(folder / "annotations"),
        "coco": lambda: coco.read(folder / "annotations.json"),
        "odvg": lambda: odvg.read(folder / "annotations.jsonl"),
        "csv": lambda: csv_table.read(folder / "annotations.csv"),
    }[kind]()
    plain = [(r.file_name, r.width, r.height, [(b.label, b.xyxy) for b in r.boxes]) for r in read.images]
    assert plain == [(r.file_name, r.width, r.height, [(b.label, b.xyxy) for b in r.boxes]) for r in written.images]
    if kind in ("coco", "odvg"):
        assert read.categories == written.categories == tuple(thing.name for thing in UNSEEN)
    for index, record in enumerate(written.images):
        scene = draw_scene(index, seed=4, size=64, things=UNSEEN)
        with Image.open(folder / "images" / record.file_name) as image:
            assert image.tobytes() == scene.image.tobytes()
    licence = (folder / "LICENSE.txt").read_text("utf-8")
    for line in (pictograms.ATTRIBUTION, "https://creativecommons.org/licenses/by-sa/4.0/", "Changes: "):
        assert line in licence


def test_the_command(tmp_path, capsys):
    arguments = ["scenes", "--out", str(tmp_path / "out"), "--count", "2", "--size", "64", "--names", "unseen"]
    assert main([*arguments, "--format", "csv", "--seed", "9"]) == 0
    said = capsys.readouterr().out
    assert "2 images" in said
    assert "OpenMoji" in said
    labels = {
        box.label for record in csv_table.read(tmp_path / "out" / "annotations.csv").images for box in record.boxes
    }
    assert labels <= {thing.name for thing in UNSEEN}
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "out" / "annotations.json").is_file()
    assert main([*arguments[:6], "8", "--overwrite"]) == 2
    assert "at least 64 pixels" in capsys.readouterr().err
