"""Number figures and exercises by chapter, as *Exercise 1.2*; a Sphinx extension that `_config.yml` names.

The title of a chapter begins with its number. Without this extension, Sphinx would count through the whole book.
"""

from __future__ import annotations

import re
from typing import Any

TITLE = re.compile(r"(\d+[a-z]?)\. ")


def _number_by_chapter(app: Any, env: Any) -> list[str]:
    for page, numbered in env.toc_fignumbers.items():
        chapter = TITLE.match(env.titles[page].astext())
        if chapter:
            for anchors in numbered.values():
                for place, anchor in enumerate(anchors, start=1):
                    anchors[anchor] = (chapter[1], place)
    return []


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("env-get-updated", _number_by_chapter, priority=900)  # runs after Sphinx's own numbering
    return {"parallel_read_safe": True, "parallel_write_safe": True}
