"""Training curves over several rounds."""

import json

import numpy as np
import pytest
from PIL import Image

from gdino_lib.nano import pictures
from gdino_lib.nano.pictures import draw_rounds
from gdino_lib.training.log import LOG


def step_entry(step, loss):
    """The log's entry of a step, as a run writes it."""
    rest = {"epoch": 1, "parts": {}, "lr": 0.1, "gradient_norm": 1.0, "images_per_second": 1.0}
    return {"step": step, "loss": loss} | rest


def test_the_curves_of_several_rounds_become_one_picture(tmp_path, monkeypatch):
    for number, run in enumerate(("first", "second")):
        entries = [step_entry(step, 100 / (step + 120 * number)) for step in range(1, 121)]
        entries.append({"step": 120, "epoch": 1, "ap": 0.3 + 0.2 * number, "ap50": 0.5 + 0.2 * number})
        (tmp_path / run).mkdir()
        (tmp_path / run / LOG).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    draw_rounds(tmp_path / "training.png", [tmp_path / "first", tmp_path / "second"])
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.size == (880, 330)
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 100  # curves, not blank axes
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / LOG).write_text("".join(json.dumps(step_entry(n, 1.0)) + "\n" for n in range(1, 11)))
    curves = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, _: curves.extend(figure.axes[0].lines))
    draw_rounds(tmp_path / "short.png", [tmp_path / "short"])
    assert np.allclose([curve.get_xydata() for curve in curves], [[[10, 1]]])
    with pytest.raises(FileNotFoundError, match=r"third.*expected the log of a training run"):
        draw_rounds(tmp_path / "training.png", [tmp_path / "first", tmp_path / "third"])
