"""Put samples into batches, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import data

from gdino_lib.data.datasets import Sample, SeededDataset
from gdino_lib.data.targets import Target
from gdino_lib.images import pad

WINDOW = (
    32  # batches whose samples are sorted by size together: more of them save padding, fewer mix the samples better
)


class Batch(NamedTuple):
    """A batch of samples, as `GroundingDINO` and the losses take it.

    Attributes:
        pixel_values: float32 [B, 3, H, W], padded at the right and the bottom.
        pixel_mask: bool [B, H, W], True = real.
        prompts: a list of phrases for each image.
        targets: one per image.
    """

    pixel_values: Tensor
    pixel_mask: Tensor
    prompts: list[list[str]]
    targets: list[Target]


class EpochOrder(data.Sampler[int]):
    """All indices of a data set, in an order drawn from its seed and epoch.

    Where the data set knows the sizes of its samples, a batch holds samples of similar size, since all images of a batch
    are padded to its largest width and height.

    Args:
        batch_size: of the loader; with 1, sizes do not matter.

    Attributes:
        start: how many indices to skip at the beginning, to finish a pass that was interrupted.
    """

    def __init__(self, dataset: SeededDataset, batch_size: int = 1) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.start = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.dataset)))
        rng = random.Random(f"{self.dataset.seed}/{self.dataset.epoch}/order")
        rng.shuffle(order)
        sizes = self.dataset.sample_sizes() if self.batch_size > 1 else None
        if sizes is not None and len(set(sizes)) > 1:
            order = group_by_size(order, sizes, self.batch_size, rng)
        return iter(order[self.start :])


def group_by_size(
    order: Sequence[int], sizes: Sequence[tuple[int, int]], batch_size: int, rng: random.Random
) -> list[int]:
    """The same indices in an order whose batches need little padding.

    Within every `WINDOW` batches, indices are sorted by aspect ratio into a few groups, each group is sorted by area and
    cut into batches, and the batches are shuffled. The indices of a last batch that is not full stay at the end.

    Args:
        order: indices, shuffled.
        sizes: (width, height) for each index.
    """
    full = len(order) - len(order) % batch_size
    grouped: list[int] = []
    for start in range(0, full, WINDOW * batch_size):
        window = sorted(order[start : min(start + WINDOW * batch_size, full)], key=lambda i: sizes[i][0] / sizes[i][1])
        group = math.ceil(math.sqrt(len(window) / batch_size)) * batch_size  # as many groups as batches in a group
        for place in range(0, len(window), group):
            window[place : place + group] = sorted(
                window[place : place + group], key=lambda i: sizes[i][0] * sizes[i][1]
            )
        batches = [window[place : place + batch_size] for place in range(0, len(window), batch_size)]
        rng.shuffle(batches)
        grouped += itertools.chain.from_iterable(batches)
    return [*grouped, *order[full:]]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad the images to the largest width and height; prompts and targets stay lists, with one entry per image."""
    pixel_values, pixel_mask = pad([sample.pixel_values for sample in samples])
    return Batch(pixel_values, pixel_mask, [sample.prompt for sample in samples], [sample.target for sample in samples])


def build_loader(
    dataset: SeededDataset, batch_size: int, *, shuffle: bool, workers: int | None = None, drop_last: bool = False
) -> data.DataLoader[Sample]:
    """A loader whose batches depend on the data set's seed and epoch alone; call `dataset.set_epoch` before each pass.

    Args:
        shuffle: draw a new order for each epoch, with samples of similar size in a batch (see `EpochOrder`); False: the
            order of the data set.
        workers: processes that read ahead and stay alive from epoch to epoch; 0: none; None: one per core of this process's
            share of the machine, at most 8.
        drop_last: leave out a last batch that is not full.

    Raises:
        ValueError: a negative number of workers, or so many that their processes would fill the memory.
        ImageError: an image cannot be used; raised while iterating, as one line with or without workers.
    """
    most = max(64, 4 * _cores())
    if workers is not None and not 0 <= workers <= most:
        raise ValueError(f"workers: expected 0 to {most} processes, got {str(workers)[:40]}")
    if workers is None:
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and accelerate
        workers = min(_cores() // local_processes, 8)
    return data.DataLoader(
        dataset,
        batch_size,
        sampler=EpochOrder(dataset, batch_size) if shuffle else None,
        num_workers=workers,
        collate_fn=collate,
        drop_last=drop_last,
        worker_init_fn=_leave_process_group,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        # without it, each pass would draw a number from torch's global generator, and a resumed run would draw others
        generator=torch.Generator().manual_seed(dataset.seed),
    )


def _leave_process_group(_: int) -> None:
    """Keep a worker alive when Ctrl-C or a launcher signals the whole process group, so that the trainer can save."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked worker has inherited the trainer's handler


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
