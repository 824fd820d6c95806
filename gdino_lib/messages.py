"""Errors as one line of text, and texts that a terminal may show."""

from __future__ import annotations


def printable(text: object) -> str:
    """A text that a terminal may show: signs that steer it, or that nobody sees, are escaped.

    Control characters, escape sequences and marks of the direction of writing come from names in other people's files. They
    become "\\x1b", "\\u202e".
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text))


def one_line(message: object) -> str:
    """The text of a message or an error, without line breaks, as a terminal may show it."""
    return printable(" ".join(str(message).split()))


def reason(error: BaseException) -> str:
    """The kind of an error and its text, without line breaks: "ValueError: no size"."""
    return one_line(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the kind of an error without text."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].strip()) if lines else type(error).__name__
