"""Boxes for things that an image does not show."""

from dataclasses import replace

import pytest
from made_up_detectors import ColourDetector, Hallucinating

from gdino_lib.evaluation.false_positives import ask_for_absent


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
