"""Turn the inputs of the command line into files: search folders, expand patterns, give each file a name."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_prep.findings import LEFT_OUT, Finding
from data_prep.pictures import IMAGE_SUFFIXES, TEXT_SUFFIXES, not_a_file, search
from gdino_lib.messages import one_line

# folders are searched for these suffixes and `IMAGE_SUFFIXES`; an input that is a file is read whatever its suffix is
FILMS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
LONGEST_NAME = 200  # bytes; file systems allow 255, and the names of temporary files are longer


@dataclass(frozen=True)
class InputFile:
    """A file to detect in.

    Attributes:
        path: the path as it was given or found.
        name: the path relative to the common folder of all inputs, "/" between folders, with "_" for characters that a table
            cannot hold. No two files have the same name.
        drawn: path of the drawn copy, relative to the folder of results. No two files have the same path, even on a file
            system that ignores letter case.
    """

    path: str
    name: str
    drawn: str

    @property
    def is_film(self) -> bool:
        """True if the suffix is that of a film."""
        return _suffix(self.path) in FILMS


class FoundFiles(NamedTuple):
    """What `find_input_files` has found.

    Attributes:
        files: the files to detect in.
        unusable: (an input, or a file in a folder; one line that says why it cannot be used) pairs.
        not_read: {folder or pattern as given: names of the files in it that are neither images nor films}; files that
            usually accompany images, such as .txt and .json, are not among them.
    """

    files: list[InputFile]
    unusable: list[tuple[str, str]]
    not_read: dict[str, list[str]]


def find_input_files(
    inputs: Iterable[str], out: Path, kept: frozenset[str] = frozenset({".jpeg", ".jpg", ".png"})
) -> FoundFiles:
    """Find the files that `inputs` name, each file once: inputs in their order, files of a folder or pattern by name.

    Args:
        inputs: files; folders, which are searched with their sub-folders, except hidden ones; patterns such as
            "photos/**/*.jpg".
        out: the folder of results, which is not searched.
        kept: suffixes of images whose drawn copies keep their names; the names of other images get ".png" added.
    """
    found: dict[str, str] = {}  # absolute path -> path as given
    roots: set[str] = set()
    unusable: list[tuple[str, str]] = []
    not_read: dict[str, list[str]] = {}
    for given in inputs:
        try:
            files, findings = _expand(given, out)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            unusable.append((given, f"{given!r}: {one_line(error)}"))
            continue
        for folder, finding in findings:
            path = os.path.join(folder, finding.file)
            if finding.action == LEFT_OUT:
                not_read.setdefault(given, []).append(finding.file if folder == given else path)
            else:
                unusable.append((path, f"{path!r}: {finding.detail}"))
        if not files:
            unusable.append((given, f"{given!r}: contains no image and no film"))
        is_folder = os.path.isdir(given)
        for path in files:
            found.setdefault(os.path.abspath(path), path)
            roots.add(os.path.abspath(given) if is_folder else os.path.dirname(os.path.abspath(path)))
    return FoundFiles(_named(found, roots, kept), unusable, not_read)


def _named(found: dict[str, str], roots: set[str], kept: frozenset[str]) -> list[InputFile]:
    """Name files, {absolute path: path as given}, relative to the common folder of `roots`."""
    try:
        root = os.path.commonpath(roots) if roots else ""
    except ValueError:  # several drives of Windows
        root = ""
    names: set[str] = set()
    drawn: set[str] = set()
    result = []
    for absolute, path in found.items():
        relative = os.path.relpath(absolute, root) if root else os.path.basename(path)
        result.append((path, free_name(PurePosixPath(plain_text(Path(relative).as_posix())), names, str)))
    return [InputFile(path, name, _drawn_path(path, name, drawn, kept)) for path, name in result]


def plain_text(text: str) -> str:
    """`text` with "_" for each character that UTF-8, a single line, or a path in a table cannot hold."""
    plain = "".join(
        "_" if letter == "\\" or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text
    )
    return plain[:1] + "_" + plain[2:] if plain[1:2] == ":" else plain


def _expand(given: str, out: Path) -> tuple[list[str], list[tuple[str, Finding]]]:
    """The files of one input, and the findings about its folders, each with the folder."""
    if not given:
        raise ValueError("expected an image, a folder, a film or a pattern, got an empty text")
    if os.path.isdir(given):
        return _search(given, out)
    if os.path.lexists(given):
        if os.path.exists(given) and not os.path.isfile(given):  # reading from a pipe would block
            raise ValueError(not_a_file(Path(given)))
        return [given], []
    if not glob.has_magic(given):
        is_word = os.path.basename(given) == given and not _suffix(given)
        hint = ' (a word of a phrase? put phrases in quotes: "remote control")' if is_word else ""
        raise FileNotFoundError(f"no such file; expected an image, a folder, a film or a pattern{hint}")
    files: list[str] = []
    findings: list[tuple[str, Finding]] = []
    matches = sorted(glob.glob(given, recursive=True))
    if not matches:
        raise FileNotFoundError("this pattern matches no file")
    for path in matches:
        if os.path.isfile(path):
            files.append(path)
        elif os.path.isdir(path) and "**" not in given:  # "**" matches the files in the folder itself
            more_files, more_findings = _search(path, out)
            files += more_files
            findings += more_findings
    return files, findings


def _search(folder: str, out: Path) -> tuple[list[str], list[tuple[str, Finding]]]:
    """The images and films of a folder and its sub-folders, and the findings about other files; without those in `out`."""
    content = search(Path(folder), IMAGE_SUFFIXES | FILMS, TEXT_SUFFIXES)
    real = Path(os.path.realpath(folder))
    results = f"{out.relative_to(real).as_posix()}/" if out != real and out.is_relative_to(real) else None
    names = [name for name in content.names if results is None or not name.startswith(results)]
    findings = [each for each in content.findings if results is None or not f"{each.file}/".startswith(results)]
    return [os.path.join(folder, name) for name in names], [(folder, finding) for finding in findings]


def _drawn_path(path: str, name: str, taken: set[str], kept: frozenset[str]) -> str:
    kept = frozenset({".mp4"}) if _suffix(path) in FILMS else kept
    added = "" if _suffix(name) in kept else ".mp4" if _suffix(path) in FILMS else ".png"
    target = PurePosixPath(name)
    suffix = added or target.suffix
    stem = target.name if added else target.stem
    while len((stem + suffix).encode()) > LONGEST_NAME:
        stem = stem[:-1]
    return free_name(target.with_name(stem + suffix), taken, name_key)


def name_key(path: str) -> str:
    """A key that is equal for paths that a file system may take for one: those that differ in case or Unicode form only."""
    return unicodedata.normalize("NFC", path).casefold()


def free_name(path: PurePosixPath, taken: set[str], key: Callable[[str], str]) -> str:
    """`path`, or `path` with a number if its key is in `taken`; the key of the result is added to `taken`."""
    numbered, number = path, 1
    while key(str(numbered)) in taken:
        number += 1
        numbered = path.with_name(f"{path.stem}-{number}{path.suffix}")
    taken.add(key(str(numbered)))
    return str(numbered)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
