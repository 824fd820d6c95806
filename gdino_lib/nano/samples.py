"""What the data sets of the embedded model share: the sample of a picture, one size a batch, and several data sets in one."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

import torch
from PIL import Image

from gdino_lib.data.datasets import Sample, SeededDataset
from gdino_lib.data.loader import EpochOrder
from gdino_lib.data.targets import Target
from gdino_lib.images import prepare

Size = TypeVar("Size")


def make_sample(
    image: Image.Image, boxes: Sequence[Sequence[float]], phrases: Sequence[int], prompt: list[str], name: str
) -> Sample:
    """The sample of a picture that has its final size already.

    Args:
        boxes: xyxy in pixels, inside the image.
        phrases: for each box the index in `prompt`.
        name: of the picture, for messages.
    """
    width, height = image.size
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    relative = torch.cat([centres, sides], 1) / corners.new_tensor([width, height, width, height])  # (n, 4)
    target = Target(relative.float(), torch.tensor(phrases, dtype=torch.int64), name)
    return Sample(prepare(image, min(width, height), max(width, height)), prompt, target)


class BatchSizes(Generic[Size]):
    """One size for all pictures that `EpochOrder` puts into the same batch: then a batch needs no padding.

    Args:
        dataset: whose seed and epoch decide.
        batch_size: of the loader.
        sizes: to draw from.
    """

    def __init__(self, dataset: SeededDataset, batch_size: int, sizes: Sequence[Size]) -> None:
        self.dataset, self.batch_size, self.sizes = dataset, batch_size, tuple(sizes)
        self._places: tuple[int, list[int]] | None = None  # the epoch, and where its order has each index

    def of(self, index: int) -> Size:
        """The size of the picture with this index in the present epoch."""
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
    """A seeded data set that draws the picture of an index at any size; the loader gets one size a batch.

    Subclasses have `sample` and `fingerprint`.

    Args:
        count: pictures in an epoch.
        batch_size: of the loader.
        sizes: to draw the size of a batch from.
        seed: of everything random.
    """

    def __init__(self, count: int, batch_size: int, sizes: Sequence[Any], seed: int) -> None:
        super().__init__(seed)
        self.count, self.batch_size, self.sizes = count, batch_size, tuple(sizes)
        self._batch_sizes = BatchSizes(self, batch_size, self.sizes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The sample of this epoch, of the size of its batch."""
        return self.sample(index, self.size_of(index))

    def size_of(self, index: int) -> Any:
        """The size that the batch of an index has in this epoch.

        Raises:
            IndexError: no such index.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"expected an index below {self.count}, got {index}")
        return self._batch_sizes.of(index)

    @abstractmethod
    def sample(self, index: int, size: Any) -> Sample:
        """The sample of any index of this epoch, drawn at a size of the caller's."""


class MixedDataset(SizedDataset):
    """Pictures of several data sets, in every batch.

    Args:
        parts: the data sets.
        shares: how often each is drawn from, relative to the others.
        count: pictures in an epoch.
        batch_size: of the loader: all pictures of a batch have the same size.
        sizes: (width, height) in pixels, to draw a batch's from.
        seed: of everything random here; the parts have their own.

    Raises:
        ValueError: no parts, or not as many shares.
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
        if not parts or len(parts) != len(shares):
            raise ValueError(f"shares: expected one for each data set, got {len(shares)} for {len(parts)}")
        super().__init__(count, batch_size, sizes, seed)
        self.parts, self.cum_shares = tuple(parts), tuple(accumulate(shares))

    @property
    def fingerprint(self) -> str:
        """Of what is learned from, and how it is drawn."""
        drawn = (self.cum_shares, self.count, self.seed, self.batch_size, self.sizes)
        parts = [part.fingerprint for part in self.parts]
        return hashlib.sha256(repr((drawn, parts)).encode()).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw, of the parts as well."""
        super().set_epoch(epoch)
        for part in self.parts:
            part.set_epoch(epoch)

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """The sample of any index of this epoch, (width, height) pixels large."""
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}/part")
        (part,) = rng.choices(self.parts, cum_weights=self.cum_shares)
        return part.sample(index, size)
