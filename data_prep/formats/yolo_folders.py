"""The files of a YOLO data set: the classes and the image lists of `data.yaml`, and the label file of each image."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.findings import Faults, note_all
from data_prep.formats.fields import check_unique, located
from data_prep.formats.json_text import read_text
from data_prep.pictures import search_images
from data_prep.records import as_whole_number

SPLITS = ("train", "val", "test")
"""The parts of a data set, in the order in which they are read."""
YAML_NAME = "data.yaml"
MOST_BYTES = 20_000_000  # of a .yaml file; that of Objects365, with 365 classes, has 10 kB


@dataclass(frozen=True)
class Listing:
    """The contents of a `data.yaml`.

    Attributes:
        names: {class index: class name}, in the order of the indices.
        keypoints: number of values that follow the box in each line of a pose data set; 0 for other data sets.
        images: folder that the file names of the records are relative to.
        files: (split, path of the image) in the order of the splits and their lists.
        folders: the image folders of the splits.
    """

    names: Mapping[int, str]
    keypoints: int
    images: Path
    files: tuple[tuple[str, Path], ...]
    folders: tuple[Path, ...]


def yaml_path(path: Path | str) -> Path:
    """`path` itself, or the `data.yaml` in it if it is a folder."""
    path = Path(path)
    return path / YAML_NAME if path.is_dir() else path


def image_folder(path: Path | str) -> Path:
    """The folder that the file names of the records are relative to; see `read_listing`.

    Raises:
        FileNotFoundError, ValueError: as `read_listing` without a list of findings.
    """
    path = yaml_path(path)
    return read_listing(path, Faults(path, [])).images


def read_listing(path: Path, faults: Faults, images: Path | None = None) -> Listing:
    """Read a `data.yaml` and list the images of its splits.

    A split is a folder of images with its sub-folders, a .txt file with one image a line, or a list of these. They are
    relative to `path` of the file, and this is relative to the folder of the file. In a .txt file, paths are relative to the
    folder of the .txt file, or else to `path`.

    Args:
        path: the .yaml file.
        faults: receives the faults.
        images: folder that the file names are relative to. If None: `images/` beside the file if it holds all images, else the
            smallest folder that holds the data set and all images.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is not YAML with `names`, or lists no image.
    """
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: expected at most {MOST_BYTES:,} bytes of YAML, got {path.stat().st_size:,}")
    root = _parse(read_text(path), path)
    with located(path):
        names = _names(root, faults)
        keypoints = _keypoints(root)
    base = _base(root, path.parent, faults)
    files: list[tuple[str, Path]] = []
    folders: list[Path] = []
    for split in SPLITS:
        key = "validation" if split == "val" and "val" not in root else split
        targets = root.get(key)
        for target in targets if isinstance(targets, list) else [] if targets in (None, "") else [targets]:
            with faults.costing("annotation unreadable", key):
                place = _target(target, base, faults.mender(key))
                if place.is_dir():
                    found = search_images(place)
                    note_all(found.findings, Faults(place, faults.found, strict=faults.strict))
                    files += [(split, place / name) for name in found.names]
                    folders.append(place)
                else:
                    files += [(split, file) for file in _listed(place, base)]
    if not any(root.get(key) for key in (*SPLITS, "validation")):
        raise ValueError(f"{path}: expected 'train', 'val' or 'test' with a folder or a .txt list, got none of them")
    return Listing(names, keypoints, images or _common(files, folders, base), tuple(files), tuple(folders))


def label_path(image: Path) -> Path:
    """The label file of an image: at `label_place`, or beside the image if there is none at that place."""
    label, beside = label_place(image), image.with_suffix(".txt")
    return beside if beside.is_file() and not label.is_file() else label


def label_place(image: Path) -> Path:
    """The path of an image's label file by the rule of the YOLO trainers: its last folder `images` becomes `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    for number in range(len(parts) - 2, -1, -1):
        if parts[number] == "images":
            parts[number] = "labels"
            break
    return Path(*parts)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        root = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # builds plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValueError(f"{place}: invalid YAML, {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError, OverflowError, TypeError) as error:  # an impossible date, a key that is a list
        raise ValueError(f"{path}: invalid YAML, {error}") from None
    if not isinstance(root, dict):
        raise ValueError(f"{path}: expected 'names' and 'train', got {root!r:.40}")
    return root


def _names(root: Mapping[str, Any], faults: Faults) -> dict[int, str]:
    given = root.get("names")
    pairs = (
        list(enumerate(given)) if isinstance(given, list) else list(given.items()) if isinstance(given, dict) else []
    )
    if not pairs:
        raise ValueError(f"expected 'names' to be a list, or class indices with names, got {given!r:.40}")
    names: dict[int, str] = {}
    for key, name in pairs:
        index = as_whole_number(key)
        if index is None or index < 0 or index in names:
            raise ValueError(f"names: expected each class index 0, 1, ... once, got {key!r:.40}")
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or not str(name).strip():
            raise ValueError(f"names: expected class {index} to be a text, got {name!r:.40}; write it in quotes")
        if not isinstance(name, str):
            faults.mend(f"names: expected class {index} to be a text, got {name!r:.40}", str(name))
        names[index] = str(name)
    check_unique(names.values(), "class name")
    count = root.get("nc", len(names))
    if count != len(names):
        faults.mend(f"expected 'nc' to be the number of names, {len(names)}, got {count!r:.40}", len(names))
    return dict(sorted(names.items()))


def _keypoints(root: Mapping[str, Any]) -> int:
    shape = root.get("kpt_shape")
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(value) is int and 0 < value < 1000 for value in shape):
        return shape[0] * shape[1]
    raise ValueError(f"expected 'kpt_shape' to be [number of keypoints, 2 or 3], got {shape!r:.40}")


def _base(root: Mapping[str, Any], folder: Path, faults: Faults) -> Path:
    """The folder that the splits are relative to. Many files name a folder of the computer that they were written on."""
    given = root.get("path")
    if given in (None, ""):
        return folder
    if not isinstance(given, str):
        raise ValueError(f"{faults.path}: expected 'path' to be a folder, got {given!r:.40}")
    base = folder / given.replace("\\", "/")
    if base.is_dir():
        return Path(os.path.normpath(base))
    faults.mend(f"path: expected a folder, got {given!r}, and there is none at {base}", str(folder))
    return folder


def _target(given: object, base: Path, mend: Callable[[str, Any], None]) -> Path:
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        raise ValueError(f"expected a folder of images or a .txt list, got {given!r:.40}")
    plain = given.replace("\\", "/")
    place = base / plain
    if not place.exists() and plain.startswith("../") and (base / plain[3:]).exists():  # as Roboflow writes it
        place = base / plain[3:]
        mend(f"there is nothing at {base / plain}", str(place))
    if not place.is_dir() and not (place.is_file() and place.suffix.lower() == ".txt"):
        raise ValueError(f"expected a folder of images or a .txt list, got {given!r}, which is none: {place}")
    return Path(os.path.normpath(place))


def _listed(file: Path, base: Path) -> list[Path]:
    """The images of a .txt list."""
    paths = []
    for line in read_text(file).splitlines():
        if name := line.strip().replace("\\", "/"):
            near, far = file.parent / name, base / name
            paths.append(Path(os.path.normpath(far if far.exists() and not near.exists() else near)))
    return paths


def _common(files: list[tuple[str, Path]], folders: list[Path], base: Path) -> Path:
    plain = Path(os.path.normpath(base / "images"))
    if all(plain in file.parents for _, file in files):
        return plain
    return Path(os.path.commonpath([os.path.abspath(place) for place in (base, *folders)]))
