"""Print and write the figures of a benchmark."""

from __future__ import annotations

import json
import os
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


def report(figures: Any, path: Path | None) -> None:
    """Print figures as JSON, and write them to `path` if there is one."""
    print(json.dumps(figures, indent=1))
    if path:
        write_json(path, figures)
