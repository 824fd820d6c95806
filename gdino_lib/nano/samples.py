"""Shared parts of the embedded model's data sets: samples from pictures, one size for each batch, mixtures of data sets."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, TypeVar

import torch
from PIL import Image

from gdino_lib.data.datasets import FRAME, Sample, SeededDataset, token_count
from gdino_lib.data.loader import EpochOrder
from gdino_lib.data.targets import Target
from gdino_lib.images import prepare

Size = TypeVar("Size")


@dataclass(frozen=True)
class PromptSettings:
    """What the prompts of a data set name besides the things in the picture.

    Attributes:
        negatives: the most absent names in a prompt.
        unanswered: share, among the prompts with absent names, of prompts that name nothing in the picture, 0..1. The right
            answer to them is no box.
        max_tokens: the most tokens of a prompt; absent names that do not fit are left out.
    """

    negatives: int
    unanswered: float = 0.0
    max_tokens: int = 256

    def room(self, phrases: Iterable[str]) -> int:
        """How many tokens a prompt of these phrases leaves for others."""
        return self.max_tokens - FRAME - sum(map(token_count, phrases))


def cumulative(name: str, weights: Sequence[float], part: str, parts: Sequence[object]) -> tuple[float, ...]:
    """Cumulative weights, as `random.choices` takes them.

    Args:
        name, part: "weight", "set": what `weights` and `parts` are, for messages.
        weights: how often each part is chosen, relative to the others.

    Raises:
        ValueError: there are no parts, or not as many weights as parts.
    """
    if not parts or len(parts) != len(weights):
        raise ValueError(
            f"{name}s: expected at least one {part} and one {name} for each {part}, "
            f"got {len(parts)} {part}s, {len(weights)} {name}s"
        )
    return tuple(accumulate(weights))


def make_sample(
    image: Image.Image, boxes: Sequence[Sequence[float]], phrases: Sequence[int], prompt: list[str], name: str
) -> Sample:
    """Make the sample of a picture that already has its final size.

    Args:
        image: RGB.
        boxes: xyxy in pixels, inside the image.
        phrases: for each box, the index of its phrase in `prompt`.
        prompt: the phrases.
        name: of the picture, for messages.
    """
    width, height = image.size
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    relative = torch.cat([centres, sides], 1) / corners.new_tensor([width, height, width, height])  # (n, 4)
    target = Target(relative.float(), torch.tensor(phrases, dtype=torch.int64), name)
    return Sample(prepare(image, min(width, height), max(width, height)), prompt, target)


class BatchSizes(Generic[Size]):
    """Chooses one size for all pictures that `EpochOrder` puts into the same batch, so that batches need no padding.

    Args:
        dataset: its seed and epoch decide the order and the sizes.
        batch_size: of the loader.
        sizes: the size of each batch is drawn from these.
    """

    def __init__(self, dataset: SeededDataset, batch_size: int, sizes: Sequence[Size]) -> None:
        self.dataset, self.batch_size, self.sizes = dataset, batch_size, tuple(sizes)
        self._places: tuple[int, list[int]] | None = None  # (epoch, position of each index in the epoch's order)

    def of(self, index: int) -> Size:
        """The size of the picture with this index in the current epoch."""
        epoch = self.dataset.epoch
        if self._places is None or self._places[0] != epoch:
            order = list(EpochOrder(self.dataset))
            places = [0] * len(order)
            for place, number in enumerate(order):
                places[number] = place
            self._places = epoch, places
        batch = self._places[1][index] // self.batch_size
        return random.Random(f"{self.dataset.seed}/{epoch}/{batch}/size").choice(self.sizes)


class SizedDataset(SeededDataset):
    """A seeded data set that can draw the picture of an index at any size; pictures of the same batch get the same size.

    Subclasses define `sample` and `fingerprint`.

    Args:
        count: pictures in an epoch.
        batch_size: of the loader.
        sizes: the size of each batch is drawn from these.
        seed: of all random choices.
    """

    def __init__(self, count: int, batch_size: int, sizes: Sequence[Any], seed: int) -> None:
        super().__init__(seed)
        self.count, self.batch_size, self.sizes = count, batch_size, tuple(sizes)
        self._batch_sizes = BatchSizes(self, batch_size, self.sizes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The sample of an index in this epoch, at the size of its batch."""
        return self.sample(index, self.size_of(index))

    def size_of(self, index: int) -> Any:
        """The size that the batch of an index has in this epoch.

        Raises:
            IndexError: there is no such index.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"expected an index below {self.count}, got {index}")
        return self._batch_sizes.of(index)

    @abstractmethod
    def sample(self, index: int, size: Any) -> Sample:
        """The sample of any index in this epoch, at the size given."""


class MixedDataset(SizedDataset):
    """A mixture of data sets: each picture comes from one of them, chosen at random.

    Args:
        parts: the data sets.
        shares: how often each data set is chosen, relative to the others.
        count: pictures in an epoch.
        batch_size: of the loader; all pictures of a batch have the same size.
        sizes: (width, height) in pixels; the size of each batch is drawn from these.
        seed: of the random choices made here; the parts have seeds of their own.

    Raises:
        ValueError: there are no parts, or not as many shares as parts.
    """

    def __init__(
        self,
        parts: Sequence[SizedDataset],
        shares: Sequence[float],
        count: int,
        *,
        batch_size: int,
        sizes: Sequence[tuple[int, int]],
        seed: int = 0,
    ) -> None:
        super().__init__(count, batch_size, sizes, seed)
        self.parts, self.cum_shares = tuple(parts), cumulative("share", shares, "data set", parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the parts' fingerprints and all settings that the samples depend on."""
        drawn = (self.cum_shares, self.count, self.seed, self.batch_size, self.sizes)
        parts = [part.fingerprint for part in self.parts]
        return hashlib.sha256(repr((drawn, parts)).encode()).hexdigest()

    @property
    def pictures_digest(self) -> str:
        """Of the parts; see `gdino_lib.data.records.pictures_digest`."""
        return hashlib.sha256(repr([part.pictures_digest for part in self.parts]).encode()).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which selects the random draw, here and in the parts."""
        super().set_epoch(epoch)
        for part in self.parts:
            part.set_epoch(epoch)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """The sample of any index in this epoch, at a size of (width, height) pixels."""
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}/part")
        (part,) = rng.choices(self.parts, cum_weights=self.cum_shares)
        return part.sample(index, size)
