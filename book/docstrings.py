"""Adapt our docstrings to what Sphinx expects on the reference pages; a Sphinx extension that `_config.yml` names."""

from __future__ import annotations

import re
from typing import Any

COLON = "\ue000"  # replaces a colon while napoleon reads the text
PLURAL = re.compile(r"(`[\w.]+`)(?=\w)")  # "`Layer`s": reStructuredText needs an escape after the closing quote
SEVERAL_NAMES = re.compile(r"^\s+\w+(?:, \w+)+: ")


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    # in "True when ...: more", napoleon would take the words before the colon for a type
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)
    # "x1, y1: edges" would become a field named `y1` of type `x1,`
    lines[:] = [SEVERAL_NAMES.sub(lambda names: names[0].replace(", ", ","), line) for line in lines]
    lines[:] = [PLURAL.sub(r"\1\\ ", line) for line in lines]


def _restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def _signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, result: str) -> tuple[str, str]:
    # "<factory>" is not valid Python; because of it, Sphinx would link nothing in the signature
    signature = (signature or "").replace("<factory>", "...")
    # Sphinx cannot resolve a type that is imported only for type checkers, so give its full name
    return signature.replace("data_prep.Dataset", "~data_prep.records.Dataset"), result


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon (priority 500)
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
