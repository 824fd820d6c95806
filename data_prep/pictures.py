"""Image files: find them in folders, measure them, and find the image file of a record."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import ExifTags, Image
from tqdm import tqdm

from data_prep.arguments import one_line
from data_prep.findings import LEFT_OUT, SKIPPED, Finding
from data_prep.records import picture_key

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
"""Suffixes of image files, in lower case. The audit, the conversions, training and `gdino detect` use the same list."""
TEXT_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".md", ".odvg", ".txt", ".xml", ".yaml", ".yml"})
"""Suffixes of files that may be among images and are passed over without a finding."""
DARK_BITS = 14  # a 16-bit image that uses at most 14 bits is nearly black, because only its high bytes are read


class Picture(NamedTuple):
    """Properties of the pixels of an image file.

    Attributes:
        width, height: size of the upright image in pixels.
        orientation: EXIF orientation, 1 to 8; 1 if the pixels are stored upright.
        few_bits: True for a 16-bit image that uses so few of its bits that it is read as nearly black.
    """

    width: int
    height: int
    orientation: int = 1
    few_bits: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return self.width, self.height

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the image as it is stored, before the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else self.size


@dataclass(frozen=True)
class Folder:
    """The files of a folder and its sub-folders, without hidden ones.

    Attributes:
        path: the folder.
        names: the files with a searched suffix, relative to `path`, "/" between folders, sorted.
        findings: findings about everything else: files with other suffixes, dangling links, pipes, folders that cannot be
            listed.
    """

    path: Path
    names: tuple[str, ...]
    findings: tuple[Finding, ...]

    def ignores_case(self) -> bool:
        """True if "a.jpg" and "A.JPG" are one file on the file system of this folder."""
        for name in self.names:
            if name.swapcase() != name:
                return name.swapcase() not in self.names and (self.path / name.swapcase()).exists()
        return False


def search(
    folder: Path,
    suffixes: frozenset[str],
    passed_over: frozenset[str] = frozenset(),
    unusable: str = "image unreadable",
) -> Folder:
    """Find all files with certain suffixes in a folder and its sub-folders.

    Args:
        folder: a folder that exists.
        suffixes: suffixes of the files to find, in lower case.
        passed_over: suffixes of files that need no finding.
        unusable: kind of the finding for anything with a searched suffix that is not a file.
    """
    names: list[str] = []
    findings: list[Finding] = []

    def cannot_list(error: OSError) -> None:
        where = os.path.relpath(error.filename or folder, folder)
        findings.append(Finding(unusable, where, None, f"a folder that cannot be listed: {error.strerror}", SKIPPED))

    for here, folders, files in os.walk(folder, onerror=cannot_list):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = PurePosixPath(Path(os.path.relpath(here, folder)).as_posix())
        for file in files:
            if file.startswith("."):
                continue
            name, suffix = str(prefix / file), os.path.splitext(file)[1].lower()
            if suffix in suffixes and os.path.isfile(os.path.join(here, file)):
                names.append(name)
            elif suffix in suffixes:
                findings.append(Finding(unusable, name, None, not_a_file(Path(here, file)), SKIPPED))
            elif suffix not in passed_over:
                findings.append(Finding("file not read", name, None, f"expected {_known(suffixes)}", LEFT_OUT))
        for name in folders:
            if os.path.splitext(name)[1].lower() in suffixes:
                findings.append(Finding(unusable, str(prefix / name), None, "expected a file, got a folder", SKIPPED))
            if os.path.islink(os.path.join(here, name)):
                detail = "a link to a folder; such links are not followed"
                findings.append(Finding("file not read", str(prefix / name), None, detail, LEFT_OUT))
    return Folder(folder, tuple(sorted(names)), tuple(sorted(findings, key=lambda finding: finding.file)))


def search_images(folder: Path | str) -> Folder:
    """Find all image files in a folder and its sub-folders.

    Raises:
        FileNotFoundError: `folder` is not a folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of images at {folder}")
    return search(Path(folder), IMAGE_SUFFIXES, TEXT_SUFFIXES)


