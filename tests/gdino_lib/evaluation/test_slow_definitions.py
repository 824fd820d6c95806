"""The evaluators equal slow definitions on made-up data; perfect boxes give 1, shuffled ones nearly 0."""

import random
from dataclasses import replace

import numpy as np
import pytest
import slow_measures
from slow_measures import mean_precision, overlap, pictures

import data_prep
from data_prep import Box, ImageRecord
from data_prep.formats.odvg import REGION
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.evaluation.lvis import lvis_precision
from gdino_lib.evaluation.phrase_grounding import BEST, grounding_recall
from gdino_lib.evaluation.referring import judge

CLASSES = ["ant", "bee", "cow", "dog", "eel", "fox", "gnu"]
FREQUENCY = dict(zip(CLASSES, "rccfffr", strict=True))
IDS = {name: 10 * number for number, name in enumerate(CLASSES, start=3)}
SIZES = ("small", "medium", "large")


def same(value, expected):
    return value is expected is None or value == pytest.approx(expected, abs=1e-12)


def as_dataset(made, federated=False):
    records = tuple(picture.record(f"{n}.png", IDS if federated else None) for n, picture in enumerate(made))
    categories = [{"id": IDS[name], "name": name, "frequency": FREQUENCY[name]} for name in CLASSES]
    return data_prep.Dataset(records, tuple(CLASSES), {"categories": categories} if federated else {})


def as_found(made):
    return {f"{n}.png": picture.detections(CLASSES) for n, picture in enumerate(made)}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_coco(seed, ties):
    made = pictures(seed, CLASSES, ties=ties)
    result = average_precision(as_dataset(made), as_found(made))
    assert same(result.ap, mean_precision(made, CLASSES))
    assert same(result.ap50, mean_precision(made, CLASSES, [0.5]))
    assert same(result.ap75, mean_precision(made, CLASSES, [0.75]))
    for size in SIZES:
        assert same(getattr(result, f"ap_{size}"), mean_precision(made, CLASSES, area=size)), size
    for entry in result.classes:
        assert same(entry.ap, mean_precision(made, [entry.name])), entry.name


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_lvis(seed, ties):
    made = pictures(seed, CLASSES, ties=ties, federated=True)
    result = lvis_precision(as_dataset(made, federated=True), as_found(made))
    slow = {"federated": True}
    assert same(result.ap, mean_precision(made, CLASSES, **slow))
    assert same(result.ap50, mean_precision(made, CLASSES, [0.5], **slow))
    assert same(result.ap75, mean_precision(made, CLASSES, [0.75], **slow))
    for size in SIZES:
        assert same(getattr(result, f"ap_{size}"), mean_precision(made, CLASSES, area=size, **slow)), size
    for name, letter in (("rare", "r"), ("common", "c"), ("frequent", "f")):
        own = [label for label in CLASSES if FREQUENCY[label] == letter]
        assert same(getattr(result, f"ap_{name}"), mean_precision(made, own, **slow)), name
    for entry in result.classes:
        assert same(entry.ap, mean_precision(made, [entry.name], **slow)), entry.name
    assert result.objects == sum(len(picture.truth) for picture in made)


def test_lvis_and_coco_differ_where_annotations_are_missing():
    made = pictures(3, CLASSES, federated=True)
    federated, plain = (
        lvis_precision(as_dataset(made, federated=True), as_found(made)),
        average_precision(as_dataset(made), as_found(made)),
    )
    assert federated.ap > plain.ap + 0.01


def test_lvis_keeps_300_boxes_of_an_image():
    """301 boxes: the right one has the lowest score, so that it is the one that is left out."""
    (picture,) = pictures(0, CLASSES, count=1)
    picture.truth, picture.absent = [("ant", (0, 0, 50, 50), 2500)], ["bee"]
    wrong = [("bee", (0, 0, 9, 9), 0.9)] * 300
    for count, expected in ((299, 1.0), (300, 0.0)):
        picture.found = [*wrong[:count], ("ant", (0, 0, 50, 50), 0.1)]
        assert lvis_precision(as_dataset([picture], federated=True), as_found([picture])).ap == expected
        assert mean_precision([picture], CLASSES, federated=True) == expected


@pytest.mark.parametrize("federated", [False, True])
def test_perfect_boxes_give_1_and_shuffled_ones_nearly_0(federated):
    made = pictures(5, CLASSES, count=60, federated=federated)
    measure = lvis_precision if federated else average_precision
    for picture in made:
        picture.found = [(label, xyxy, 0.9) for label, xyxy, _ in picture.truth]
    assert measure(as_dataset(made, federated), as_found(made)).ap == 1
    shuffled = random.Random(0).sample([picture.found for picture in made], len(made))
    for picture, found in zip(made, shuffled, strict=True):
        picture.found = found
    assert measure(as_dataset(made, federated), as_found(made)).ap < 0.05


