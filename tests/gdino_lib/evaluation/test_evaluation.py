"""Evaluation: exact answers for hand-made cases, pycocotools run by hand, a detector that is perfect, one that is blind."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import supervision as sv
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up_detectors import COLOURS, SHOWN, SQUARES, BlindDetector, ColourDetector, Hallucinating, box, detections
from peers import SMALL, randomise
from PIL import Image

import data_prep
import gdino_lib as gd
from data_prep import ImageRecord
from data_prep.formats import coco
from gdino_lib.data.records import ImageError
from gdino_lib.detect.thresholds import Thresholds, thresholds_path
from gdino_lib.evaluation.calibration import calibrate, choose_thresholds
from gdino_lib.evaluation.coco import average_precision, detect_all
from gdino_lib.evaluation.evaluate import evaluate
from gdino_lib.evaluation.false_positives import ask_for_absent, count_boxes
from gdino_lib.evaluation.matching import Matches, match_all
from gdino_lib.evaluation.referring import referring_accuracy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    for number, labels in enumerate(SHOWN):
        image = Image.new("RGB", (100, 80), (128, 128, 128))
        for label in labels:
            image.paste(COLOURS[label], SQUARES[label])
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def dataset():
    images = [
        ImageRecord(f"{number}.png", 100, 80, tuple(box(label, SQUARES[label]) for label in labels))
        for number, labels in enumerate(SHOWN)
    ]
    return data_prep.Dataset(tuple(images), tuple(COLOURS))


def perfect(dataset):
    return {record.file_name: detections(*[(b.label, b.xyxy, 0.9) for b in record.boxes]) for record in dataset.images}


# average precision


def test_a_perfect_detector(dataset, folder):
    found = detect_all(ColourDetector(), dataset, folder, batch_size=2)
    assert list(found) == [record.file_name for record in dataset.images]
    result = average_precision(dataset, found)
    assert (result.ap, result.ap50, result.ap75, result.recall) == (1, 1, 1, 1)
    assert (result.images, result.objects) == (5, 6)
    assert [(c.name, c.objects, c.ap, c.ap50) for c in result.classes] == [(name, 2, 1, 1) for name in COLOURS]
    assert result.without_objects == ()


class Listening(ColourDetector):
    """Remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, phrases, **options):
        self.asked += phrases
        return super().__call__(images, phrases, **options)


def test_an_image_may_be_asked_for_its_own_classes_and_some_others(dataset, folder):
    detector = Listening()
    found = detect_all(detector, dataset, folder, negatives=1, batch_size=2)
    for record, asked in zip(dataset.images, detector.asked, strict=True):
        own = {box.label for box in record.boxes}
        assert own <= set(asked)
        assert len(asked) == min(len(own) + 1, len(COLOURS))
    assert average_precision(dataset, found).ap == pytest.approx(1)
    again = Listening()
    part = replace(dataset, images=dataset.images[1:])  # whatever the other images are
    detect_all(again, part, folder, negatives=1)
    assert again.asked == detector.asked[1:]


def test_an_image_without_boxes_is_asked_for_something(dataset, folder):
    detector = Listening()
    bare = replace(dataset, images=(replace(dataset.images[0], boxes=()), *dataset.images[1:]))
    detect_all(detector, bare, folder, negatives=0)
    assert [len(asked) for asked in detector.asked] == [max(len({b.label for b in r.boxes}), 1) for r in bare.images]


class Doubtful(ColourDetector):
    """Takes each square for the class before its own, rather than for its own."""

    def __call__(self, images, phrases, **_):
        names = list(COLOURS)
        results = []
        for result in super().__call__(images, phrases):
            found = [
                (str(name), tuple(xyxy)) for name, xyxy in zip(result.data["class_name"], result.xyxy, strict=True)
            ]
            wrong = [(names[names.index(name) - 1], xyxy, 0.9) for name, xyxy in found]
            both = detections(*wrong, *((name, xyxy, 0.8) for name, xyxy in found), classes=phrases)
            both.data["best"] = np.arange(len(both)) < len(wrong)
            results.append(both)
        return results


def test_a_box_may_count_for_every_class_as_in_the_official_evaluation(dataset, folder):
    """The second guess counts for precision, and nowhere else."""
    found = detect_all(Doubtful(), dataset, folder)
    assert 0.3 < average_precision(dataset, found).ap <= 0.5
    assert match_all(dataset, found).correct.tolist() == [False] * 6
    best = {name: boxes[boxes.data["best"]] for name, boxes in found.items()}
    assert average_precision(dataset, best).ap == 0


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
    assert values["ap_large"] is None, "none is that large"


