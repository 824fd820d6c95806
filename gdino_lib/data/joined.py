"""Several data sets in one run."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from gdino_lib.data.datasets import GroundingDataset, Sample, SeededDataset


class JoinedDataset(SeededDataset):
    """Several data sets as one; each keeps its own folder, classes and transform.

    The prompt of a picture never names the classes of another set, because whether the picture shows them is unknown.

    Without `mix`, an epoch has every picture once. With `mix`, an epoch has equally many pictures, drawn from the sets in
    these proportions: the pictures of a small set come more than once, each time with other random choices, and a large set
    takes several epochs. No picture is repeated before every picture of its set has come.

    Args:
        parts: the data sets.
        mix: share of each part in an epoch, relative to the other shares; None: every picture once.
        seed: seed of the order; each part has a seed of its own.

    Raises:
        ValueError: no parts; more or fewer shares than parts; a share that is not above 0, or not finite.
    """

    def __init__(self, parts: Sequence[GroundingDataset], mix: Sequence[float] | None = None, *, seed: int = 0) -> None:
        if not parts:
            raise ValueError("parts: expected one data set or more, got none")
        if mix is not None and len(mix) != len(parts):
            raise ValueError(f"mix: expected a share for each of {len(parts)} data sets, got {len(mix)}")
        if mix is not None and not all(0 < share < float("inf") for share in mix):
            raise ValueError(f"mix: expected shares above 0, got {', '.join(map(str, mix))}")
        super().__init__(seed)
        self.parts, self.mix = tuple(parts), None if mix is None else tuple(mix)
        self.counts = self._counts()
        self._drawn: tuple[int, list[tuple[GroundingDataset, int, int]]] | None = None

    @property
    def fingerprint(self) -> str:
        """See `SeededDataset`; made of the fingerprints of the parts."""
        parts = [part.fingerprint for part in self.parts]
        return hashlib.sha256(repr((parts, self.mix, self.seed)).encode()).hexdigest()

    @property
    def pictures_digest(self) -> str:
        """See `gdino_lib.data.records.pictures_digest`; made of the digests of the parts."""
        return hashlib.sha256(repr([part.pictures_digest for part in self.parts]).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> Sample:
        """The sample of that index in the current epoch.

        Raises:
            ImageError: the image cannot be decoded, or its size is not the record's.
        """
        part, place, draw = self._samples()[index]
        return part.sample(place, draw)

    def sample_sizes(self) -> list[tuple[int, int]]:
        """See `SeededDataset`."""
        return [part.size(place, draw) for part, place, draw in self._samples()]

    def _counts(self) -> list[int]:
        """How many pictures of each part an epoch has: at least one, and together about as many as the parts have."""
        lengths = [len(part) for part in self.parts]
        if self.mix is None:
            return lengths
        ends = [round(sum(lengths) * sum(self.mix[: n + 1]) / sum(self.mix)) for n in range(len(lengths))]
        return [max(end - start, 1) for start, end in zip([0, *ends], ends, strict=False)]

    def _samples(self) -> list[tuple[GroundingDataset, int, int]]:
        """(part, index in the part, draw) of each sample of this epoch; a draw counts the earlier passes over the part."""
        epoch = self.epoch
        if self._drawn is None or self._drawn[0] != epoch:
            samples = []
            for number, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
                start, end = epoch * count, (epoch + 1) * count
                while start < end:
                    draw, place = divmod(start, len(part))
                    order = list(range(len(part)))
                    random.Random(f"{self.seed}/{number}/{draw}/part").shuffle(order)
                    taken = order[place : place + end - start]
                    samples += [(part, index, draw) for index in taken]
                    start += len(taken)
            self._drawn = epoch, samples
        return self._drawn[1]
