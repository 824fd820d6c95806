"""Print and write the figures of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.atomic import write_json


def report(figures: Any, path: Path | None) -> None:
    """Print figures as JSON, and write them to `path` if there is one."""
    print(json.dumps(figures, indent=1))
    if path:
        write_json(path, figures)
