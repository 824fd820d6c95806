"""Nothing half-written under a final name: write aside, then rename."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_file(path: Path | str, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing; it takes `path`'s place when the block ends without an error.

    Text is UTF-8 with "\\n" line ends unless `options` (those of `open`) say otherwise. An error, an interrupt or a
    full disk leaves whatever stood at `path` as it was.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        OSError: the disk is full or not writable.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n"} | options
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file for people and programs: UTF-8, indented by one space, one line end; whole or not at all.

    Raises:
        TypeError, ValueError: `value` holds something that JSON has no word for, NaN and infinity among it.
        OSError: as `atomic_file`.
    """
    with atomic_file(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")


def check_free(path: Path | str, overwrite: bool = False) -> None:
    """Refuse to replace a file or a folder unless the caller asked for it.

    Raises:
        FileExistsError: something stands at `path`, and `overwrite` is off.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; choose another name, or pass --overwrite to replace it")


@contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False, replaceable: str = "(?s).*") -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes `path`'s place when the block ends without an error.

    The folder aside is `.NAME.partial`. A killed run leaves it there, and the next run on the same `path` removes it
    first.

    Args:
        path: must not exist, or be an empty folder, unless `overwrite`. Of a link, the folder that it leads to.
        overwrite: replace a folder that exists; the old one stays whole until the new one is.
        replaceable: a regular expression for the files that may be replaced, with "/" between folders.

    Raises:
        FileExistsError: `path` holds something and `overwrite` is off, or a file that is not `replaceable`.
        ValueError: `path` is the working folder, or a disk of its own.
        OSError: the disk is full or not writable.
    """
    path = Path(os.path.realpath(path))
    if os.path.ismount(path) or path == Path.cwd():
        raise ValueError(f"{path} cannot be put in place as a whole; name a folder inside it")
    partial, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("partial", "old"))
    if old.exists() and not path.exists():  # a run was killed between the two renames below
        os.replace(old, path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; expected a folder to write into")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(f"{path} is not empty; choose another folder, or pass --overwrite to replace it")
    files = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    if stranger := min((file for file in files if not re.fullmatch(replaceable, file)), default=None):
        raise FileExistsError(f"{path} holds {stranger}, which is not of an earlier result; choose another folder")
    for leftover in (partial, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    try:
        partial.mkdir(parents=True)
    except OSError as error:  # name the caller's folder, not ours
        raise type(error)(error.errno, f"no folder can be made there ({error.strerror})", str(path)) from None
    try:
        yield partial
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
