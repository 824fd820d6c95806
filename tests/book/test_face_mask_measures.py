"""The measures of the runs on face masks, on made-up boxes."""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from scripts import ROOT, load_script

from data_prep import Box, Dataset, ImageRecord

CLASSES = ("with_mask", "without_mask")


@pytest.fixture(scope="module")
def measures():
    return load_script("benchmarks/face_mask_measures")


@pytest.fixture(scope="module")
def bench(measures):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return load_script("benchmarks/face_masks")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def record(name, boxes):
    return ImageRecord(name, 200, 100, tuple(Box(label, *corners) for label, corners in boxes))


def detections(rows):
    """(class, confidence, box) of each row, by falling confidence."""
    rows = sorted(rows, key=lambda row: -row[1])
    numbers = np.array([CLASSES.index(name) for name, _, _ in rows], dtype=np.int64)
    return sv.Detections(
        xyxy=np.array([box for *_, box in rows], dtype=np.float32).reshape(-1, 4),
        confidence=np.array([sure for _, sure, _ in rows], dtype=np.float32),
        class_id=numbers,
        data={"class_name": np.array(CLASSES)[numbers], "best": np.ones(len(rows), bool)},
    )


FACE, OTHER = (10, 10, 50, 50), (100, 10, 140, 50)
SHIFTED = (12, 10, 52, 50)  # IoU with FACE: 0.9


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("with_mask", 0.9, FACE)], 0),
        ([("with_mask", 0.9, FACE), ("with_mask", 0.5, SHIFTED)], 1),
        ([("with_mask", 0.9, FACE), ("without_mask", 0.5, SHIFTED)], 0),  # a wrong name is no duplicate
        ([("with_mask", 0.9, FACE), ("with_mask", 0.3, SHIFTED)], 0),  # not shown
        ([("with_mask", 0.9, FACE), ("with_mask", 0.5, (60, 60, 90, 90))], 0),  # wrong, but on no face
        ([("with_mask", 0.9, FACE), ("with_mask", 0.8, FACE), ("with_mask", 0.7, FACE)], 2),
        ([], 0),
    ],
)
def test_duplicates_are_further_boxes_on_a_face_that_was_found(measures, rows, expected):
    records = Dataset((record("a.png", [("with_mask", FACE), ("without_mask", OTHER)]),), CLASSES)
    for order in list(permutations(rows))[:6]:
        assert measures.duplicates(records, {"a.png": detections(list(order))}) == expected


def test_counts_before_and_after_suppression(measures):
    records = Dataset(
        (record("a.png", [("with_mask", FACE), ("without_mask", OTHER)]), record("b.png", [("with_mask", FACE)])),
        CLASSES,
    )
    found = {
        "a.png": detections([("with_mask", 0.9, FACE), ("with_mask", 0.5, SHIFTED), ("with_mask", 0.4, OTHER)]),
        "b.png": detections([("with_mask", 0.3, FACE)]),
    }
    counts = measures.counted(records, found)
    assert counts == {
        "boxes_per_face": 3 / 3,
        "wrong_per_image": 2 / 2,
        "recall": 1 / 3,
        "duplicates_per_image": 1 / 2,
    }
    after = measures.counted(records, measures.suppressed(found))
    assert after == counts | {"boxes_per_face": 2 / 3, "wrong_per_image": 1 / 2, "duplicates_per_image": 0}


def test_an_epoch_is_measured_once(measures, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(measures, "figures_of_part", lambda detector, *_: measured.append(detector) or {"ap": detector})

    class Old:
        def measure(self, detector):
            return {"voc07": detector}

    curves = measures.Curves(tmp_path / "epochs", {"val": (None, None)}, Old())
    for epoch in (1, 2, 2, 5):
        curves.on_epoch_end(epoch, epoch / 10)
    assert measured == [0.1, 0.2, 0.5]
    assert curves.figures() == [
        {"epoch": 1, "val": {"ap": 0.1}},
        {"epoch": 2, "val": {"ap": 0.2}},
        {"epoch": 5, "val": {"ap": 0.5}, "old": {"voc07": 0.5}},
    ]


def test_runs_on_fewer_pictures_make_as_many_steps_as_the_plain_run(bench):
    plain = bench.PLAIN.epochs * (bench.TRAIN // bench.PLAIN.batch_size)
    for name, run in bench.RUNS.items():
        if run.pictures < bench.TRAIN:
            steps = run.settings.epochs * (run.pictures // run.settings.batch_size)
            assert 0.9 * plain <= steps <= plain, name
            assert run.settings.epochs // run.settings.validate_every in range(9, 17), name
    folders = {bench.folder_name(name) for name in bench.RUNS}
    assert len(folders) == len(bench.RUNS)
    assert all(Path(name).name == name for name in folders)
