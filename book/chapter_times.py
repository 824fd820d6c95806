"""Measure how long chapters take: `.venv/bin/python book/chapter_times.py`, after `make book` on a quiet machine.

The script writes the seconds of the last build into `book/data/chapter_seconds.json`. It writes the seconds to run and the
minutes to read into the chapters' *Before you start*. If the build did not execute a chapter, its stored seconds stay.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parent
STORED = BOOK / "data" / "chapter_seconds.json"
CACHE = BOOK.parent / "_build" / ".jupyter_cache"
COMMAND = "make book && .venv/bin/python book/chapter_times.py"
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 20  # reading speed for prose and for code
SENTENCE = re.compile(r"Reading takes about \*\*\d+ minutes\*\*[^.]*\.")  # matches every wording of the sentence


def minutes_to_read(chapter: Path) -> int:
    """Minutes to read the prose and the visible code, rounded up to a multiple of five."""
    cells = json.loads(chapter.read_text("utf-8"))["cells"]
    words = sum(len("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown")
    hidden = {"remove-cell", "hide-cell", "hide-input", "remove-input"}
    shown = [c for c in cells if c["cell_type"] == "code" and not hidden & set(c["metadata"].get("tags", []))]
    lines = sum(bool(line.strip()) for cell in shown for line in "".join(cell["source"]).splitlines())
    return _next_five(words / WORDS_A_MINUTE + lines / LINES_A_MINUTE)


def sentence(chapter: Path, seconds: float) -> str:
    """The sentence in *Before you start* for a chapter that takes `seconds` to run."""
    run = _next_five(seconds)
    return f"Reading takes about **{minutes_to_read(chapter)} minutes**, running about **{run} seconds** on two cores."


def measured_seconds(cache: Path = CACHE) -> dict[str, float]:
    """Seconds that the last build took to execute each chapter, by the chapter's file name without suffix."""
    from jupyter_cache import get_cache

    seconds = {}
    for folder in sorted(cache.glob("*/")):  # a single folder; its name is a hash of all that the chapters depend on
        for record in get_cache(folder).list_cache_records():
            if re.match(r"\d\d", Path(record.uri).name):
                seconds[Path(record.uri).stem] = round(record.data["execution_seconds"], 1)
    return seconds


def write_into(chapter: Path, seconds: float) -> None:
    """Put the figures into the chapter's sentence.

    Raises:
        ValueError: the chapter has no such sentence, or several.
    """
    old = chapter.read_text("utf-8")
    new, count = SENTENCE.subn(sentence(chapter, seconds), old)
    if count != 1:
        raise ValueError(f"{chapter}: expected one sentence 'Reading takes about **N minutes** ...', found {count}")
    if new != old:
        chapter.write_text(new, "utf-8")


def _next_five(value: float) -> int:
    return max(5, 5 * math.ceil(value / 5))


def main() -> None:
    """Measure the times, store them, and write them into the chapters."""
    stored = json.loads(STORED.read_text("utf-8"))["seconds"] if STORED.exists() else {}
    measured = stored | measured_seconds()
    chapters = {path.stem: path for path in sorted(BOOK.glob("[0-9][0-9]*.ipynb"))}
    seconds = {name: measured[name] for name in chapters if name in measured}
    machine = f"{platform.machine()} CPU, {os.cpu_count()} cores, Python {platform.python_version()}"
    about = {"command": COMMAND, "on": machine, "seconds": seconds}
    STORED.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    for name in seconds:
        write_into(chapters[name], seconds[name])
    print(f"{len(seconds)} chapters, {sum(seconds.values()):.0f} s in all")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
