"""A check for `data_prep`, the package that is installed together with `gdino_lib` and that most of its parts import."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def require_data_prep() -> None:
    """Make sure that `import data_prep` imports the installed package, not a file of that name in the user's folder.

    Python searches the folder of a script, or the working folder, before it searches the installed packages.

    Raises:
        ImportError: another module of that name is found first, or none is found; one line, with the path that is found.
    """
    installed = Path(__file__).resolve().parents[1] / "data_prep"
    spec = find_spec("data_prep")
    if spec is None:
        raise ImportError("data_prep: expected the package installed with gdino_lib, found none; reinstall gdino_lib")
    folders = spec.submodule_search_locations  # None if the module is a single file
    found = Path(next(iter(folders)) if folders else spec.origin or "").resolve()
    if found != installed:
        raise ImportError(
            f"data_prep: expected the package installed with gdino_lib, found {found}, which shadows the package; "
            "rename that module, or run in another folder"
        )
