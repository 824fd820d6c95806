"""Execute the chapters again if their outputs may have changed; a Sphinx extension that `_config.yml` names.

Jupyter Book caches the outputs of a notebook under a hash of the notebook's own code. After a change of the library or of
the data, it would still show the old outputs. Therefore the cache is in a folder whose name is a hash of everything that the
outputs depend on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_prep", "gdino_lib")
SUFFIXES = (".py", ".cpp", ".inc", ".cu", ".cuh", ".safetensors")  # chapter 3b prints the kernels, chapter 0 runs nano
VARIABLES = ("FACE_MASK_DIR", "GDINO_BERT", "GDINO_OPS")  # environment variables that change a chapter's outputs


def fingerprint(root: Path = ROOT) -> str:
    """Sixteen hexadecimal digits that change with the sources, the figures' style, the stored measurements and the data."""
    sources = (path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in SUFFIXES)
    files = sorted(sources)
    digest = hashlib.sha256()
    measured = sorted((root / "book" / "data").glob("*.json"))  # chapters draw these measurements
    measured = [path for path in measured if path.name != "chapter_seconds.json"]
    for path in [*files, root / "book" / "gdino.mplstyle", *measured]:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for name in VARIABLES:
        digest.update(f"{name}={os.environ.get(name, '')}\0".encode())
    return digest.hexdigest()[:16]


def _configure(app: Any, config: Any) -> None:
    # the kernels inherit this variable, which hides the live widgets: their scripts would come from a CDN
    os.environ["GDINO_BOOK_BUILD"] = "1"
    folder = Path(app.outdir).parent / ".jupyter_cache"
    current = folder / fingerprint()
    for other in folder.glob("*"):
        if other != current:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    # Sphinx reads all pages again if this setting has changed since its last run
    config.nb_execution_cache_path = str(current)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("config-inited", _configure, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