def test_by_hand(dataset):
    """Two red squares, one found at once, a false one between: precision 1 up to recall 1/2, then 2/3."""
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
def test_equal_to_pycocotools_by_hand(tmp_path_factory, scenes, data):
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
    # some of what is found is what is there, a little off
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
    assume(rows)  # pycocotools cannot load none
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
    # and the simpler matching agrees at one overlap: as many right boxes as COCO's
    matches = match_all(dataset, found)
    right = sum(
        int(((e["dtMatches"][0] > 0) & ~e["dtIgnore"][0]).sum())
        for e in peer.evalImgs
        if e and e["aRng"] == peer.params.areaRng[0]
    )
    assert matches.correct.sum() == right


# what does not fit is an error


def with_result(dataset, result):
    return perfect(dataset) | {"1.png": result}


def shuffled(dataset):
    found = perfect(dataset)["1.png"]
    found.class_id = found.class_id[::-1].copy()
    return found


def unnamed(class_id):
    return sv.Detections(
        xyxy=np.array([[0, 0, 9, 9]], np.float32), confidence=np.ones(1, np.float32), class_id=np.array([class_id])
    )


@pytest.mark.parametrize("call", [average_precision, match_all])
def test_ids_that_do_not_fit(dataset, call):
    found = perfect(dataset)
    with pytest.raises(ValueError, match=r"1 images without result, the first is '0\.png'"):
        call(dataset, {name: result for name, result in found.items() if name != "0.png"})
    with pytest.raises(ValueError, match=r"1 results without image, the first is '9\.png'"):
        call(dataset, found | {"9.png": detections()})
    with pytest.raises(ValueError, match=r"'1\.png': class id 1 is 'green square' here and 'red square' in the result"):
        call(dataset, with_result(dataset, shuffled(dataset)))
    for class_id in (-1, 3):
        with pytest.raises(ValueError, match=f"expected class ids of 0 to 2, got {class_id}"):
            call(dataset, with_result(dataset, unnamed(class_id)))
    with pytest.raises(ValueError, match="outside the image, which has 100 x 80 pixels"):
        call(dataset, with_result(dataset, detections(("red square", (0, 0, 10, 90), 0.5))))
    with pytest.raises(ValueError, match="expected finite"):
        call(dataset, with_result(dataset, detections(("red square", (0, 0, 10, 9), float("nan")))))
    with pytest.raises(ValueError, match="expected a class_id and a confidence"):
        call(dataset, with_result(dataset, sv.Detections(xyxy=np.array([[0, 0, 9, 9]], np.float32))))
    relative = {name: detections() for name in found} | {"0.png": detections(("red square", (0.1, 0.1, 0.3, 0.3), 0.5))}
    with pytest.raises(ValueError, match=r"expected xyxy in pixels, not in 0\.\.1"):
        call(dataset, relative)


def test_two_records_for_one_image(dataset):
    twice = replace(dataset, images=(*dataset.images, dataset.images[0]))
    with pytest.raises(ValueError, match=r"two records for the image '0\.png'"):
        average_precision(twice, perfect(dataset))


def test_nothing_to_measure_by(dataset, folder):
    empty = replace(dataset, images=dataset.images[4:])
    with pytest.raises(ValueError, match="no objects in 1 images"):
        average_precision(empty, perfect(empty))
    with pytest.raises(ValueError, match="no objects"):
        choose_thresholds(match_all(empty, perfect(empty)))
    with pytest.raises(ValueError, match="none of 1 records has a box"):
        evaluate(ColourDetector(), empty, folder)


def test_classes_that_are_one_to_the_model(dataset, folder):
    with pytest.raises(ValueError, match="'cat' and 'Cat' are the same words"):
        detect_all(ColourDetector(), replace(dataset, categories=("cat", "Cat")), folder)


def test_a_broken_image_is_named(dataset, folder):
    gone = ImageRecord("gone.png", 100, 80, (box("red square", (1, 1, 9, 9)),))
    with pytest.raises(ImageError, match=r"gone\.png': no such file"):
        detect_all(ColourDetector(), replace(dataset, images=(*dataset.images, gone)), folder)


# matching, over-detection


