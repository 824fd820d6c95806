"""Names that would steer a terminal, and what a command may print of them."""

import re

DIRECTION = "fish\u202egpj.\u2066x\u2069\u200f"  # marks of the direction of writing, which a category may hold
STEERING = f"a\x1b]0;taken over\x07\x1b[2J\x9b3m\x08\x7f\r{DIRECTION}"  # a title, a cleared screen, C1, backspace
STEERING_LINES = f"{STEERING}\nerror: all is lost\u2028\udcff"

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # rich's own


def assert_harmless(printed, *shown):
    """All that was printed may stand on a terminal; of each of `shown`, the escaped form is there."""
    text = _COLOURS.sub("", printed)
    assert not {sign for sign in text if sign != "\n" and not sign.isprintable()}, text
    for part in shown:
        assert part in text, text
