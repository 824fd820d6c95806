"""Find the weights of a model: at a path, in this package, or on the Hugging Face hub.

Large packages are imported only where they are needed, so that a wrong name is refused at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from gdino_lib.messages import first_line

HUB = {  # our name: (repository on the Hugging Face hub, commit to fetch)
    "tiny": ("IDEA-Research/grounding-dino-tiny", "a2bb814dd30d776dcf7e30523b00659f4f141c71"),
    "base": ("IDEA-Research/grounding-dino-base", "12bdfa3120f3e7ec7b434d90674b3396eccf88eb"),
}
FILES = ("config.json", "model.safetensors")  # the files of a repository that are fetched
NANO = Path(__file__).parents[1] / "assets" / "nano"


def names() -> list[str]:
    """The names of the models that this version can load."""
    return [*(["nano"] if any(NANO.glob("*.safetensors")) else []), *HUB]


def check(path_or_name: str | os.PathLike[str]) -> None:
    """Refuse what `locate` cannot locate, without asking the hub.

    Raises:
        TypeError: neither a name nor a path.
        FileNotFoundError: neither a file nor a known name; weights that this version lacks, or that were never released.
    """
    if not isinstance(path_or_name, str | os.PathLike):
        raise TypeError(f"model: expected a name or a path, got {type(path_or_name).__name__}")
    if path_or_name == "large":
        raise FileNotFoundError("the weights of 'large' (Swin-L) were never released; use 'base', or train your own")
    if path_or_name in names():
        return
    if path_or_name == "nano":
        raise FileNotFoundError(
            "the small model 'nano' is not part of this version; use --model tiny "
            "(in Python 'tiny'; fetched once, 0.7 GB), or a weight file"
        )
    if not Path(path_or_name).exists():
        known = ", ".join(names())
        raise FileNotFoundError(f"no weight file at {path_or_name}, and no model of that name; names are {known}")


def locate(path_or_name: str | os.PathLike[str]) -> Path:
    """The file or folder behind a path or a name; models on the hub are fetched, with progress, into its cache.

    The names are the strings "nano", "tiny", "base" and "large". Write "./tiny" for a folder that is called "tiny".

    Raises:
        TypeError: neither a name nor a path.
        FileNotFoundError: neither a file nor a known name; weights that cannot be fetched, that this version lacks, or that
            were never released.
    """
    check(path_or_name)
    if path_or_name == "nano":
        return NANO
    return _download(str(path_or_name)) if path_or_name in HUB else Path(path_or_name)


def _download(name: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = HUB[name]
    wanted = {"revision": revision, "allow_patterns": list(FILES)}
    try:
        folder = Path(snapshot_download(repository, local_files_only=True, **wanted))
        if all((folder / file).is_file() for file in FILES):
            return folder
    except LocalEntryNotFoundError:  # the cache has no file of this commit
        pass
    try:
        # first one request without retries: without a network, the download itself retries noisily for half a minute
        get_hf_file_metadata(hf_hub_url(repository, FILES[-1], revision=revision))
        return Path(snapshot_download(repository, **wanted))
    except Exception as error:  # versions of huggingface_hub use different HTTP libraries, each with its own errors
        raise FileNotFoundError(
            f"cannot fetch {name!r} from the Hugging Face hub ({first_line(error)}); without a network, download "
            f"{' and '.join(FILES)} of {repository} elsewhere, put them into a folder and pass its path"
        ) from None
