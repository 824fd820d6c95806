"""Named pictograms: over a thousand things with distinct names."""

import re

import pytest

from gdino_lib.data.records import check_distinct
from gdino_lib.nano import pictograms

THINGS = pictograms.pictograms()
BY_NAME = {thing.name: thing for thing in THINGS}


def test_over_a_thousand_things_have_names_and_wordings_of_their_own():
    assert len(THINGS) == 1363
    assert {len(thing.drawings) for thing in THINGS} >= {1, 2, 3}
    check_distinct([thing.name for thing in THINGS])
    assert all(thing.wordings[0] == thing.name for thing in THINGS)
    owners = [re.sub("[^a-z0-9]", "", wording.lower()) for thing in THINGS for wording in thing.wordings]
    assert len(set(owners)) == len(owners)
    assert sum(len(thing.wordings) > 1 for thing in THINGS) > 500


@pytest.mark.parametrize("kind", ["skin", "flag", "keycap", "letter", "facing right"])
def test_some_kinds_of_emojis_are_left_out(kind):
    left_out = {
        "skin": "\N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-3}",
        "flag": "\N{REGIONAL INDICATOR SYMBOL LETTER F}\N{REGIONAL INDICATOR SYMBOL LETTER R}",
        "keycap": "7\N{COMBINING ENCLOSING KEYCAP}",
        "letter": "\N{NEGATIVE SQUARED LATIN CAPITAL LETTER A}",
        "facing right": "\N{RUNNER}\N{ZERO WIDTH JOINER}\N{BLACK RIGHTWARDS ARROW}",
    }
    assert not any(left_out[kind] in thing.drawings for thing in THINGS)


def test_drawings_of_the_same_thing_share_one_name():
    assert BY_NAME["cat"].drawings == ("\N{CAT}", "\N{CAT FACE}")
    assert len(BY_NAME["astronaut"].drawings) == 3
    assert "woman running" not in BY_NAME
    assert {"runner", "running"} <= set(BY_NAME["person running"].wordings)
    assert "car" in BY_NAME["automobile"].wordings


@pytest.mark.parametrize(
    ("name", "may_flip", "may_turn"),
    [
        ("cat", True, True),
        ("left arrow", False, False),
        ("waxing crescent moon", False, False),
        ("three o'clock", False, False),
        ("leftwards hand", False, True),
        ("upside-down face", True, False),
        ("castle", True, True),
        ("trackball", True, True),
    ],
)
def test_names_decide_whether_a_thing_may_flip_or_turn(name, may_flip, may_turn):
    assert (BY_NAME[name].may_flip, BY_NAME[name].may_turn) == (may_flip, may_turn)
