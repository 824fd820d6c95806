"""The seeded split into training and test images, and validation images if wanted."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable


def split(names: Iterable[str], train: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Split image names into a training part and a test part.

    Each name draws a lot: the SHA-256 of the seed and the name. The names with the `train` lowest lots are the training
    part. The split thus depends on the set of names and on the seed alone, and not on the order of the names, the platform
    or Python's random generator.

    Args:
        names: file names; a repeated name counts once.
        train: number of training names, from 0 to all.
        seed: another seed gives another split.

    Returns:
        (training names, test names), each sorted; every name is in exactly one of them.

    Raises:
        ValueError: `train` is negative or larger than the number of names.
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


def split_in_three(names: Iterable[str], train: int, val: int, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Split image names into a training, a validation and a test part.

    The test part is that of `split(names, train + val, seed)`: taking validation images costs training images only.

    Args:
        names, seed: as for `split`.
        train, val: numbers of training and of validation names, together from 0 to all.

    Returns:
        (training names, validation names, test names), each sorted; every name is in exactly one of them.

    Raises:
        ValueError: a number is negative, or both together are larger than the number of names.
    """
    names = set(names)
    if val and (min(train, val) < 0 or train + val > len(names)):
        wanted = f"{train} training and {val} validation images"
        raise ValueError(f"cannot take {wanted} from {len(names)}; expected 0 to {len(names)} together")
    learning, test = split(names, train + val, seed)
    training, validation = split(learning, train, seed)
    return training, validation, test
