"""Images without meaning, and refusals in one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ORIENTATION = 0x0112  # the EXIF tag


def noise(width: int, height: int, *channels: int, seed: int = 0) -> np.ndarray:
    """Random bytes [height, width, *channels], the same for a seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def refused(error: type[Exception], call: Callable[..., Any], *arguments: Any) -> str:
    """What the error says, which must be one line that tells what was expected."""
    with pytest.raises(error) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message
