"""The folder of results: its three tables, the entries of the inputs, and the check before an older one is replaced."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.atomic import other_file
from data_prep.formats import coco, csv_table
from data_prep.formats.json_text import encode, parse, read_text
from data_prep.records import Box, Dataset, ImageRecord
from gdino_lib.apps.input_files import InputFile, plain_text
from gdino_lib.apps.terminal import print_line
from gdino_lib.detect.tracking import ids

if TYPE_CHECKING:
    import supervision as sv

    from gdino_lib.detect.frames import Film

JSON, CSV, COCO = "detections.json", "detections.csv", "detections.coco.json"


@dataclass
class Results:
    """The results so far, without pixels.

    Attributes:
        images, films, failed: entries of `detections.json`.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    films: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of images and films that are done."""
        return len(self.images) + len(self.films)

    @property
    def boxes(self) -> int:
        """Number of boxes in all images and frames."""
        return sum(len(image["boxes"]) for image in self.images) + sum(
            sum(film["counts"].values()) for film in self.films
        )

    @property
    def files(self) -> set[str]:
        """Names of all files in the folder of results."""
        films = {film[name] for film in self.films for name in ("drawn", "frames_file")}
        explained = {box["explained"] for image in self.images for box in image["boxes"] if "explained" in box}
        return {JSON, CSV, COCO} | films | {image["drawn"] for image in self.images} | explained

    def fail(self, path: str, reason: str) -> None:
        """Record an input that could not be used, and print the reason on standard error."""
        print_line(f"error: {reason}", sys.stderr)
        self.failed.append({"file": plain_text(path), "reason": plain_text(reason)})

    def add_image(self, file: InputFile, size: tuple[int, int], boxes: list[dict[str, Any]]) -> None:
        """Record an image that is done."""
        width, height = size
        self.images.append(_names(file) | {"width": width, "height": height, "boxes": boxes})

    def add_film(
        self,
        file: InputFile,
        film: Film,
        frames_file: str,
        frames: int,
        counts: Counter[str],
        tracks: Mapping[str, Any],
    ) -> None:
        """Record a film that is done; `counts` is {phrase: number of boxes}, `tracks` the counts of its tracks."""
        size = {"frames_file": frames_file, "width": film.width, "height": film.height}
        self.films.append(_names(file) | size | {"fps": film.fps, "frames": frames, "counts": counts, **tracks})

    def write(self, folder: Path, about: dict[str, Any]) -> None:
        """Write the three tables."""
        records = (
            ImageRecord(
                image["name"],
                image["width"],
                image["height"],
                tuple(Box(box["phrase"], *box["xyxy"], extra=_coco_fields(box)) for box in image["boxes"]),
            )
            for image in self.images
        )
        dataset = Dataset(tuple(records), tuple(dict.fromkeys(about["phrases"])))
        coco.write(dataset, folder / COCO)
        csv_table.write(dataset, folder / CSV)
        document = about | {"images": self.images, "films": self.films, "failed": self.failed}
        (folder / JSON).write_bytes(encode(document))


def box_entries(found: sv.Detections) -> list[dict[str, Any]]:
    """The boxes of an image in the form of `detections.json`.

    A wording that differs from the phrase has a field; `id` is that of the box's track, if tracks were followed.
    """
    names, wordings = (np.asarray(found.data[field]).tolist() for field in ("class_name", "wording"))
    boxes: list[dict[str, Any]] = [
        {"xyxy": [_decimal(value) for value in box], "phrase": phrase, "confidence": _decimal(score)}
        | ({} if wording == phrase else {"wording": wording})
        for box, phrase, wording, score in zip(found.xyxy, names, wordings, np.asarray(found.confidence), strict=True)
    ]
    if found.tracker_id is not None:
        for box, track in zip(boxes, ids(found), strict=True):
            box["id"] = track if track >= 0 else None
    return boxes


def check_results_folder(out: str, overwrite: bool) -> Path:
    """Refuse a folder that the results must not replace, before the work begins.

    Returns:
        The folder of results, with links resolved.

    Raises:
        ValueError: `out` cannot be a folder of results.
        FileExistsError: `out` is a file, a folder that is not empty while `overwrite` is False, or a folder with files that no
            run wrote.
        OSError: the name is too long, or leads through a file.
    """
    if not out or "\0" in out:
        raise ValueError(f"--out: expected a folder, got {out!r}")
    folder = Path(os.path.realpath(out))
    for path in (folder, folder.with_name(f".{folder.name}.partial")) if folder.name else ():
        with suppress(FileNotFoundError):
            path.lstat()  # raises an error for a name that is too long, or leads through a file
    if os.path.ismount(folder) or folder == Path.cwd():
        raise ValueError(f"--out: {out!r} cannot be replaced as a whole; name a folder inside it")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out: {out!r} is a file; expected a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not overwrite:
        raise FileExistsError(
            f"{out!r} is not empty; choose another folder with --out, or pass --overwrite to replace it"
        )
    foreign = other_file(folder, files_of_results(folder))
    if foreign is not None:
        raise FileExistsError(f"{out!r} holds {foreign!r}, which no run wrote; choose another folder with --out")
    return folder


def files_of_results(folder: Path) -> set[str]:
    """Names of the files that an earlier run wrote into a folder, from its `detections.json`; none without that file."""
    try:
        document = parse(read_text(folder / JSON), folder / JSON)
        return Results(document["images"], document["films"]).files
    except (KeyError, OSError, TypeError, ValueError):
        return set()


def _names(file: InputFile) -> dict[str, str]:
    return {"file": plain_text(file.path), "name": file.name, "drawn": file.drawn}


def _coco_fields(box: dict[str, Any]) -> dict[str, Any]:
    """What COCO says of a box beside its corners and its phrase: its score, and its mask if it has one."""
    mask = {name: box[name] for name in ("segmentation", "area", "iscrowd") if name in box}
    return {"score": box["confidence"]} | mask


def _decimal(value: np.float32) -> float:
    """The shortest decimal number that rounds to this float32: 0.1 instead of 0.10000000149011612."""
    return float(str(value))
