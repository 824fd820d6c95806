"""Which phrases a detector gets for each image of a data set."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_detectors import COLOURS, ColourDetector, box, detections

from data_prep import ImageRecord
from gdino_lib.data.records import ImageError
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all
from gdino_lib.evaluation.matching import match_all


class Listening(ColourDetector):
    """Remembers the phrases that it was given."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, phrases, **options):
        self.asked += phrases
        return super().__call__(images, phrases, **options)


def test_negatives_limit_the_phrases_to_an_images_own_classes_and_some_others(dataset, folder):
    detector = Listening()
    found = detect_all(detector, dataset, folder, negatives=1, batch_size=2)
    for record, asked in zip(dataset.images, detector.asked, strict=True):
        own = {box.label for box in record.boxes}
        assert own <= set(asked)
        assert len(asked) == min(len(own) + 1, len(COLOURS))
    assert average_precision(dataset, found).ap == pytest.approx(1)
    again = Listening()
    part = replace(dataset, images=dataset.images[1:])  # the choice does not depend on the other images
    detect_all(again, part, folder, negatives=1)
    assert again.asked == detector.asked[1:]


def test_an_image_without_boxes_gets_at_least_one_phrase(dataset, folder):
    detector = Listening()
    bare = replace(dataset, images=(replace(dataset.images[0], boxes=()), *dataset.images[1:]))
    detect_all(detector, bare, folder, negatives=0)
    assert [len(asked) for asked in detector.asked] == [max(len({b.label for b in r.boxes}), 1) for r in bare.images]


class Doubtful(ColourDetector):
    """Gives each square two classes: the one before its own with score 0.9, its own with score 0.8."""

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
    """A box's second class counts for average precision, and for no other measure."""
    found = detect_all(Doubtful(), dataset, folder)
    assert 0.3 < average_precision(dataset, found).ap <= 0.5
    assert match_all(dataset, found).correct.tolist() == [False] * 6
    best = {name: boxes[boxes.data["best"]] for name, boxes in found.items()}
    assert average_precision(dataset, best).ap == 0


def test_classes_that_are_the_same_words_to_the_model_are_refused(dataset, folder):
    with pytest.raises(ValueError, match="'cat' and 'Cat' are the same words"):
        detect_all(ColourDetector(), replace(dataset, categories=("cat", "Cat")), folder)


def test_a_missing_image_is_named(dataset, folder):
    gone = ImageRecord("gone.png", 100, 80, (box("red square", (1, 1, 9, 9)),))
    with pytest.raises(ImageError, match=r"gone\.png': no such file"):
        detect_all(ColourDetector(), replace(dataset, images=(*dataset.images, gone)), folder)
