"""Check error messages: each is one line that begins with the place of the fault."""

import re
from contextlib import contextmanager

import pytest


@contextmanager
def refused(place, words):
    """Check that the block raises a one-line `ValueError` that begins with `place` and contains `words`."""
    with pytest.raises(ValueError, match=re.escape(f"{place}: ")) as error:
        yield error
    message = str(error.value)
    assert message.startswith(f"{place}: ")
    assert words in message
    assert "\n" not in message
