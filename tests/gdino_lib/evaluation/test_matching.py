"""Matching boxes to objects: each object is found once; boxes in a crowd are left out."""

from made_up_detectors import COLOURS, box, detections

import data_prep
from data_prep import ImageRecord
from gdino_lib.evaluation.matching import match_all
from gdino_lib.evaluation.over_detection import count_boxes


def test_each_object_is_found_once():
    record = ImageRecord("a.png", 100, 80, (box("red square", (0, 0, 20, 20)), box("red square", (50, 0, 70, 20))))
    dataset = data_prep.Dataset((record,), tuple(COLOURS))
    found = detections(
        ("red square", (0, 0, 20, 18), 0.6),  # a lower score than the box that is matched to this object
        ("red square", (0, 0, 20, 20), 0.9),
        ("green square", (50, 0, 70, 20), 0.8),  # of another class
        ("red square", (50, 0, 70, 11), 0.5),  # IoU 0.55
    )
    matches = match_all(dataset, {"a.png": found})
    assert matches.correct.tolist() == [False, True, False, True]
    assert matches.objects.tolist() == [[2, 0, 0]]
    assert match_all(dataset, {"a.png": found}, iou=0.6).correct.tolist() == [False, True, False, False]
    counts = count_boxes(matches, (0.0, 0.55, 0.85, 0.95))
    assert [(c.boxes, c.correct, c.images_with_more, c.ratio) for c in counts] == [
        (4, 2, 1, 2.0),
        (3, 1, 1, 1.5),
        (1, 1, 0, 0.5),
        (0, 0, 0, 0.0),
    ]


def test_boxes_in_a_crowd_do_not_count():
    record = ImageRecord(
        "a.png", 100, 80, (box("red square", (0, 0, 50, 80), iscrowd=1), box("red square", (60, 0, 90, 40)))
    )
    dataset = data_prep.Dataset((record,), tuple(COLOURS))
    found = detections(
        ("red square", (0, 0, 10, 10), 0.9),
        ("red square", (60, 0, 90, 40), 0.8),
        ("red square", (45, 50, 99, 80), 0.7),
        ("green square", (0, 0, 10, 10), 0.6),
    )
    matches = match_all(dataset, {"a.png": found})
    assert matches.confidence.round(2).tolist() == [0.8, 0.7, 0.6]
    assert matches.correct.tolist() == [True, False, False]
    assert matches.objects.sum() == 1