def test_each_object_is_found_once():
    record = ImageRecord("a.png", 100, 80, (box("red square", (0, 0, 20, 20)), box("red square", (50, 0, 70, 20))))
    dataset = data_prep.Dataset((record,), tuple(COLOURS))
    found = detections(
        ("red square", (0, 0, 20, 18), 0.6),  # second best for an object that is taken
        ("red square", (0, 0, 20, 20), 0.9),
        ("green square", (50, 0, 70, 20), 0.8),  # another class
        ("red square", (50, 0, 70, 11), 0.5),  # overlaps by 0.55
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


# calibration and thresholds


def made(confidence, correct, class_id=None, objects=((10, 10),)):
    n = len(confidence)
    ids = np.zeros(n, int) if class_id is None else np.array(class_id)
    return Matches(
        ("cat", "dog"), np.array(confidence, float), np.array(correct, bool), ids, np.zeros(n, int), np.array(objects)
    )


def test_calibration_by_hand():
    result = calibrate(made([0.95, 0.95, 0.15, 0.15, 1.0, 0.01], [1, 0, 0, 0, 1, 0]))
    last, second = result.bins[9], result.bins[1]
    assert (last.boxes, second.boxes) == (3, 2)
    assert last.confidence == pytest.approx(2.9 / 3)
    assert last.precision == pytest.approx(2 / 3)
    assert result.bins[0].boxes == 0, "0.01 is left out"
    assert result.bins[0].precision is None
    assert result.error == pytest.approx((3 * (2.9 / 3 - 2 / 3) + 2 * 0.15) / 5)
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert calibrate(made([], [])).error is None


def test_honest_scores_have_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.05, 1, 200_000)
    correct = rng.uniform(size=200_000) < confidence
    assert calibrate(made(confidence, correct)).error < 0.01
    assert calibrate(made(np.sqrt(confidence), correct)).error > 0.1


def test_thresholds_by_hand():
    matches = made([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 0], class_id=[0, 0, 0, 0, 0, 1], objects=((4, 1),))
    chosen = choose_thresholds(matches)
    assert chosen.classes == {"cat": 0.6}, "dogs were never found"
    assert chosen.f1["cat"] == pytest.approx(2 * 3 / (4 + 4))
    assert chosen.default == 0.6


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 5),
)
def test_no_other_threshold_is_better(boxes, missed):
    confidence, correct = map(np.array, zip(*boxes, strict=True))
    objects = int(correct.sum()) + missed
    assume(objects)
    chosen = choose_thresholds(made(confidence, correct, objects=((objects, 0),)))

    def f1(threshold):
        shown = confidence >= threshold
        return 2 * correct[shown].sum() / (shown.sum() + objects)

    best = max(f1(score) for score in confidence)
    assert chosen.f1.get("cat", 0) == pytest.approx(best)
    if best > 0:
        assert f1(chosen.classes["cat"]) == pytest.approx(best)


