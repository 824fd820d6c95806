"""The embedded model is small, works offline and detects what its card and the README promise."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

import gdino_lib as gd
from data_prep.formats import coco
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all
from gdino_lib.nano import pictograms
from gdino_lib.nano.scenes import draw_scene, write_scenes
from gdino_lib.weights import hub

LARGEST = 60e6  # bytes of all files together
SCENES = 40


@pytest.fixture(scope="module")
def detector():
    return gd.Detector.from_pretrained("nano", device="cpu")


def test_it_is_small_and_has_a_card():
    files = [path for path in hub.NANO.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    card = (hub.NANO / "README.md").read_text("utf-8")
    for word in ("OpenMoji", "CC BY-SA 4.0", "photographs", "never saw"):
        assert word in card


def test_it_needs_no_network(tmp_path):
    code = """if True:
        import socket
        def refused(*address):
            print("asked for", address)
            raise OSError("no network")
        socket.socket.connect = socket.getaddrinfo = refused
        import gdino_lib as gd, numpy as np
        gd.Detector.from_pretrained("nano", device="cpu")(np.zeros((64, 64, 3), np.uint8), ["cat"])
        print("done")
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    # empty cache folders
    environment |= {"HOME": str(tmp_path), "HF_HOME": str(tmp_path), "GDINO_OPS": "reference"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_the_first_commands_of_the_readme_find_their_phrases(tmp_path):
    text = (Path(__file__).parents[3] / "README.md").read_text("utf-8").split("## Detect by name")[1]
    drawing, python, detecting = re.findall(r"```(?:bash|python)\n(.*?)```", text, re.DOTALL)[:3]
    python, detecting = python.partition("photos = ")[0], detecting.splitlines()[0]  # the rest needs a download
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (["bash", "-ec", drawing], [sys.executable, "-c", python], ["bash", "-ec", detecting]):
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    (found,) = json.loads((tmp_path / "found" / "detections.json").read_text("utf-8"))["images"]
    (phrases,) = re.findall(r"(\[.*\])\)", python)
    assert sorted(box["phrase"] for box in found["boxes"]) == sorted(ast.literal_eval(phrases))
    scenes = coco.read(tmp_path / "scenes" / "annotations.json").images
    (there,) = (scene for scene in scenes if scene.file_name == "000003.png")
    true = {thing.label: thing.xyxy for thing in there.boxes}
    for box in found["boxes"]:
        overlap = sv.box_iou_batch(np.array([box["xyxy"]]), np.array([true[box["phrase"]]]))
        assert overlap.item() > 0.7, box


def draw(index):
    return draw_scene(index, seed="golden", size=256, things=pictograms.seen())


@pytest.mark.parametrize(("kind", "least"), [("seen", 0.9), ("unseen", 0.4)])
def test_it_finds_learned_things_and_part_of_the_unseen_things(detector, tmp_path, kind, least):
    things = getattr(pictograms, kind)()
    records = write_scenes(tmp_path / kind, SCENES, things=things, seed="golden")
    found = detect_all(detector, records, tmp_path / kind / "images", negatives=8)
    assert average_precision(records, found).ap50 >= least


@pytest.mark.parametrize("side", [224, 256, 320])
def test_detections_in_a_stored_scene_stay_the_same(detector, side):
    """Detections equal those recorded when the weights were committed, at every size of the picture."""
    scene = draw(3)
    names = sorted({box.label for box in scene.record.boxes})
    found = detector(scene.image.resize((side, side)), names)
    assert set(found.data["class_name"]) == set(names)
    fox = found[found.data["class_name"] == "fox"]
    assert fox.confidence == pytest.approx([0.815], abs=0.03)
    assert fox.xyxy[0] * 256 / side == pytest.approx([36.8, 179.5, 77, 228.6], abs=1)
