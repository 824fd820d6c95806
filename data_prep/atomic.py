"""Files and folders that appear under their final names only when they are complete.

Each is written aside, under a temporary name in the same folder, and renamed at the end.
"""

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
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock, Timeout

WAIT = 0.5  # seconds that a second run waits for the lock, in case the first run is about to end
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # errors of network disks that have no locks
MANIFEST = ".data_prep.json"
"""Name of the file in which a run lists the files that it wrote into a folder; see `write_manifest`."""


@contextmanager
def atomic_file(path: Path | str, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, and rename it to `path` when the block ends without an error.

    Text is UTF-8 with "\\n" line ends unless `options` (those of `open`) say otherwise. After an error, an interrupt or
    on a full disk, an existing file at `path` is unchanged.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: the disk is full or not writable.
    """
    with atomic_files(path, mode=mode, **options) as (file,):
        yield file


@contextmanager
def atomic_files(*paths: Path | str, mode: str = "w", **options: Any) -> Iterator[tuple[IO[Any], ...]]:
    """Open files that belong together, as `atomic_file` does: either all of them are renamed to their paths, or none.

    If a run is killed between two of the renames, the last of `paths` does not exist afterwards.

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
    together = only_writer(targets[-1]) if len(targets) > 1 else nullcontext()  # one rename needs no lock
    with together, ExitStack() as stack:
        asides, files = [], []
        for path in targets:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
            asides.append(Path(name))
            stack.callback(asides[-1].unlink, missing_ok=True)
            files.append(stack.enter_context(os.fdopen(descriptor, mode, **options)))
        yield tuple(files)
        for file, aside in zip(files, asides, strict=True):  # a full disk fails here, before the first rename
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.chmod(aside, 0o666 & ~_umask())
        _put_in_place(asides, targets)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file for people and programs, completely or not at all: UTF-8, indented by one space, one last "\\n".

    Raises:
        TypeError, ValueError: JSON cannot represent `value`; NaN and infinity are refused, too.
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
        FileExistsError: `path` exists, and `overwrite` is False.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; choose another name, or pass --overwrite to replace it")


@contextmanager
def reserved(path: Path | str, overwrite: bool = False) -> Iterator[None]:
    """Refuse an existing `path`, as `check_free` does, and keep other runs from writing it while the block runs.

    Raises:
        FileExistsError: as `check_free`; BlockingIOError, OSError: as `only_writer`.
    """
    path = Path(path)
    check_free(path, overwrite)
    # not `.NAME.lock`: the function that writes takes that lock inside the block
    lock = only_writer(path, path.with_name(f".{path.name}.reserved")) if path.parent.is_dir() else nullcontext()
    with lock:
        check_free(path, overwrite)  # a run that has just ended may have written it
        yield


@contextmanager
def only_writer(path: Path, lock: Path | None = None) -> Iterator[None]:
    """Lock `path` while the block runs, against all other runs that use this function.

    The system releases the lock when the process ends, even if it is killed. On a disk without locks, the function warns
    and goes on.

    Args:
        path: a file or a folder, which need not exist.
        lock: the file to lock, in a folder that exists; by default `.NAME.lock` beside `path`. It is removed at the
            end.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the folder of the lock file is not writable.
    """
    file = lock or path.with_name(f".{path.name}.lock")
    held = FileLock(file, timeout=WAIT, thread_local=False)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(
            f"{path}: another run is writing there; wait until it ends or choose another name"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
        warnings.warn(f"{path}: this disk has no locks; do not start a second run that writes there", stacklevel=3)
    try:
        yield
    finally:
        if os.name == "posix":  # before the release: filelock notices a removed file; Windows removes it itself
            file.unlink(missing_ok=True)
        held.release()


@contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False, replaceable: str | Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder beside `path`, and rename it to `path` when the block ends without an error.

    The empty folder is `.NAME.partial`. If a run is killed, this folder remains; the next run on the same `path` removes
    it first.

    Args:
        path: a folder that does not exist or is empty, unless `overwrite`. If `path` is a link, the folder that it leads to
            is meant.
        overwrite: replace an existing folder; the old folder stays complete until the new one is.
        replaceable: the files that `overwrite` may remove, with "/" between folders: a regular expression, or names such
            as those of `read_manifest`. If the folder holds any other file, even one added while the block runs, the
            folder stays as it is.

    Raises:
        BlockingIOError: another process is writing the folder.
        FileExistsError: `path` is not empty and `overwrite` is False, or it holds a file that is not `replaceable`.
        ValueError: `path` is the working folder, or a disk of its own.
        OSError: the disk is full or not writable.
    """
    path = Path(os.path.realpath(path))
    if os.path.ismount(path) or path == Path.cwd():
        raise ValueError(f"{path} cannot be replaced as a whole; name a folder inside it")
    partial, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("partial", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # the error names the parent; the message must name `path`
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno or errno.EIO
        raise OSError(number, f"cannot create the folder ({os.strerror(number)})", str(path)) from None
    with only_writer(path):
        if old.exists() and not path.exists():  # a run was killed between the two renames below
            os.replace(old, path)
        check_replaceable(path, overwrite, replaceable)
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir()
        try:
            yield partial
            check_replaceable(path, overwrite, replaceable)
            if path.exists():
                os.replace(path, old)
            os.replace(partial, path)
        except BaseException:
            if old.exists() and not path.exists():
                os.replace(old, path)
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def check_replaceable(path: Path | str, overwrite: bool, replaceable: str | Collection[str]) -> None:
    """Refuse a folder that `atomic_folder` would refuse with the same arguments.

    Raises:
        FileExistsError: as `atomic_folder`, or `path` is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; expected a folder to write into")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(f"{path} is not empty; choose another folder, or pass --overwrite to replace it")
    if foreign := other_file(path, replaceable):
        raise FileExistsError(f"{path} holds {foreign}, which no run wrote; choose another folder")


def write_manifest(folder: Path) -> None:
    """List all files below a folder in its `MANIFEST`, so that a later run knows which files it may replace."""
    write_json(folder / MANIFEST, {"files": sorted([*_files_below(folder), MANIFEST])})


def read_manifest(folder: Path | str) -> frozenset[str]:
    """The files that a run wrote into a folder, "/" between folders; none if the folder has no readable `MANIFEST`."""
    try:
        document = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        return frozenset(name for name in document["files"] if isinstance(name, str))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def other_file(folder: Path, known: str | Collection[str]) -> str | None:
    """The first file below a folder whose name is not known, "/" between folders; links count as files.

    Args:
        known: a regular expression, or names.
    """
    is_known = re.compile(known).fullmatch if isinstance(known, str) else known.__contains__
    return min((name for name in _files_below(folder) if not is_known(name)), default=None)


def _files_below(folder: Path) -> Iterator[str]:
    """Names of all files and links below a folder, "/" between folders; none if the folder does not exist.

    Raises:
        OSError: a folder cannot be listed, so nobody knows what it holds.
    """

    def fail(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, onerror=fail) if folder.is_dir() else ():
        inside = PurePosixPath(Path(os.path.relpath(here, folder)).as_posix())
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        yield from (str(inside / name) for name in (*files, *links))


def _put_in_place(asides: Sequence[Path], paths: Sequence[Path]) -> None:
    """Rename each file to its path. Several old files are moved aside first, and moved back if a rename fails."""
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
