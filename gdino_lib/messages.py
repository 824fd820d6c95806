"""Turn errors into one line of text, and make text safe for a terminal."""

from __future__ import annotations

import math


def printable(text: object) -> str:
    """Escape the characters of a text that would steer a terminal, or that a reader would not see.

    Names in other people's files can hold control characters, escape sequences and marks of writing direction. The result
    shows each of these characters by its code, for example "\\x1b" or "\\u202e".
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def one_line(message: object) -> str:
    """The text of a message or an error on one line, safe for a terminal."""
    return printable(" ".join(str(message).split()))


def shortened(text: str, most: int = 40) -> str:
    """A text of at most `most` characters: the text itself, or its beginning and "..."."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(value: object) -> str:
    """A value as a message shows it: on one line of at most 100 characters.

    Python refuses to print a number of more than 4,300 digits, so the number of its digits stands for a long number.
    """
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"a number of about {int(math.log10(abs(value))) + 1} digits"
    return one_line(repr(value))[:100]


def reason(error: BaseException) -> str:
    """The type of an error and its text on one line: "ValueError: no size"."""
    return one_line(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text; for an error without text, the name of its type."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].strip()) if lines else type(error).__name__
