"""Count the real face-mask set: `FACE_MASK_DIR=DIR python benchmarks/face_mask_counts.py --json FILE`.

Chapter 10 draws these counts beside those of its drawn faces, because the photographs are not part of the repository.
DIR has the `images/` and `annotations/` of the Face Mask Detection set. The counts are exact, so every machine gives the same.
"""

import argparse
import itertools
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

from data_prep.atomic import write_json
from data_prep.convert import voc_to_csv
from data_prep.formats import csv_table, voc
from data_prep.records import ImageRecord

COMMAND = "FACE_MASK_DIR=DIR python benchmarks/face_mask_counts.py --json book/data/face_mask_counts.json"
TRAIN, SEED = 600, 0
SHORT_SIDE, LONG_SIDE = 800, 1333  # pixels; Grounding DINO resizes pictures to these sides
STRIDES = (8, 16, 32, 64)
SIDES = ("left", "top", "right", "bottom")
EDGES = [round(2 ** (step / 3), 4) for step in range(31)]  # pixels, 1 to 1024: three bars for each doubling


def box_sides(records: list[ImageRecord], resized: bool) -> list[float]:
    """The root of each annotated box's area, in ascending order; in pixels of the picture or of the resized picture."""
    sides = []
    for record in records:
        short, long = sorted((record.width, record.height))
        ratio = min(SHORT_SIDE / short, LONG_SIDE / long) if resized else 1
        sides += [ratio * ((b.x2 - b.x1) * (b.y2 - b.y1)) ** 0.5 for b in record.boxes if not b.is_degenerate]
    return sorted(sides)


def describe(sides: list[float]) -> dict:
    """Extremes, median, how many sides lie below each stride, and a histogram over `EDGES`."""
    pairs = itertools.pairwise(EDGES)
    return {
        "smallest": round(sides[0], 3),
        "median": round(median(sides), 3),
        "largest": round(sides[-1], 3),
        "below": {str(stride): sum(side < stride for side in sides) for stride in STRIDES},
        "histogram": [sum(low <= side < high for side in sides) for low, high in pairs],
    }


def count(folder: Path) -> dict:
    """The figures of chapter 10 about the set in `folder`."""
    images, annotations = folder / "images", folder / "annotations"
    records = [source.record for source in voc.read_folder(images, annotations)[0]]
    with tempfile.TemporaryDirectory() as made:
        report = voc_to_csv(images, annotations, Path(made) / "csv", train=TRAIN, seed=SEED, link=True)
        parts = {part: csv_table.read(Path(made) / "csv" / part / "annotations.csv") for part in ("train", "test")}
    by_stem = {Path(record.file_name).stem: record for record in records}
    beyond = Counter(
        _beyond(by_stem[Path(finding.file).stem], finding.object)
        for finding in report.findings
        if finding.kind == "box outside"
    )
    return {
        "command": COMMAND,
        "pictures": len(records),
        "boxes": sum(len(record.boxes) for record in records),
        "faults": {kind: number for kind, number in report.counts().items() if number},
        "boxes outside": [{**dict(zip(SIDES, pixels, strict=True)), "boxes": n} for pixels, n in beyond.items()],
        "classes": {part: dict(data.class_counts) for part, data in parts.items()},
        "edges": EDGES,
        "sides": {
            "own pixels": describe(box_sides(records, resized=False)),
            "resized": describe(box_sides(records, resized=True)),
        },
    }


def _beyond(record: ImageRecord, number: int) -> tuple[float, float, float, float]:
    """By how many pixels a box leaves its picture on the left, at the top, on the right and at the bottom."""
    x1, y1, x2, y2 = record.boxes[number - 1].xyxy
    return max(-x1, 0), max(-y1, 0), max(x2 - record.width, 0), max(y2 - record.height, 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where to write the counts")
    options = parser.parse_args()
    if not os.environ.get("FACE_MASK_DIR"):
        sys.exit("FACE_MASK_DIR is not set; expected the folder of the set, with images/ and annotations/ in it")
    write_json(options.json, count(Path(os.environ["FACE_MASK_DIR"])))
