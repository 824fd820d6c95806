"""What the formats with one annotation file per image share: find and open the files, and write them into a new folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data_prep.atomic import atomic_folder, read_manifest, write_manifest
from data_prep.findings import Faults, Finding, note_all
from data_prep.formats.fields import located
from data_prep.pictures import IMAGE_SUFFIXES, Folder, search
from data_prep.records import Dataset, ImageRecord


def search_annotations(folder: Path | str, suffix: str) -> Folder:
    """Find all files with a suffix in a folder and its sub-folders, in any letter case; hidden files are passed over.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of annotations at {folder}")
    files = search(folder, frozenset({suffix}), IMAGE_SUFFIXES, "annotation unreadable")
    if not files.names and not any(finding.kind == "annotation unreadable" for finding in files.findings):
        raise FileNotFoundError(f"no {suffix} file in {folder}: nothing to convert")
    return files


def annotation_files(folder: Path | str, suffix: str, found: list[Finding] | None) -> Iterator[tuple[str, Faults]]:
    """Yield (name relative to the folder, its `Faults`) for each file, in the order of the names, with a progress bar.

    Raises:
        FileNotFoundError: as `search_annotations`.
        ValueError: `found` is None, and something in the folder cannot be read.
    """
    files = search_annotations(folder, suffix)
    note_all(files.findings, Faults(files.path, found))
    for name in tqdm(files.names, desc="reading", unit=" files", delay=1, disable=None):
        yield name, Faults(files.path / name, found, name)


def paths_of(dataset: Dataset, suffix: str) -> list[PurePosixPath]:
    """The annotation file of each image: `sub/a.xml` for `sub/a.jpg`.

    Raises:
        ValueError: two images share a stem, so that they would share a file.
    """
    paths = [PurePosixPath(record.file_name).with_suffix(suffix) for record in dataset.images]
    times = Counter(paths)
    for record, path in zip(dataset.images, paths, strict=True):
        if times[path] > 1:
            raise ValueError(f"expected one image a stem, got several for {path}, such as {record.file_name!r}")
    return paths


def write_files(
    dataset: Dataset, folder: Path | str, suffix: str, overwrite: bool, write: Callable[[ImageRecord, Path], None]
) -> None:
    """Write a file per image into a new folder, with a `MANIFEST`; the folder appears when it is complete, or not at all.

    Args:
        dataset: the images; folder, overwrite: as for `atomic_folder`.
        suffix: the suffix of the files.
        write: writes the file of one image.

    Raises:
        ValueError: two images share a stem, or `write` refuses a record.
        FileExistsError: `folder` is not empty and `overwrite` is False, or it holds a file that no call wrote.
    """
    paths = paths_of(dataset, suffix)
    with atomic_folder(folder, overwrite, read_manifest(folder)) as aside:
        for record, path in zip(dataset.images, paths, strict=True):
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            with located(f"image {record.file_name!r}"):
                write(record, aside / path)
        write_manifest(aside)
