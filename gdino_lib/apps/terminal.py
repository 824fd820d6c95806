"""What a run says on the terminal: lines above its progress bar, counts in words, each warning once."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from PIL import Image
from tqdm import tqdm

from gdino_lib.messages import one_line


def print_line(line: str, stream: TextIO | None = None) -> None:
    """Print above the progress bar; a reader of our output who has seen enough does not end the work."""
    target = sys.stdout if stream is None else stream
    try:
        tqdm.write(line, file=target)
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
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # 10,000 x 10,000 pixels are welcome
        warnings.showwarning = show
        yield


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun: "1 box", "2 boxes"."""
    return f"{count} {one if count == 1 else many}"


def listed(counts: Counter[str]) -> str:
    """How often each phrase was found, the most frequent first: "3 cat, 1 remote control"."""
    return ", ".join(f"{count} {printable(phrase)}" for phrase, count in counts.most_common()) or "nothing found"


def printable(text: str) -> str:
    """A text as it may stand on a terminal, in quotes and escaped where it has control characters."""
    return text if text.isprintable() else repr(text)
