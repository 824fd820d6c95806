"""Scenes: their content, their reproducibility, and writing them to disk."""

import hashlib
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep.formats import coco, csv_table, odvg, voc
from gdino_lib.cli.main import main
from gdino_lib.nano import pictograms, scenes
from gdino_lib.nano.scenes import draw_scene, write_scenes

THINGS = pictograms.pictograms()
SEEN = pictograms.seen()
UNSEEN = pictograms.unseen()


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
    digest = hashlib.sha256(there[2].image.tobytes()).hexdigest()
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


def test_most_of_each_thing_stays_visible():
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


@pytest.mark.parametrize("changes", [{"size": 63}, {"most": 0}, {"things": ()}])
def test_impossible_scenes_are_refused(changes):
    with pytest.raises(ValueError, match="expected sides of at least 64"):
        draw_scene(0, **{"seed": 0, "size": 64, "things": SEEN} | changes)


@pytest.mark.parametrize("size", ["256", 256.5, (300,), (300, "400"), None])
def test_an_invalid_size_is_refused(size):
    with pytest.raises(ValueError, match=re.escape(f"(width, height), got {size!r}")):
        draw_scene(0, seed=0, size=size, things=SEEN)


# on disk


@pytest.mark.parametrize("kind", ["voc", "coco", "odvg", "csv"])
def test_written_scenes_are_read_back(tmp_path, kind):
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