def test_lvis_without_boxes_or_lists():
    made = pictures(1, CLASSES, federated=True)
    dataset = as_dataset(made, federated=True)
    for picture in made:
        picture.found = []
    result = lvis_precision(dataset, as_found(made))
    assert (result.ap, result.ap50) == (0, 0)
    with pytest.raises(ValueError, match="expected LVIS's categories, got none for the class 'ant'"):
        lvis_precision(replace(dataset, extra={}), as_found(made))
    with pytest.raises(ValueError, match="images without result"):
        lvis_precision(dataset, {})
    with pytest.raises(ValueError, match="no objects in 6 images"):
        lvis_precision(replace(dataset, images=tuple(replace(r, boxes=()) for r in dataset.images)), as_found(made))


def boxes_of(rng, count):
    return [slow_measures._box(rng) for _ in range(count)]


def as_boxes(rows):
    """`FoundBoxes` of rows (xyxy, class id), by falling score."""
    scores = np.linspace(0.9, 0.1, max(len(rows), 1))[: len(rows)]
    xyxy = np.array([xyxy for xyxy, _ in rows], np.float32).reshape(-1, 4)
    return FoundBoxes(xyxy, scores.astype(np.float32), np.array([class_id for _, class_id in rows], np.int64))


@pytest.mark.parametrize("seed", range(5))
def test_referring(seed):
    rng = random.Random(seed)
    records, found, right = [], [], 0
    for number in range(30):
        xyxy = slow_measures._box(rng)
        x1, y1, x2, y2 = xyxy
        near = (x1, y1, x1 + max((x2 - x1) * rng.choice([0.4, 0.5, 0.6, 1.0]), 1), y2)
        answer = rng.choice([[], [near], [near], boxes_of(rng, 1)])
        records.append(ImageRecord(f"{number % 7}.jpg", 200, 200, (Box("the thing", *xyxy),), "the thing"))
        found.append(as_boxes([(box, 0) for box in answer]))
        right += any(overlap(np.float32(box).tolist(), xyxy) >= 0.5 for box in answer)
    result = judge(records, found)
    assert (result.phrases, result.correct) == (30, right)
    assert judge(records, [as_boxes([(r.boxes[0].xyxy, 0)]) for r in records]).accuracy == 1
    with pytest.raises(ValueError, match="one result for each of 30 records, got 29"):
        judge(records, found[1:])


def recall_by_hand(sentences, k, merged, kind):
    """The share of phrases of one type of which one of the k first boxes is right."""
    total = right = 0
    for truth, answers in sentences:
        for (types, boxes), answer in zip(truth, answers, strict=True):
            if kind not in ("all", *types):
                continue
            around = [tuple(f(b[i] for b in boxes) for i, f in enumerate((min, min, max, max)))]
            total += 1
            right += any(overlap(found, box) >= 0.5 for found in answer[:k] for box in (around if merged else boxes))
    return right / total


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_phrase_grounding(seed, merged):
    rng = random.Random(seed)
    sentences, records, found = [], [], []
    for number in range(25):
        truth = [(rng.choice([["people"], ["animals"], ["people", "other"]]), boxes_of(rng, rng.randint(1, 3)))]
        truth += [(["other"], boxes_of(rng, 1))] * rng.randint(0, 1)
        answers = []
        for _, boxes in truth:
            own = boxes_of(rng, rng.randint(0, 12))
            if rng.random() < 0.7:
                own.insert(rng.randint(0, len(own)), rng.choice(boxes))
            answers.append(own[:10])
        sentences.append((truth, answers))
        labelled = tuple(
            Box("words", *xyxy, extra={REGION: index * 3, "types": types})
            for index, (types, boxes) in enumerate(truth)
            for xyxy in boxes
        )
        records.append(ImageRecord(f"{number}.jpg", 200, 200, labelled, "words"))
        found.append(as_boxes([(box, index) for index, answer in enumerate(answers) for box in answer]))
    result = grounding_recall(records, found, merged)
    assert result.phrases["all"] == sum(len(truth) for truth, _ in sentences)
    for kind, own in result.recall.items():
        assert own == {k: recall_by_hand(sentences, k, merged, kind) for k in BEST}, kind
    if merged:
        return
    perfect = [as_boxes([(boxes[0], n) for n, (_, boxes) in enumerate(truth)]) for truth, _ in sentences]
    assert grounding_recall(records, perfect).recall["all"] == dict.fromkeys(BEST, 1.0)
    shuffled = grounding_recall(records, perfect[1:] + perfect[:1])
    assert shuffled.recall["all"][1] < 0.15
    with pytest.raises(ValueError, match="one result for each of 25 sentences, got 24"):
        grounding_recall(records, found[1:])
