"""Draw the pictures of the README and the index: `python book/figures/draw_readme.py`, from the project's root.

They show nano's detections in two drawn scenes: things whose names it learned, and things whose names it never saw.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import gdino_lib as gd
from gdino_lib.detect.drawing import draw_detections
from gdino_lib.nano import pictograms
from gdino_lib.nano.scenes import draw_scene

COLOURS = ["#0072B2", "#B36B00", "#00805C", "#D55E00", "#A8528A"]
SCENES = {  # file: title, names, seed
    "found_learned.png": ("names that it learned", ["hot pepper", "guitar", "snail", "umbrella"], 6),
    "found_unseen.png": ("names that it never saw", ["owl", "scissors", "pineapple"], 1),
}
CREDIT = "Drawings: OpenMoji (openmoji.org), CC BY-SA 4.0"


def draw_found(axis: plt.Axes, names: list[str], seed: int) -> None:
    """Draw the first scene of `seed` that shows exactly these things, with the detector's boxes."""
    by_name = {thing.name: thing for thing in pictograms.pictograms()}
    things = [by_name[name] for name in names]
    scenes = (draw_scene(number, seed=seed, size=256, things=things) for number in range(10_000))
    scene = next(scene for scene in scenes if {box.label for box in scene.record.boxes} == set(names))
    drawn = draw_detections(scene.image, detector(scene.image, names), scale=2, text_size=10, colours=COLOURS)
    axis.imshow(drawn)


plt.style.use(Path(__file__).parent.parent / "gdino.mplstyle")
detector = gd.Detector.from_pretrained("nano", device="cpu")
for name, (title, names, seed) in SCENES.items():
    figure, axis = plt.subplots(figsize=(4, 4.4))
    draw_found(axis, names, seed)
    axis.set_title(title, fontsize=11)
    axis.axis("off")
    figure.supxlabel(CREDIT, fontsize=7, color="#555555")
    figure.savefig(Path(__file__).parent / name, dpi=110)
