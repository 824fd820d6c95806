"""A caller's phrases: which are refused, which give a warning, and how they are divided into prompts."""

import numpy as np
import pytest
import supervision as sv
from small_detectors import ALL, LONG, build, picture

from gdino_lib.detect.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def detector():
    return build()


@pytest.mark.parametrize(
    "ask",
    [
        lambda detector: detector([picture(), picture(1)], ["cat", "😀😀"]),
        lambda detector: detector([picture(), picture(1)], [["cat"], ["cat", "😀😀"]]),
        lambda detector: detector.refer(picture(), "😀😀"),
    ],
)
def test_phrases_without_known_words_warn(detector, ask):
    with pytest.warns(UserWarning, match="phrase ., '😀😀', has no word that the model knows") as said:
        ask(detector)
    assert [warning.filename for warning in said] == [__file__], "once, at the caller's line"


def test_phrases_of_invisible_characters_warn_and_find_nothing(detector):
    with pytest.warns(UserWarning, match="has no word"):
        assert len(detector(picture(), ["\u200b"], **ALL)) == 0


def test_a_phrase_of_too_many_tokens_is_refused_with_their_number(detector):
    with pytest.raises(ValueError, match=r"phrase 1, .* has 300 tokens; expected at most 253"):
        detector(picture(), ["cat", "dog " * 300])


def test_a_long_vocabulary_is_divided_into_chunks():
    detector = build(max_tokens=32)
    vocabulary = Vocabulary.build(LONG, 32)
    assert len(vocabulary.chunks) == 3
    found = detector(picture(), LONG, **ALL)
    assert len(found) > 0
    overlaps = sv.box_iou_batch(found.xyxy, found.xyxy) - np.eye(len(found))
    assert overlaps.max() <= 0.7, "boxes of several chunks do not overlap by more"
    shuffled = list(reversed(LONG))
    again = detector(picture(), shuffled, **ALL)
    assert np.array_equal(again.xyxy, found.xyxy)
    assert again.data["class_name"].tolist() == found.data["class_name"].tolist()
