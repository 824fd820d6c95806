"""Draw a training curve of nano's card: `python book/figures/draw_training.py RUN FILE`, from the project's root.

`runs/nano-first training.png` is the first round of scenes, `runs/nano training-second.png` the second.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import gdino_lib

WINDOW = 50  # steps whose mean is drawn

here = Path(__file__).parent
plt.style.use(here.parent / "gdino.mplstyle")
rows = [json.loads(line) for line in (Path(sys.argv[1]) / "log.jsonl").read_text("utf-8").splitlines()]
losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
judged = {row["step"]: (row["ap50"], row["ap"]) for row in rows if "ap50" in row}

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
steps = sorted(losses)
smooth = np.convolve([losses[step] for step in steps], np.ones(WINDOW) / WINDOW, "valid")
left.plot(steps[WINDOW - 1 :], smooth)
left.set(title=f"loss, mean of {WINDOW} steps", xlabel="step", yscale="log")
ticks = [tick for tick in (8, 9, 10, 11, 12, 20, 40) if smooth.min() <= tick <= smooth.max()]
left.set_yticks(ticks, [str(tick) for tick in ticks], minor=False)
left.set_yticks([], minor=True)
for values, label in zip(zip(*judged.values(), strict=True), ("AP50", "AP"), strict=True):
    right.plot(list(judged), values, "o-", label=label)
right.set(title="400 scenes of names that it learns", xlabel="step", xlim=(0, None), ylim=(0, 1))
right.legend()
folder = Path(gdino_lib.__file__).parent / "assets" / "nano"
figure.savefig(folder / sys.argv[2], dpi=100)
