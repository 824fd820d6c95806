"""Several data sets in one run: how often each picture comes, and which classes its prompt may name."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from squares import EVALUATION, TRAIN

import data_prep
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.joined import JoinedDataset
from gdino_lib.data.loader import build_loader


@pytest.fixture(scope="module")
def parts(records, folder):
    """Two of the pictures, with green and red squares labelled; four, with blue ones labelled."""

    def only(images, *names):
        kept = [replace(i, boxes=tuple(b for b in i.boxes if b.label in names)) for i in images]
        return data_prep.Dataset(tuple(kept), names)

    first = only(records.images[:2], "green square", "red square")
    second = only(records.images[2:], "blue_square", "green square")
    return [GroundingDataset(first, folder, TRAIN), GroundingDataset(second, folder, TRAIN, everywhere=["blue_square"])]


def names_of(joined, epoch):
    joined.set_epoch(epoch)
    return [joined[index].target.name for index in range(len(joined))]


def test_without_a_mix_every_picture_comes_once(parts):
    joined = JoinedDataset(parts)
    for epoch in range(2):
        assert sorted(names_of(joined, epoch)) == [f"{n}.png" for n in range(6)]


def test_a_mix_repeats_the_small_set_and_spreads_the_large_one(parts):
    joined = JoinedDataset(parts, [3, 1])
    assert len(joined) == 6
    names = [name for epoch in range(4) for name in names_of(joined, epoch)]
    counts = Counter(names)
    assert sum(counts[f"{n}.png"] for n in (0, 1)) == pytest.approx(18, abs=4), "three in four"
    assert max(counts[f"{n}.png"] for n in (0, 1)) - min(counts[f"{n}.png"] for n in (0, 1)) <= 1
    large = [counts[f"{n}.png"] for n in range(2, 6)]
    assert max(large) - min(large) <= 1, "no picture is repeated before all of them have come"


def test_a_repeated_picture_is_drawn_anew(parts):
    joined = JoinedDataset(parts, [20, 1])
    shapes = {tuple(joined[index].pixel_values.shape) for index in range(len(joined))}
    assert len(shapes) > 2, "two pictures, five draws"


def test_prompts_stay_within_a_set_and_within_what_it_labels_everywhere(parts):
    joined = JoinedDataset(parts)
    for epoch in range(8):
        joined.set_epoch(epoch)
        for index in range(6):
            sample = joined[index]
            shown = {sample.prompt[phrase] for phrase in sample.target.phrases.tolist()}
            absent = set(sample.prompt) - shown
            if sample.target.name in ("0.png", "1.png"):
                assert absent <= {"green square", "red square"}
            else:
                assert absent <= {"blue_square"}, "green squares are not labelled everywhere"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=2), st.integers(0, 50))
def test_an_epoch_has_the_shares_of_any_mix(parts, mix, epoch):
    joined = JoinedDataset(parts, mix)
    joined.set_epoch(epoch)
    first, second = joined.counts
    assert min(first, second) >= 1
    assert len(joined.sample_sizes()) == len(joined) == first + second
    assert abs(first - 6 * mix[0] / sum(mix)) <= 1


def test_the_same_batches_with_and_without_workers(parts):
    batches = []
    for workers in (0, 2):
        joined = JoinedDataset(parts, [1, 1])
        joined.set_epoch(3)
        batches.append(list(build_loader(joined, 2, shuffle=True, workers=workers)))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.pixel_values, other.pixel_values)
        assert one.prompts == other.prompts


def test_the_fingerprint_depends_on_parts_mix_and_seed(parts, records, folder):
    prints = [JoinedDataset(parts).fingerprint, JoinedDataset(parts, [1, 1]).fingerprint]
    prints += [JoinedDataset(parts[:1]).fingerprint, JoinedDataset(parts, seed=1).fingerprint]
    prints += [GroundingDataset(records, folder, EVALUATION, everywhere=names).fingerprint for names in (None, [])]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("mix", "message"), [([1], "a share for each of 2 data sets, got 1"), ([1, 0], "shares above 0, got 1, 0")]
)
def test_shares_that_do_not_fit(parts, mix, message):
    with pytest.raises(ValueError, match=message):
        JoinedDataset(parts, mix)


def test_nothing_to_join():
    with pytest.raises(ValueError, match="expected one data set or more, got none"):
        JoinedDataset([])


def test_a_name_that_is_no_class(records, folder):
    with pytest.raises(ValueError, match=r"everywhere: expected names of the classes .*, got 'dog'"):
        GroundingDataset(records, folder, EVALUATION, everywhere=["dog"])
