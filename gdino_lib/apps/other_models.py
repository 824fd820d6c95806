"""Models of other libraries: is there one at this path or of this name?"""

from __future__ import annotations

import os
import sys

from gdino_lib.messages import first_line


def check_model(path_or_name: str | os.PathLike[str], file: str, kind: str) -> str:
    """A folder, or a name on the Hugging Face hub, if a model can be there; without a network this takes no retries.

    Args:
        path_or_name: what the user gave.
        file: the file that every such model has, "model_index.json".
        kind: what is expected, for the message: "an inpainting pipeline".

    Raises:
        FileNotFoundError: no folder, and neither a name in the hub's cache nor one that the hub knows.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    source = os.fspath(path_or_name)
    if os.path.isdir(source):
        if not os.path.isfile(os.path.join(source, file)):
            raise FileNotFoundError(f"{source!r}: expected {kind}, found a folder without {file}")
        return source
    try:
        if not isinstance(try_to_load_from_cache(source, file), str):
            get_hf_file_metadata(hf_hub_url(source, file))
    except Exception as error:  # the hub's versions use one HTTP library or another, each with errors of its own
        raise FileNotFoundError(
            f"{source!r}: expected {kind}: no such folder, and no such name on the Hugging Face hub ({first_line(error)})"
        ) from None
    return source


def hide_progress_without_terminal() -> None:
    """Let `transformers` and `diffusers` show no progress bars where standard error is not a terminal."""
    if sys.stderr.isatty():
        return
    for library in ("transformers", "diffusers"):
        if library in sys.modules:
            sys.modules[library].utils.logging.disable_progress_bar()
