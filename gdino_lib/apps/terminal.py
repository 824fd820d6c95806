"""What a run says on the terminal: lines above its progress bar, counts in words, each warning once."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from gdino_lib.messages import one_line, printable


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Print above the progress bar, escaped where it must be (`gdino_lib.messages.printable`).

    A reader of our output who has seen enough does not end the work.
    """
    target = sys.stdout if stream is None else stream
    try:
        tqdm.write(printable(line), file=target)
        target.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Warnings go to standard error as lines, each once."""
    said = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = one_line(message)
        if text not in said:
            said.add(text)
            print_line(f"warning: {text}", sys.stderr)

    with warnings.catch_warnings():
        # Pillow's of large images: 10,000 x 10,000 pixels are welcome
        warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
        warnings.showwarning = show
        yield


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun: "1 box", "2 boxes"."""
    return f"{count} {one if count == 1 else many}"


def listed(counts: Counter[str]) -> str:
    """How often each phrase was found, the most frequent first: "3 cat, 1 remote control"."""
    return ", ".join(f"{count} {phrase}" for phrase, count in counts.most_common()) or "nothing found"
