"""Average precision: exact values for hand-made cases, and the same values as pycocotools for random ones."""

import contextlib
import io
import json
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up_detectors import COLOURS, SQUARES, BlindDetector, ColourDetector, box, detections, perfect

import data_prep
from data_prep import ImageRecord
from data_prep.formats import coco
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all
from gdino_lib.evaluation.matching import match_all


def test_a_perfect_detector(dataset, folder):
    found = detect_all(ColourDetector(), dataset, folder, batch_size=2)
    assert list(found) == [record.file_name for record in dataset.images]
    result = average_precision(dataset, found)
    assert (result.ap, result.ap50, result.ap75, result.recall) == (1, 1, 1, 1)
    assert (result.images, result.objects) == (5, 6)
    assert [(c.name, c.objects, c.ap, c.ap50) for c in result.classes] == [(name, 2, 1, 1) for name in COLOURS]
    assert result.without_objects == ()


def test_a_blind_detector(dataset, folder):
    result = average_precision(dataset, detect_all(BlindDetector(), dataset, folder))
    assert (result.ap, result.ap50, result.recall) == (0, 0, 0)
    assert all(entry.ap == 0 for entry in result.classes)


def test_classes_without_objects_are_named_and_do_not_count(dataset):
    more = replace(dataset, categories=(*COLOURS, "unicorn"))
    result = average_precision(more, perfect(dataset))
    assert result.ap == 1
    assert result.without_objects == ("unicorn",)
    assert (result.classes[3].ap, result.classes[3].ap50) == (None, None)
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["without_objects"] == ["unicorn"]
    assert values["ap_large"] is None, "no square is that large"


def test_average_precision_by_hand(dataset):
    """By falling score: one red square, a wrong box, the other red square. Precision is 1 up to recall 1/2, then 2/3."""
    found = {name: detections() for name in perfect(dataset)}
    found["0.png"] = detections(("red square", SQUARES["red square"], 0.9))
    found["1.png"] = detections(("red square", (60, 40, 90, 70), 0.8), ("red square", SQUARES["red square"], 0.7))
    red = average_precision(dataset, found).classes[0]
    assert red.ap == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert red.ap50 == pytest.approx(red.ap)


def boxes_within(width=100, height=80):
    def of(corners):
        (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
        return x1, y1, x2 + 5, y2 + 5

    x, y = st.integers(0, width - 5), st.integers(0, height - 5)
    return st.tuples(x, x, y, y).map(of)


LABELLED = st.lists(st.tuples(st.sampled_from(sorted(COLOURS)), boxes_within()), max_size=4)
SCORED = st.lists(
    st.tuples(st.sampled_from(sorted(COLOURS)), boxes_within(), st.integers(1, 64).map(lambda n: n / 64)), max_size=6
)


@settings(max_examples=40)
@given(st.lists(st.tuples(LABELLED, SCORED), min_size=1, max_size=4), st.data())
def test_random_cases_equal_pycocotools(tmp_path_factory, scenes, data):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    assume(any(truth for truth, _ in scenes))
    images = [
        ImageRecord(
            f"{n}.png",
            100,
            80,
            tuple(box(*b, **({"iscrowd": 1} if k and data.draw(st.booleans()) else {})) for k, b in enumerate(truth)),
        )
        for n, (truth, _) in enumerate(scenes)
    ]
    dataset = data_prep.Dataset(tuple(images), tuple(COLOURS))
    # each object is found a little beside its place; the other boxes are random
    found = {}
    for record, (truth, scored) in zip(images, scenes, strict=True):
        near = [(label, (x1, y1, x2 - 1, y2 - 2), 0.5) for label, (x1, y1, x2, y2) in truth]
        found[record.file_name] = detections(*near, *scored)
    result = average_precision(dataset, found)

    path = tmp_path_factory.mktemp("coco") / "truth.json"
    coco.write(dataset, path)
    rows = []
    for n, own in enumerate(found.values(), start=1):
        for xyxy, class_id, score in zip(own.xyxy.tolist(), own.class_id, own.confidence, strict=True):
            x1, y1, x2, y2 = xyxy
            bbox = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": n, "category_id": int(class_id) + 1, "bbox": bbox, "score": float(score)})
    assume(rows)  # pycocotools cannot load an empty list
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        peer = COCOeval(truth, truth.loadRes(rows), "bbox")
        peer.evaluate()
        peer.accumulate()
        peer.summarize()
    expected = [None if value < 0 else value for value in peer.stats]
    ours = [result.ap, result.ap50, result.ap75, result.ap_small, result.ap_medium, result.ap_large]
    assert ours == expected[:6]
    assert result.recall == expected[8]
    # `match_all` finds as many right boxes as pycocotools does at an IoU of 0.5
    matches = match_all(dataset, found)
    right = sum(
        int(((e["dtMatches"][0] > 0) & ~e["dtIgnore"][0]).sum())
        for e in peer.evalImgs
        if e and e["aRng"] == peer.params.areaRng[0]
    )
    assert matches.correct.sum() == right
