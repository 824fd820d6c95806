"""From what stands on the command line to files: folders searched, patterns expanded, a name for each."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.pictures import IMAGE_SUFFIXES
from gdino_lib.messages import one_line

# beside `IMAGE_SUFFIXES` what folders are searched for; a file that is named itself is read whatever it is called
FILMS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
LONGEST_NAME = 200  # bytes; file systems allow 255, and what is written aside has a longer name


@dataclass(frozen=True)
class InputFile:
    """A file to detect in.

    Attributes:
        path: as it was given or found.
        name: its path within the common folder of all inputs, "/" between folders, as tables can hold it; no two alike.
        drawn: the path of its drawn copy within the folder of results; no two alike, whatever the file system thinks of
            letter case.
    """

    path: str
    name: str
    drawn: str

    @property
    def is_film(self) -> bool:
        """True if its name is a film's."""
        return _suffix(self.path) in FILMS


def find_input_files(inputs: Iterable[str], out: Path) -> tuple[list[InputFile], list[tuple[str, str]]]:
    """The files that `inputs` name, each once: inputs in their order, what a folder or a pattern holds by name.

    Args:
        inputs: files; folders, searched with all folders in them but hidden ones; patterns such as "photos/**/*.jpg".
        out: a folder that is not searched.

    Returns:
        (files, [(an input of no use, the reason in one line)]).
    """
    found: dict[str, str] = {}  # absolute path -> path as given
    roots: set[str] = set()
    useless = []
    for given in inputs:
        try:
            files = _expand(given, out)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            useless.append((given, f"{given!r}: {one_line(error)}"))
            continue
        is_folder = os.path.isdir(given)
        for path in files:
            found.setdefault(os.path.abspath(path), path)
            roots.add(os.path.abspath(given) if is_folder else os.path.dirname(os.path.abspath(path)))
    try:
        root = os.path.commonpath(roots) if roots else ""
    except ValueError:  # several drives of Windows
        root = ""
    names: set[str] = set()
    result = []
    for absolute, path in found.items():
        relative = os.path.relpath(absolute, root) if root else os.path.basename(path)
        name = _free_name(PurePosixPath(plain_text(Path(relative).as_posix())), names, str)
        result.append((path, name))
    drawn: set[str] = set()
    return [InputFile(path, name, _drawn_path(path, name, drawn)) for path, name in result], useless


def plain_text(text: str) -> str:
    """`text` with "_" for what UTF-8, one line, or a path in a table cannot hold."""
    plain = "".join(
        "_" if letter == "\\" or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text
    )
    return plain[:1] + "_" + plain[2:] if plain[1:2] == ":" else plain


def _expand(given: str, out: Path) -> list[str]:
    if not given:
        raise ValueError("no name; expected an image, a folder, a film or a pattern")
    if os.path.isdir(given):
        files = _search(given, out)
        if not files:
            raise ValueError("no image and no film in this folder")
        return files
    if os.path.lexists(given):
        if os.path.exists(given) and not os.path.isfile(given):  # reading a pipe would wait for ever
            raise ValueError("expected an image file, got a pipe or a device")
        return [given]
    if not glob.has_magic(given):
        word = (
            ""
            if os.path.basename(given) != given or _suffix(given)
            else ' (a word of a phrase? "remote control" takes quotes)'
        )
        raise FileNotFoundError(f"no such file; expected an image, a folder, a film or a pattern{word}")
    files = []
    matches = sorted(glob.glob(given, recursive=True))
    for path in matches:
        if os.path.isfile(path):
            files.append(path)
        elif os.path.isdir(path) and "**" not in given:  # "**" goes into it by itself
            files += _search(path, out)
    if not files:
        found = "holds no image and no film" if matches else "matches no file"
        raise FileNotFoundError(f"this pattern {found}")
    return files


def _search(folder: str, out: Path) -> list[str]:
    files = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] != "." and Path(os.path.realpath(os.path.join(here, f))) != out)
        files += [os.path.join(here, n) for n in sorted(names) if n[0] != "." and _suffix(n) in IMAGE_SUFFIXES | FILMS]
    return [path for path in files if os.path.isfile(path)]


def _drawn_path(path: str, name: str, taken: set[str]) -> str:
    kept = {".mp4"} if _suffix(path) in FILMS else {".jpg", ".jpeg", ".png"}
    added = "" if _suffix(name) in kept else ".mp4" if _suffix(path) in FILMS else ".png"
    target = PurePosixPath(name)
    suffix = added or target.suffix
    stem = target.name if added else target.stem
    while len((stem + suffix).encode()) > LONGEST_NAME:
        stem = stem[:-1]
    return _free_name(
        target.with_name(stem + suffix), taken, lambda text: unicodedata.normalize("NFC", text).casefold()
    )


def _free_name(path: PurePosixPath, taken: set[str], key: Callable[[str], str]) -> str:
    """`path`, or `path` with a number, so that its key is not among those `taken`, where it is put."""
    numbered, number = path, 1
    while key(str(numbered)) in taken:
        number += 1
        numbered = path.with_name(f"{path.stem}-{number}{path.suffix}")
    taken.add(key(str(numbered)))
    return str(numbered)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
