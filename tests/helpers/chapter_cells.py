"""Read and execute single cells of a chapter."""

import json
import os
from collections.abc import Sequence
from pathlib import Path


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def execute(notebook: Path, needed: Sequence[str], **names) -> dict:
    """Execute, for each text of `needed`, the first cell that contains it; returns the names that the cells define."""
    cells = code_cells(notebook)
    names |= {"__name__": "chapter", "display": lambda *_: None}
    here = os.getcwd()
    try:
        os.chdir(notebook.parent)
        for piece in needed:
            exec(compile(next(cell for cell in cells if piece in cell), notebook.name, "exec"), names)
    finally:
        os.chdir(here)
    return names


def check_live_cell(notebook: Path, live: str, names: dict, monkeypatch) -> None:
    """Check that the cell with the widgets calls `live` for a reader, but shows nothing while the book is built."""
    cell = next(cell for cell in code_cells(notebook) if cell.startswith("LIVE ="))
    shown = []
    names = names | {live: lambda *_: live, "display": shown.append}
    monkeypatch.setenv("GDINO_BOOK_BUILD", "1")
    exec(cell, names)
    assert not shown
    monkeypatch.delenv("GDINO_BOOK_BUILD")
    exec(cell, names)
    assert shown == [live]
