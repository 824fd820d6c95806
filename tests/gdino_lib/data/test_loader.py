"""The same samples and batches whatever reads them."""

import numpy as np
import torch
from squares import EVALUATION, TRAIN

from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.loader import build_loader


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
