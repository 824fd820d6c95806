"""Errors as one line of text."""

from __future__ import annotations


def one_line(message: object) -> str:
    """The text of a message or an error, without line breaks."""
    return " ".join(str(message).split())


def reason(error: BaseException) -> str:
    """The kind of an error and its text, without line breaks: "ValueError: no size"."""
    return one_line(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the kind of an error without text."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
