"""Image files: which there are, how large they are when upright, and how a record's name finds its own."""

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
"""What folders are searched for, in lower case: by the audit, the conversions, training and `gdino detect` alike."""
TEXT_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".md", ".odvg", ".txt", ".xml", ".yaml", ".yml"})
"""What may lie among images without being named."""
DARK_BITS = 14  # a 16-bit image with no more than so many bits in use is nearly black when its high bytes are read


class Picture(NamedTuple):
    """What the pixels of an image file say.

    Attributes:
        width, height: pixels of the upright image.
        orientation: EXIF's, 1 to 8; 1 where the pixels are stored upright.
        few_bits: a 16-bit image that uses so few of its bits that it is nearly black when read.
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
        """(width, height) as the pixels lie in the file, before the turn that EXIF asks for."""
        return (self.height, self.width) if self.orientation >= 5 else self.size


@dataclass(frozen=True)
class Folder:
    """The files of a folder and of all folders in it, hidden ones passed over.

    Attributes:
        path: the folder.
        names: of the files that were searched for, "/" between folders, sorted.
        findings: the others: of a suffix that is not read, links that lead nowhere, pipes, folders that cannot be listed.
    """

    path: Path
    names: tuple[str, ...]
    findings: tuple[Finding, ...]

    def ignores_case(self) -> bool:
        """True where the file system takes "a.jpg" and "A.JPG" for one file."""
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
    """Find all files of some suffixes in a folder and below.

    Args:
        folder: must be there.
        suffixes: what to search for, in lower case.
        passed_over: suffixes that are neither found nor named.
        unusable: kind of finding for what has the right suffix and is no file.
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
                findings.append(Finding(unusable, name, None, what_stands_at(Path(here, file)), SKIPPED))
            elif suffix not in passed_over:
                findings.append(Finding("file not read", name, None, f"expected {_known(suffixes)}", LEFT_OUT))
        for name in folders:
            if os.path.splitext(name)[1].lower() in suffixes:
                findings.append(Finding(unusable, str(prefix / name), None, "a folder, expected a file", SKIPPED))
            if os.path.islink(os.path.join(here, name)):
                detail = "a link to a folder, which is not followed"
                findings.append(Finding("file not read", str(prefix / name), None, detail, LEFT_OUT))
    return Folder(folder, tuple(sorted(names)), tuple(sorted(findings, key=lambda finding: finding.file)))


def search_images(folder: Path | str) -> Folder:
    """All image files in a folder and below.

    Raises:
        FileNotFoundError: `folder` is not a folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of images at {folder}")
    return search(Path(folder), IMAGE_SUFFIXES, TEXT_SUFFIXES)


def list_images(folder: Path | str) -> list[str]:
    """Names of the image files in `folder` and below, "/" between folders, sorted; hidden ones are passed over.

    Raises:
        FileNotFoundError: `folder` is not a folder.
    """
    return list(search_images(folder).names)


def image_path(folder: Path | str, name: str) -> Path:
    """Where the image of a record is; a file system may store its accents as one code point or as two."""
    path = Path(folder) / name
    if name.isascii() or path.exists():
        return path
    spellings = (path.parent / unicodedata.normalize(form, path.name) for form in ("NFC", "NFD"))
    spellings = (*spellings, *(Path(folder) / unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((spelling for spelling in spellings if spelling.exists()), path)


def undescribed(folder: Folder, described: Sequence[str], why: Callable[[str], str]) -> list[Finding]:
    """A finding for each image that none of the names `described` means; `why` tells the reason for a name."""
    ignore_case = folder.ignores_case()
    keys = {picture_key(name, ignore_case) for name in described}
    rest = [name for name in folder.names if picture_key(name, ignore_case) not in keys]
    return [Finding("image without file", name, None, why(name), LEFT_OUT) for name in rest]


def what_stands_at(path: Path) -> str:
    """What is at `path` in place of a file, in words."""
    if path.is_symlink() and not path.exists():
        return "a link that leads nowhere"
    return "a folder, expected a file" if path.is_dir() else "a pipe or a device, expected a file"


def measure(paths: Sequence[Path]) -> list[Picture | str]:
    """Decode every image: what its pixels say, or in one line why it cannot be decoded."""
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter's lock while it decodes
        results = pool.map(_measure, paths)
        return list(tqdm(results, total=len(paths), desc="decoding", unit=" images", delay=1, disable=None))


def _measure(path: Path) -> Picture | str:
    try:
        with Image.open(path) as image:
            is_deep = any(";16" in str(tile[3]) for tile in image.tile)  # Pillow's word for how the file has its pixels
            image.load()  # before asking for the orientation: Pillow applies it to TIFF files by itself
            orientation = _orientation(image)
            width, height = image.size
            few_bits = is_deep and _has_few_bits(image)
    except Exception as error:  # Pillow raises many types for broken files; each means "cannot be decoded"
        return one_line(f"{path.name}: {type(error).__name__}: {error}".replace(str(path), path.name))
    size = (height, width) if orientation >= 5 else (width, height)
    return Picture(*size, orientation, few_bits)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
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
