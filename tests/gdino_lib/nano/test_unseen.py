"""The unseen things: the list, the rule behind it, and their absence from training."""

import re
from importlib.resources import files
from itertools import pairwise

import numpy as np

from gdino_lib.nano import pictograms, unseen
from gdino_lib.nano.wordings import say_the_same

THINGS = pictograms.pictograms()
SEEN = pictograms.seen()
UNSEEN = pictograms.unseen()


def test_the_stored_list_is_the_result_of_the_rule():
    listed = pictograms.unseen_names()
    text = files("gdino_lib.nano").joinpath("pictograms_unseen.txt").read_text("utf-8")
    assert text == unseen.listing(listed)
    assert f"# Made by {unseen.__name__}.{unseen.choose_unseen.__name__};" in text
    # another release of FreeType may draw a few pixels differently, so the threshold of similarity gets a margin
    surely, perhaps = (unseen.choose_unseen(similarity=unseen.SIMILARITY + margin) for margin in (0.004, -0.004))
    assert list(surely) == list(listed) == list(perhaps)
    for name, twins in listed.items():
        assert set(surely[name]) <= set(twins) <= set(perhaps[name])
    assert sum(map(len, surely.values())) > 300


def test_unseen_things_and_their_near_twins_are_not_learned():
    assert len(UNSEEN) == 200
    assert len(SEEN) > 800
    learnt, never = ({thing.name for thing in things} for things in (SEEN, UNSEEN))
    twins = {thing.name for thing in pictograms.near_twins()}
    assert not learnt & never
    assert not twins & (learnt | never)
    assert len(learnt) + len(twins) + len(never) == len(THINGS)
    assert {"crying cat", "elephant", "scissors", "zombie", "gear", "train"} <= never
    assert not [name for name in learnt if re.search(r"\b(cat|broom|train|elephant|lobster)\b", name)]
    shown = {character for thing in SEEN for character in thing.drawings}
    assert not shown.intersection(character for thing in UNSEEN for character in thing.drawings)
    for thing in UNSEEN:
        assert not [other.name for other in SEEN if say_the_same(thing, other)]


def test_unseen_things_are_of_all_kinds():
    codes = sorted(ord(min(thing.drawings)[0]) for thing in THINGS)
    chosen = np.array([ord(min(thing.drawings)[0]) for thing in UNSEEN])
    tenths = [codes[round(share * (len(codes) - 1) / 10)] for share in range(11)]
    counts = [((chosen >= low) & (chosen <= high)).sum() for low, high in pairwise(tenths)]
    assert min(counts) >= 15
