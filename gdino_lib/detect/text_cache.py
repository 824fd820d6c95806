"""A cache of BERT's features, so that a phrase that is asked for again costs nothing."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gdino_lib.model.text_encoder import TextEncoder, TokenIds
from gdino_lib.ops.forks import lock_for_forks

KEPT_TOKENS = 16_384  # 50 MB with BERT-base in float32


class TextCache:
    """BERT's features of token sequences, float [length, bert width] each; any number of threads may use it.

    The features belong to one state of one text encoder. When the encoder's weights, its landmarks, their device or the
    precision of autocast change, the cache empties itself. It compares the weights by their storage and version, which
    training steps, `load_state_dict` and `model.to` change. A write through `tensor.data`, which PyTorch does not count as a
    new version, needs a call of `clear`.

    Copies and pickles of a cache begin empty.

    Args:
        capacity: largest number of tokens that are kept; the sequences that were read first are dropped first. None: no
            limit.

    Attributes:
        tokens: number of tokens that are kept.
    """

    def __init__(self, capacity: int | None = KEPT_TOKENS) -> None:
        self.capacity = capacity
        self.tokens = 0
        self._features: dict[TokenIds, Tensor] = {}
        self._precision: torch.dtype | None = None
        self._weights: list[tuple[weakref.ref[torch.UntypedStorage], int]] = []
        self._lock = lock_for_forks()  # held while BERT runs, never while the image model does

    def __reduce__(self) -> tuple[type[TextCache], tuple[int | None]]:
        return type(self), (self.capacity,)

    def __repr__(self) -> str:
        return f"<TextCache: {len(self._features)} sequences of {self.tokens} tokens, capacity {self.capacity}>"

    def read(self, encoder: TextEncoder, sequences: list[TokenIds], device: torch.device) -> Tensor:
        """The same as `encoder.read`, but BERT reads only the sequences that are not kept; float [S, longest, W].

        Features may differ in the last bits from those read in another batch. Threads that ask for the same new sequence at
        the same time wait for each other, so BERT reads it once.
        """
        with self._lock:
            self._drop_stale(encoder, device)
            new = [ids for ids in sequences if ids not in self._features]
            if new:
                read = encoder.read(new, device)
                self._features |= {ids: rows[: len(ids)].clone() for ids, rows in zip(new, read, strict=True)}
                self.tokens += sum(map(len, new))
            features = [self._features[ids] for ids in sequences]
            self._drop_oldest()
        return pad_sequence(features, batch_first=True)

    def features(self) -> list[Tensor]:
        """All features that are kept, in the order in which their sequences were read."""
        with self._lock:
            return list(self._features.values())

    def clear(self) -> None:
        """Forget all features."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._features.clear()
        self.tokens = 0

    def _drop_stale(self, encoder: TextEncoder, device: torch.device) -> None:
        """Empty the cache if another encoder, or another state of the encoder, made the features."""
        precision = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        # storages are compared by identity, because a new one may get an old address; weak references let them be freed
        now = [(t.untyped_storage(), t._version) for t in (*encoder.bert.parameters(), *encoder.buffers(recurse=False))]
        if (
            precision is self._precision
            and len(now) == len(self._weights)
            and all(
                before() is storage and old == version
                for (storage, version), (before, old) in zip(now, self._weights, strict=True)
            )
        ):
            return
        self._clear()
        self._precision = precision
        self._weights = [(weakref.ref(storage), version) for storage, version in now]

    def _drop_oldest(self) -> None:
        while self.capacity is not None and self.tokens > self.capacity:
            oldest = next(iter(self._features))
            self.tokens -= len(oldest)
            del self._features[oldest]