def list_images(folder: Path | str) -> list[str]:
    """Names of all image files in `folder` and its sub-folders, "/" between folders, sorted; hidden files are passed over.

    Raises:
        FileNotFoundError: `folder` is not a folder.
    """
    return list(search_images(folder).names)


def image_path(folder: Path | str, name: str) -> Path:
    """Path of the image of a record, in the Unicode form, NFC or NFD, that the file system uses for its name."""
    path = Path(folder) / name
    if name.isascii() or path.exists():
        return path
    spellings = (path.parent / unicodedata.normalize(form, path.name) for form in ("NFC", "NFD"))
    spellings = (*spellings, *(Path(folder) / unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((spelling for spelling in spellings if spelling.exists()), path)


def undescribed(folder: Folder, described: Sequence[str], why: Callable[[str], str]) -> list[Finding]:
    """Findings for the images without a record.

    Args:
        folder: the image files.
        described: file names of all records.
        why: gives the detail of the finding for an image name.
    """
    ignore_case = folder.ignores_case()
    keys = {picture_key(name, ignore_case) for name in described}
    rest = [name for name in folder.names if picture_key(name, ignore_case) not in keys]
    return [Finding("image without file", name, None, why(name), LEFT_OUT) for name in rest]


def not_a_file(path: Path) -> str:
    """Describe what is at `path` if it is not a file: a dangling link, a folder, a pipe or a device."""
    if path.is_symlink() and not path.exists():
        return "expected a file, got a dangling link"
    return f"expected a file, got {'a folder' if path.is_dir() else 'a pipe or a device'}"


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image in pixels, from the header of its file; the pixels are not decoded.

    Raises:
        ValueError: there is no readable image at `path`; one line.
    """
    if not path.is_file():
        raise ValueError(not_a_file(path) if path.exists() or path.is_symlink() else f"there is no image {path}")
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except Exception as error:  # Pillow raises many types of exceptions for broken files
        raise ValueError(one_line(f"{path}: {type(error).__name__}: {error}")) from None


def measure(paths: Sequence[Path]) -> list[Picture | str]:
    """Decode every image. Returns the properties of each, or one line that says why it cannot be decoded."""
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock while it decodes
        results = pool.map(_measure, paths)
        return list(tqdm(results, total=len(paths), desc="decoding", unit=" images", delay=1, disable=None))


def _measure(path: Path) -> Picture | str:
    try:
        with Image.open(path) as image:
            is_deep = any(";16" in str(tile[3]) for tile in image.tile)  # the raw mode of the file, such as "I;16B"
            image.load()  # before the orientation is read, because Pillow rotates TIFF files itself
            orientation = _orientation(image)
            width, height = image.size
            few_bits = is_deep and _has_few_bits(image)
    except Exception as error:  # Pillow raises many types of exceptions for broken files
        return one_line(f"{path.name}: {type(error).__name__}: {error}".replace(str(path), path.name))
    size = (height, width) if orientation >= 5 else (width, height)
    return Picture(*size, orientation, few_bits)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an image with a broken EXIF block can still be used
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _has_few_bits(image: Image.Image) -> bool:
    if image.mode.startswith("I"):
        highest = image.convert("I").getextrema()[1]
        return isinstance(highest, (int, float)) and 0 < highest < 2**DARK_BITS
    extrema = image.convert("RGB").getextrema()  # Pillow keeps the high bytes of 16-bit colour
    highest = max(band[1] for band in extrema if isinstance(band, tuple))
    return highest < 2 ** (DARK_BITS - 8)


def _known(suffixes: frozenset[str]) -> str:
    return f"one of {', '.join(sorted(suffixes))}" if len(suffixes) > 1 else "".join(suffixes)
