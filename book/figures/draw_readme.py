"""Draw the README's picture: `python book/figures/draw_readme.py`, from the project's root."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from data_prep import cartoon_faces, voc
from data_prep.audit import repair

COLOURS = {"with_mask": "#0072B2", "without_mask": "#D55E00", "mask_weared_incorrect": "#E69F00"}

plt.style.use(Path(__file__).parent.parent / "gdino.mplstyle")
with tempfile.TemporaryDirectory() as folder:
    cartoon_faces.write(Path(folder) / "faces")
    sources, _ = voc.read_folder(Path(folder) / "faces/images", Path(folder) / "faces/annotations")
    source = max(sources, key=lambda source: len({box.label for box in source.record.boxes}))
    figure, axis = plt.subplots(figsize=(7, 7 * source.record.height / source.record.width), layout="constrained")
    axis.imshow(Image.open(source.image))
    axis.axis("off")
    for box in repair(source.record)[0].boxes:
        colour = COLOURS[box.label]
        axis.add_patch(
            plt.Rectangle((box.x1, box.y1), box.x2 - box.x1, box.y2 - box.y1, fill=False, edgecolor=colour, lw=2.5)
        )
        label = box.label.replace("_", " ")
        right = box.x1 > 0.8 * source.record.width  # keep the text inside the picture
        x, side = (box.x2, "right") if right else (box.x1, "left")
        axis.text(x, box.y1 - 4, label, color="white", fontsize=7, backgroundcolor=colour, va="bottom", ha=side)
    figure.savefig(Path(__file__).parent / "readme.png", dpi=110)
