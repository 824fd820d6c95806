"""Glyphs of the emoji font."""

import re
import subprocess
import sys

import numpy as np
import pytest

from gdino_lib.nano import drawings, pictograms

THINGS = pictograms.pictograms()


def test_every_glyph_is_drawn_and_coloured():
    for thing in THINGS[::20]:
        for character in thing.drawings:
            glyph = np.asarray(drawings.draw(character, 48))
            assert max(glyph.shape) == 48
            assert glyph[..., 3].any(0).all() or glyph[..., 3].any(1).all()
            assert glyph.any()
    cat = np.asarray(drawings.draw("\N{CAT FACE}", 64))
    assert (np.ptp(cat[..., :3].astype(int), axis=2) > 80).any()
    astronaut, person = (drawings.draw(text, 64) for text in ("\N{ADULT}\N{ZERO WIDTH JOINER}\N{ROCKET}", "\N{ADULT}"))
    assert astronaut.tobytes() != person.tobytes()


def test_the_font_file_is_closed_after_reading():
    code = "from gdino_lib.nano import pictograms; pictograms.pictograms()"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "unclosed file" not in ended.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(drawings, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'gdino_lib[scenes]'")):
        drawings.package_folder("emoji")
