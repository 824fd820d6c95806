"""Output of a run on the terminal: lines above the progress bar, boxes by phrase, each warning once."""

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
    """Print a line above the progress bar, with escapes for characters that are not printable.

    If the reader of a pipe has closed it (`gdino ... | head`), further lines are dropped and the work goes on.
    """
    target = sys.stdout if stream is None else stream
    try:
        tqdm.write(printable(line), file=target)
        target.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print warnings as lines on standard error, each warning once."""
    printed = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = one_line(message)
        if text not in printed:
            printed.add(text)
            print_line(f"warning: {text}", sys.stderr)

    with warnings.catch_warnings():
        # Pillow warns about large images, but images of 10,000 x 10,000 pixels are supported
        warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
        warnings.showwarning = show
        yield


def listed(counts: Counter[str]) -> str:
    """The number of boxes of each phrase, the most frequent phrase first: "3 cat, 1 remote control"."""
    return ", ".join(f"{count} {phrase}" for phrase, count in counts.most_common()) or "nothing found"
