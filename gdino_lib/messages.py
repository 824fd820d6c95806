"""Errors as one line of text."""

from __future__ import annotations


def one_line(message: object) -> str:
    """The text of a message or an error, without line breaks."""
    return " ".join(str(message).split())


def reason(error: BaseException) -> str:
    """The kind of an error and its text, without line breaks: "ValueError: no size"."""
    return one_line(f"{type(error).__name__}: {error}")
