"""Random images, and a check of error messages."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ORIENTATION = 0x0112  # the EXIF tag


def noise(width: int, height: int, *channels: int, seed: int = 0) -> np.ndarray:
    """Random uint8 values [height, width, *channels], the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def refused(error: type[Exception], call: Callable[..., Any], *arguments: Any) -> str:
    """The message of the error that the call raises; it must be one line that says what was expected."""
    with pytest.raises(error) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message
