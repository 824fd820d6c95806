"""Drawn figures: the committed file is what its script draws, and its words are the code's."""

import importlib.util
import re
from pathlib import Path

import gdino_lib as gd

FIGURES = Path(__file__).resolve().parent.parent / "book" / "figures"


def test_the_model_figure_is_drawn_by_its_script_and_names_what_the_code_names():
    spec = importlib.util.spec_from_file_location("draw_model", FIGURES / "draw_model.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    svg = script.draw()
    assert (FIGURES / "model.svg").read_text() == svg, "run `python book/figures/draw_model.py`"
    model = gd.GroundingDINO.nano()
    named = {part for name, _ in model.named_modules() for part in name.split(".")}
    words = set(re.findall(r'monospace" [^>]*>([a-z_]+)<', svg))
    assert {name for name, _ in model.named_children()} <= words
    assert words <= named
