"""The figure of the model: the committed file is up to date, and its names are those of the code."""

import re
from pathlib import Path

from scripts import load_script

import gdino_lib as gd

FIGURES = Path(__file__).resolve().parents[2] / "book" / "figures"


def test_the_model_figure_is_up_to_date_and_uses_the_names_of_the_code():
    svg = load_script("book/figures/draw_model").draw()
    assert (FIGURES / "model.svg").read_text() == svg, "run `python book/figures/draw_model.py`"
    model = gd.GroundingDINO(gd.GroundingDINOConfig.nano())
    named = {part for name, _ in model.named_modules() for part in name.split(".")}
    words = set(re.findall(r'monospace" [^>]*>([a-z_]+)<', svg))
    assert {name for name, _ in model.named_children()} <= words
    assert words <= named
