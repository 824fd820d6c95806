"""Nothing half-written under a final name: write aside, then rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

WAIT = 0.5  # seconds for which a second run waits: the first may be about to end
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # some network disks


@contextmanager
def atomic_file(path: Path | str, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing; it takes `path`'s place when the block ends without an error.

    Text is UTF-8 with "\\n" line ends unless `options` (those of `open`) say otherwise. An error, an interrupt or a
    full disk leaves whatever stood at `path` as it was.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: the disk is full or not writable.
    """
    with atomic_files(path, mode=mode, **options) as (file,):
        yield file


@contextmanager
def atomic_files(*paths: Path | str, mode: str = "w", **options: Any) -> Iterator[tuple[IO[Any], ...]]:
    """Open files that belong together, as `atomic_file` does: all of them take their places, or none.

    A run that is killed between two of the renames leaves the last of `paths` absent.

    Raises:
        BlockingIOError: another process is writing the same files.
        FileNotFoundError, IsADirectoryError, OSError: as `atomic_file`.
    """
    targets = [Path(path) for path in paths]
    for path in targets:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "\n"} | options
    together = only_writer(targets[-1]) if len(targets) > 1 else nullcontext()  # a single file is whole anyway
    with together, ExitStack() as stack:
        asides, files = [], []
        for path in targets:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
            asides.append(Path(name))
            stack.callback(asides[-1].unlink, missing_ok=True)
            files.append(stack.enter_context(os.fdopen(descriptor, mode, **options)))
        yield tuple(files)
        for file, aside in zip(files, asides, strict=True):  # a full disk shows here, before anything is renamed
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.chmod(aside, 0o666 & ~_umask())
        _put_in_place(asides, targets)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file for people and programs: UTF-8, indented by one space, one line end; whole or not at all.

    Raises:
        TypeError, ValueError: `value` holds something that JSON has no word for, NaN and infinity among it.
        OSError: as `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """The text that `write_json` writes.

    Raises:
        TypeError, ValueError: as `write_json`.
    """
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def check_free(path: Path | str, overwrite: bool = False) -> None:
    """Refuse to replace a file or a folder unless the caller asked for it.

    Raises:
        FileExistsError: something stands at `path`, and `overwrite` is off.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; choose another name, or pass --overwrite to replace it")


@contextmanager
def reserved(path: Path | str, overwrite: bool = False) -> Iterator[None]:
    """Refuse what exists, as `check_free`, and let no other run put anything there while the block runs.

    Raises:
        FileExistsError: as `check_free`; BlockingIOError, OSError: as `only_writer`.
    """
    path = Path(path)
    check_free(path, overwrite)
    # a lock of another name than the one that the writing itself takes
    lock = only_writer(path, path.with_name(f".{path.name}.reserved")) if path.parent.is_dir() else nullcontext()
    with lock:
        check_free(path, overwrite)  # by a run that has just ended
        yield


@contextmanager
def only_writer(path: Path, lock: Path | None = None) -> Iterator[None]:
    """Keep other processes from writing at `path` while the block runs, if they ask in the same way.

    The system releases the lock when its process ends, killed or not. A disk without locks gets a warning instead.

    Args:
        path: a file or a folder, which need not exist.
        lock: the file to lock, in a folder that exists; by default `.NAME.lock` beside `path`. It is removed at the end.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: the lock's folder is not writable.
    """
    file = lock or path.with_name(f".{path.name}.lock")
    held = FileLock(file, timeout=WAIT, thread_local=False)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(
            f"{path}: another run is writing there; wait for its end or choose another name"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
        warnings.warn(f"{path}: its disk has no locks; start no second run that writes there", stacklevel=3)
    try:
        yield
    finally:
        if os.name == "posix":  # while it is held: who locks a removed file notices; Windows removes it by itself
            file.unlink(missing_ok=True)
        held.release()


@contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False, replaceable: str | Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes `path`'s place when the block ends without an error.

    The folder aside is `.NAME.partial`. A killed run leaves it there, and the next run on the same `path` removes it
    first.

    Args:
        path: must not exist, or be an empty folder, unless `overwrite`. Of a link, the folder that it leads to.
        overwrite: replace a folder that exists; the old one stays whole until the new one is.
        replaceable: the files that `overwrite` may remove, with "/" between folders: a regular expression, or their
            names. Any other file, be it new since the block began, stays, and so does the folder.

    Raises:
        BlockingIOError: another process is writing the folder.
        FileExistsError: `path` holds something and `overwrite` is off, or a file that is not `replaceable`.
        ValueError: `path` is the working folder, or a disk of its own.
        OSError: the disk is full or not writable.
    """
    path = Path(os.path.realpath(path))
    if os.path.ismount(path) or path == Path.cwd():
        raise ValueError(f"{path} cannot be put in place as a whole; name a folder inside it")
    partial, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("partial", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # name the caller's folder, not ours
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno or errno.EIO
        raise OSError(number, f"no folder can be made there ({os.strerror(number)})", str(path)) from None
    with only_writer(path):
        if old.exists() and not path.exists():  # a run was killed between the two renames below
            os.replace(old, path)
        _check_replaceable(path, overwrite, replaceable)
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir()
        try:
            yield partial
            _check_replaceable(path, overwrite, replaceable)
            if path.exists():
                os.replace(path, old)
            os.replace(partial, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def other_file(folder: Path, known: str | Collection[str]) -> str | None:
    """The first file below a folder, links included, that is none of the known ones; with "/" between folders.

    Args:
        known: a regular expression, or names.
    """
    is_known = re.compile(known).fullmatch if isinstance(known, str) else known.__contains__
    files = (file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    names = (file.relative_to(folder).as_posix() for file in files)
    return min((name for name in names if not is_known(name)), default=None)


def _check_replaceable(path: Path, overwrite: bool, replaceable: str | Collection[str]) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; expected a folder to write into")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(f"{path} is not empty; choose another folder, or pass --overwrite to replace it")
    if stranger := other_file(path, replaceable):
        raise FileExistsError(f"{path} holds {stranger}, which is not of an earlier result; choose another folder")


def _put_in_place(asides: Sequence[Path], paths: Sequence[Path]) -> None:
    """Rename each file to its place. Of several, the old ones go first and come back if a rename fails."""
    if len(paths) == 1:
        os.replace(asides[0], paths[0])
        return
    olds, placed = [], []
    try:
        for path in reversed(paths):
            if path.exists():
                old = path.with_name(f".{path.name}.old")
                os.replace(path, old)
                olds.append((old, path))
        for aside, path in zip(asides, paths, strict=True):
            os.replace(aside, path)
            placed.append(path)
    except BaseException:
        for path in placed:
            path.unlink()
        for old, path in olds:
            os.replace(old, path)
        raise
    for old, _ in olds:
        with suppress(OSError):
            old.unlink()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
