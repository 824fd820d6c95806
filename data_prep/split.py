"""The seeded split: which images train, which test."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable


def split(names: Iterable[str], train: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Deal image names into a training and a test part.

    Every name gets a lot drawn from itself and the seed (its SHA-256), and the `train` lowest lots train. So the parts
    depend on the set of names and the seed alone: not on the order of the directory, the platform or Python's random
    generator.

    Args:
        names: file names; a repeated name counts once.
        train: how many of them train, 0 to all.
        seed: another seed deals another split.

    Returns:
        (training names, test names), each sorted; no name is in both, none is lost.

    Raises:
        ValueError: `train` is negative or more than there are names.
    """
    names = set(names)
    if not 0 <= train <= len(names):
        raise ValueError(f"cannot take {train} training images from {len(names)}; expected 0 to {len(names)}")

    def lot(name: str) -> tuple[bytes, str]:
        # macOS may store "é" as two code points: the same name must draw the same lot everywhere
        text = f"{seed}/{unicodedata.normalize('NFC', name)}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), name

    ranked = sorted(names, key=lot)
    return sorted(ranked[:train]), sorted(ranked[train:])
