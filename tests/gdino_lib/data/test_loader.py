"""Samples and batches are the same for any number of workers."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from squares import EVALUATION, TRAIN

from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.loader import WINDOW, EpochOrder, build_loader, group_by_size


def batches(records, folder, workers, epochs=2, seed=7):
    dataset = GroundingDataset(records, folder, TRAIN, negatives=1, seed=seed)
    loader = build_loader(dataset, 2, shuffle=True, workers=workers)
    result = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        result.append(list(loader))
    return result


def same(one, other):
    return all(
        torch.equal(a.pixel_values, b.pixel_values)
        and torch.equal(a.pixel_mask, b.pixel_mask)
        and a.prompts == b.prompts
        and [t.name for t in a.targets] == [t.name for t in b.targets]
        and all(torch.equal(x.boxes, y.boxes) for x, y in zip(a.targets, b.targets, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def equal(one, other):
    return (
        torch.equal(one.pixel_values, other.pixel_values)
        and one.prompt == other.prompt
        and torch.equal(one.target.boxes, other.target.boxes)
        and torch.equal(one.target.phrases, other.target.phrases)
        and one.target.name == other.target.name
    )


def test_workers_seeds_and_epochs(records, folder):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    alone = batches(records, folder, 0)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's generator is left alone"
    torch.manual_seed(2)
    np.random.seed(3)
    for workers in (1, 2):
        together = batches(records, folder, workers)
        assert all(same(one, other) for one, other in zip(alone, together, strict=True))
    assert not same(alone[0], alone[1]), "another epoch, another draw"
    assert not same(alone[0], batches(records, folder, 0, seed=8)[0])
    assert sorted(t.name for batch in alone[1] for t in batch.targets) == [f"{n}.png" for n in range(6)]


def test_a_pass_that_was_left_early_changes_nothing(records, folder):
    expected = batches(records, folder, 0)
    dataset = GroundingDataset(records, folder, TRAIN, negatives=1, seed=7)
    loader = build_loader(dataset, 2, shuffle=True, workers=2)
    next(iter(loader))
    dataset.set_epoch(1)
    assert same(list(loader), expected[1])


def test_samples_depend_on_seed_epoch_and_index_only(records, folder):
    dataset, other = (GroundingDataset(records, folder, TRAIN, negatives=1, seed=1) for _ in range(2))
    dataset.set_epoch(5)
    other.set_epoch(5)
    forwards = [dataset[index] for index in range(6)]
    backwards = [other[index] for index in reversed(range(6))][::-1]
    assert all(equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_unshuffled_keeps_the_order(records, folder):
    loader = build_loader(GroundingDataset(records, folder, EVALUATION), 4, shuffle=False, workers=0)
    assert [t.name for batch in loader for t in batch.targets] == [f"{n}.png" for n in range(6)]
    assert len(build_loader(loader.dataset, 4, shuffle=True, workers=0, drop_last=True)) == 1


def test_sizes_are_known_before_the_images_are_read(records, folder):
    dataset = GroundingDataset(records, folder, TRAIN)
    for epoch in range(4):
        dataset.set_epoch(epoch)
        assert dataset.sample_sizes() == [tuple(dataset[index].pixel_values.shape[:0:-1]) for index in range(6)]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=80), st.integers(2, 7))
def test_grouping_loses_no_index(sizes, batch_size):
    order = random.Random(1).sample(range(len(sizes)), len(sizes))
    grouped = group_by_size(order, sizes, batch_size, random.Random(2))
    assert sorted(grouped) == list(range(len(sizes)))
    rest = len(sizes) % batch_size
    assert grouped[len(sizes) - rest :] == order[len(sizes) - rest :], "the indices that fill no batch stay at the end"


def test_grouped_batches_need_little_padding():
    rng = random.Random(0)
    sizes = [(rng.randint(150, 400), rng.randint(150, 400)) for _ in range(2 * WINDOW * 16)]
    order = list(range(len(sizes)))

    def padding(order):
        padded = real = 0
        for start in range(0, len(order), 16):
            batch = [sizes[index] for index in order[start : start + 16]]
            padded += 16 * max(width for width, _ in batch) * max(height for _, height in batch)
            real += sum(width * height for width, height in batch)
        return padded / real

    assert padding(order) > 1.8
    assert padding(group_by_size(order, sizes, 16, rng)) < 1.4


def test_images_of_one_size_keep_their_order(records, folder):
    dataset = GroundingDataset(records, folder, EVALUATION)
    assert list(EpochOrder(dataset, 2)) == list(EpochOrder(dataset))


@pytest.mark.parametrize("workers", [-1, 10**4, 10**19, 10**400])
def test_workers_that_would_fill_the_memory_are_refused(records, folder, workers):
    dataset = GroundingDataset(records, folder, EVALUATION)
    with pytest.raises(ValueError, match=r"workers: expected 0 to \d+ processes, got "):
        build_loader(dataset, 2, shuffle=True, workers=workers)