def test_thresholds_are_saved_and_kept(tmp_path):
    chosen = Thresholds(0.5, {"red square": 0.8, "blue_square": 0.1}, {"red square": 1.0})
    path = thresholds_path(tmp_path)
    assert path == tmp_path / "thresholds.json"
    assert thresholds_path(tmp_path / "best.safetensors") == tmp_path / "best.thresholds.json"
    chosen.save(path)
    assert Thresholds.load(path) == chosen
    found = detections(
        ("red square", (0, 0, 9, 9), 0.7),
        ("red square", (0, 0, 9, 9), 0.81),
        ("green square", (0, 0, 9, 9), 0.5),
        ("blue_square", (0, 0, 9, 9), 0.2),
    )
    assert chosen.keep(found).confidence.tolist() == pytest.approx([0.81, 0.5, 0.2])
    assert len(chosen.keep(detections())) == 0
    with pytest.raises(ValueError, match="class_name"):
        chosen.keep(unnamed(0))
    with pytest.raises(FileNotFoundError, match="no such file"):
        Thresholds.load(tmp_path / "other.json")
    for text in ("[1]", "{}", "nonsense", '{"default": 2, "classes": {}}', '{"default": 0.5, "classes": {"a": "b"}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"thresholds\.json: expected"):
            Thresholds.load(path)


def test_a_chosen_threshold_keeps_the_box_that_it_comes_from(dataset, tmp_path):
    found = {name: detections() for name in perfect(dataset)}
    found["0.png"] = detections(("red square", SQUARES["red square"], 0.1))  # 0.1 is another number in 32 bits
    choose_thresholds(match_all(dataset, found)).save(tmp_path / "t.json")
    assert len(Thresholds.load(tmp_path / "t.json").keep(found["0.png"])) == 1


# absent phrases, referring, all together


def test_absent_phrases(dataset, folder):
    right = ask_for_absent(ColourDetector(), dataset, folder, thresholds=(0.1, 0.5))
    assert [(c.boxes, c.images, c.phrases, c.images_with_boxes) for c in right] == [(0, 5, 9, 0)] * 2
    wrong = ask_for_absent(Hallucinating(), dataset, folder, thresholds=(0.5, 0.7))
    assert [(c.boxes, c.images_with_boxes, c.boxes_per_image) for c in wrong] == [(9, 5, 1.8), (0, 0, 0)]
    assert wrong[0].by_phrase == {"blue_square": 3, "green square": 3, "red square": 3}
    assert ask_for_absent(Hallucinating(), dataset, folder, names=["Blue square"])[0].boxes == 3
    some = ask_for_absent(Hallucinating(), dataset, folder, names=[f"thing {n}" for n in range(50)], most=4)
    assert some[0].phrases == 20
    one = replace(dataset, images=dataset.images[:1], categories=("red square",))
    with pytest.raises(ValueError, match="every image shows all classes"):
        ask_for_absent(ColourDetector(), one, folder)


def captions(dataset):
    return tuple(
        replace(r, caption="squares", boxes=tuple(replace(b, label=f"the {b.label}") for b in r.boxes))
        for r in dataset.images
    )


def test_referring(dataset, folder):
    grounding = data_prep.Dataset(captions(dataset))
    result = referring_accuracy(ColourDetector(), grounding, folder)
    assert (result.phrases, result.correct, result.accuracy, result.misses) == (6, 6, 1.0, ())
    result = referring_accuracy(Hallucinating(), grounding, folder)
    # the box (0, 0, 20, 20) overlaps (5, 5, 30, 30) by 225 / 800
    assert result.correct == 0
    assert result.misses[0].iou == pytest.approx(225 / 800)
    assert referring_accuracy(Hallucinating(), grounding, folder, iou=0.28).correct == 2
    assert referring_accuracy(BlindDetector(), grounding, folder).accuracy == 0
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    with pytest.raises(ValueError, match="no captions"):
        referring_accuracy(ColourDetector(), dataset, folder)


def test_phrases_that_are_the_same_to_the_model_are_one(folder):
    boxes = (box("the red square", (50, 50, 99, 79)), box("The Red square", SQUARES["red square"]))
    grounding = data_prep.Dataset((ImageRecord("0.png", 100, 80, boxes, "the red square"),))
    result = referring_accuracy(ColourDetector(), grounding, folder)
    assert (result.phrases, result.correct) == (1, 1)


def test_any_box_of_a_phrase_will_do(folder):
    boxes = (box("the red square", (50, 50, 99, 79)), box("the red square", SQUARES["red square"]))
    grounding = data_prep.Dataset((ImageRecord("0.png", 100, 80, boxes, "the red square"),))
    assert referring_accuracy(ColourDetector(), grounding, folder).correct == 1


def test_evaluate(dataset, folder):
    mixed = replace(dataset, images=dataset.images + captions(dataset))
    result = evaluate(ColourDetector(), mixed, folder)
    assert result.precision.ap == 1
    assert result.referring.accuracy == 1
    assert result.absent[0].boxes == 0
    assert result.counts[0].ratio == 1
    assert result.thresholds.classes == dict.fromkeys(COLOURS, float(np.float32(0.9)))
    assert result.calibration.error == pytest.approx(0.1)
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    only = evaluate(ColourDetector(), data_prep.Dataset(captions(dataset)), folder)
    assert only.precision is None
    assert only.absent == ()
    assert evaluate(ColourDetector(), dataset, folder, absent=[]).absent == ()


def test_with_a_real_detector(dataset, folder):
    config = SMALL.replace(short_side=64, long_side=128, encoder_layers=1, decoder_layers=1)
    model = gd.GroundingDINO(config)
    randomise(model)
    result = evaluate(
        gd.Detector(model), replace(dataset, images=dataset.images[:2] + captions(dataset)[:2]), folder, batch_size=2
    )
    assert 0 <= result.precision.ap <= 1
    assert result.counts[0].objects == 3
    assert result.referring.phrases == 3
