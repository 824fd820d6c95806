"""Training curves of the embedded model, over all rounds of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gdino_lib.training.doctor.pictures import save_figure
from gdino_lib.training.log import read_log

SMOOTHED_STEPS = 50  # a curve shows the mean over this many steps


def draw_rounds(path: Path, runs: Sequence[Path | str]) -> None:
    """Draw the loss and the precision of consecutive runs, one run after the other on the same axis.

    Args:
        path: the PNG file to write.
        runs: folders of the runs, in order.

    Raises:
        FileNotFoundError: a run has no log.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    begin = 0
    for run in runs:
        steps, judged = read_log(run)
        losses = np.array([entry["loss"] for entry in steps])
        window = min(SMOOTHED_STEPS, len(losses))
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        left.semilogy(begin + window + np.arange(len(smooth)), smooth, color="C0")
        at = [begin + entry["step"] for entry in judged]
        for colour, marker, name in (("C0", "o", "ap50"), ("C1", "s", "ap")):
            label = name.upper() if run == runs[0] else None
            right.plot(at, [entry[name] for entry in judged], color=colour, marker=marker, markersize=4, label=label)
        begin += len(steps)
        if run != runs[-1]:
            for axes in (left, right):
                axes.axvline(begin, color="0.6", linestyle="--", linewidth=0.8)
    for ticks in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        ticks("{x:g}")
    left.tick_params(axis="y", which="minor", labelsize=8)
    left.set_title(f"total loss, mean of {SMOOTHED_STEPS} steps", fontsize=10)
    right.set_title("precision on fixed scenes", fontsize=10)
    right.set_ylim(0, 1)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(which="both", color="0.9", linewidth=0.5)
    save_figure(figure, path)
