"""Print and write the figures of a benchmark."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.atomic import write_json

MOST_LOAD = 0.5  # highest load average of the last minute at which figures of time are measured


def load_of_quiet_machine() -> float:
    """The load average of the last minute.

    Raises:
        SystemExit: it is above `MOST_LOAD`.
    """
    load = os.getloadavg()[0]
    if load > MOST_LOAD:
        raise SystemExit(f"the machine is busy: its load is {load:.2f}, expected at most {MOST_LOAD}")
    return load


def times_in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, `repeats` times: in turns, because other programs share the machine, after a round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name in sorted(runs, reverse=bool(turn % 2)):
            start = time.perf_counter()
            runs[name]()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(figures: Any, path: Path | None) -> None:
    """Print figures as JSON, and write them to `path` if there is one."""
    print(json.dumps(figures, indent=1))
    if path:
        write_json(path, figures)
