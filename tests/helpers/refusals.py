"""What a refusal looks like: one line that begins with the place of the fault."""

import re
from contextlib import contextmanager

import pytest


@contextmanager
def refused(place, words):
    """The block raises a `ValueError` that begins with `place` and has `words` in it; yields what holds the error."""
    with pytest.raises(ValueError, match=re.escape(f"{place}: ")) as error:
        yield error
    message = str(error.value)
    assert message.startswith(f"{place}: ")
    assert words in message
    assert "\n" not in message
