"""Results of a long evaluation, stored part by part: a killed run can continue, and several processes share the parts.

A folder has `about.json`, which says everything that the results depend on, and a file for each part. The parts of a run do not
depend on the number of its processes, so that another number of processes can continue it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.atomic import atomic_file, other_file, write_json
from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.messages import first_line
from gdino_lib.weights.files import read_json

ABOUT = "about.json"
OWN_FILES = r"about\.json|\d+-\d+\.npz|\..*\.partial"


class StoredResults:
    """The parts of one evaluation.

    Args:
        folder: where they are; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, about: Mapping[str, Any], overwrite: bool = False) -> None:
        """Make the folder, or continue in it if its parts belong to the same run.

        Args:
            about: everything that results depend on, as JSON's values.
            overwrite: remove the parts of another run.

        Raises:
            FileExistsError: the parts are of another run, or the folder has files of others.
            ValueError: `about.json` is damaged.
            OSError: not writable.
        """
        file = self.folder / ABOUT
        if self.folder.exists():
            if not self.folder.is_dir() or (stranger := other_file(self.folder, OWN_FILES)):
                what = stranger if self.folder.is_dir() else "a file"
                raise FileExistsError(f"{self.folder}: expected a folder for unfinished results, found {what}")
            before = read_json(file) if file.is_file() else None
            if before == about:
                return
            if before is not None and not overwrite:
                names = [name for name in {**before, **about} if before.get(name) != about.get(name)]
                raise FileExistsError(
                    f"{self.folder} has unfinished results of another run, which differs in {', '.join(names)}; "
                    "choose another file, or pass --overwrite to remove them"
                )
            self.remove()
        self.folder.mkdir()
        write_json(file, about)

    def has(self, task: int, part: int) -> bool:
        """Whether a part of a task is stored; tasks and parts are numbered from 0."""
        return self._path(task, part).is_file()

    def write(self, task: int, part: int, found: Sequence[FoundBoxes]) -> None:
        """Store a part: the boxes found for each of its records."""
        columns = {
            "count": np.array([len(boxes.xyxy) for boxes in found], np.int64),
            "xyxy": np.concatenate([boxes.xyxy for boxes in found]).astype(np.float32),
            "confidence": np.concatenate([boxes.confidence for boxes in found]).astype(np.float32),
            "class_id": np.concatenate([boxes.class_id for boxes in found]).astype(np.int64),
        }
        with atomic_file(self._path(task, part), "wb") as file:
            np.savez(file, **columns)

    def read(self, task: int, part: int, records: int) -> list[FoundBoxes]:
        """The boxes of a part, for each of its records.

        Raises:
            ValueError: the file is damaged, or of another number of records.
        """
        path = self._path(task, part)
        try:
            with np.load(path, allow_pickle=False) as file:
                ends = np.cumsum(file["count"])[:-1]
                columns = [np.split(file[name], ends) for name in ("xyxy", "confidence", "class_id")]
        except Exception as error:  # a damaged archive fails in many ways
            raise ValueError(f"{path} is damaged ({first_line(error)}); remove it, and run the command again") from None
        found = [FoundBoxes(*column) for column in zip(*columns, strict=True)]
        if len(found) != records:
            raise ValueError(f"{path}: expected results for {records} records, got {len(found)}; remove the file")
        return found

    def remove(self) -> None:
        """Remove the folder with all its parts."""
        shutil.rmtree(self.folder)

    def _path(self, task: int, part: int) -> Path:
        return self.folder / f"{task}-{part}.npz"
