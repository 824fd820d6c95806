"""Referring expressions: one phrase, one box."""

import json

import pytest
from made_up_detectors import SQUARES, BlindDetector, ColourDetector, Hallucinating, box, captions

import data_prep
from data_prep import ImageRecord
from gdino_lib.evaluation.referring import referring_accuracy


def test_referring(dataset, folder):
    grounding = data_prep.Dataset(captions(dataset))
    result = referring_accuracy(ColourDetector(), grounding, folder)
    assert (result.phrases, result.correct, result.accuracy, result.misses) == (6, 6, 1.0, ())
    result = referring_accuracy(Hallucinating(), grounding, folder)
    # the IoU of the box (0, 0, 20, 20) and the square (5, 5, 30, 30) is 225 / 800
    assert result.correct == 0
    assert result.misses[0].iou == pytest.approx(225 / 800)
    assert referring_accuracy(Hallucinating(), grounding, folder, iou=0.28).correct == 2
    assert referring_accuracy(BlindDetector(), grounding, folder).accuracy == 0
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    with pytest.raises(ValueError, match="no captions"):
        referring_accuracy(ColourDetector(), dataset, folder)


def test_phrases_that_are_the_same_to_the_model_are_merged(folder):
    boxes = (box("the red square", (50, 50, 99, 79)), box("The Red square", SQUARES["red square"]))
    grounding = data_prep.Dataset((ImageRecord("0.png", 100, 80, boxes, "the red square"),))
    result = referring_accuracy(ColourDetector(), grounding, folder)
    assert (result.phrases, result.correct) == (1, 1)


def test_a_box_is_right_if_it_fits_any_box_of_the_phrase(folder):
    boxes = (box("the red square", (50, 50, 99, 79)), box("the red square", SQUARES["red square"]))
    grounding = data_prep.Dataset((ImageRecord("0.png", 100, 80, boxes, "the red square"),))
    assert referring_accuracy(ColourDetector(), grounding, folder).correct == 1
