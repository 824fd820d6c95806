"""The words that a detector is asked for each class."""

import numpy as np
import pytest
from made_up_detectors import COLOURS, SQUARES, ColourDetector
from PIL import Image

from gdino_lib.evaluation.class_prompts import MAX_PAIRS, ClassPrompts
from gdino_lib.evaluation.detect_all import detect_all


class Listening(ColourDetector):
    """Remembers the lists of phrases; a list of one embedding is a list of one image."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, phrases, **options):
        self.asked.append(phrases)
        return super().__call__(images, phrases, **options)


@pytest.fixture
def pictures():
    image = Image.new("RGB", (100, 80))
    for name, xyxy in SQUARES.items():
        image.paste(COLOURS[name], xyxy)
    return [image, Image.new("RGB", (100, 80))]


def rows(found):
    names = found.data["class_name"].tolist()
    return sorted(zip(found.class_id.tolist(), names, map(tuple, found.xyxy.tolist()), strict=True))


ALL = [(number, name, SQUARES[name]) for number, name in enumerate(COLOURS)]


def test_classes_are_asked_for_by_their_names(pictures):
    detector = Listening()
    shown, nothing = ClassPrompts.build(list(COLOURS)).find(detector, pictures)
    assert detector.asked == [list(COLOURS)]
    assert rows(shown) == ALL
    assert len(nothing) == 0
    assert nothing.xyxy.shape == (0, 4)


@pytest.mark.parametrize(("size", "asked"), [(1, 3), (2, 2), (3, 1), (9, 1)])
def test_several_prompts_give_the_same(pictures, size, asked):
    detector = Listening()
    prompts = ClassPrompts.build(list(COLOURS), names_per_prompt=size)
    assert [len(prompt) <= size for prompt in prompts.prompts] == [True] * asked
    shown, nothing = prompts.find(detector, pictures)
    assert [name for prompt in detector.asked[:asked] for name in prompt] == list(COLOURS)
    assert (rows(shown), len(nothing)) == (ALL, 0)


def test_wordings(pictures):
    detector = Listening()
    classes = ["crimson", "green square", "sky"]
    prompts = ClassPrompts.build(classes, {"crimson": "red square", "sky": "blue_square"})
    shown, _ = prompts.find(detector, pictures)
    assert detector.asked == [["red square", "green square", "blue_square"]]
    assert rows(shown) == [(number, classes[number], xyxy) for number, _, xyxy in ALL]


@pytest.mark.parametrize("size", [None, 1])
def test_classes_that_share_their_words_share_their_boxes(pictures, size):
    detector = Listening()
    classes = ["bow_(weapon)", "Red Square", "bow_(ribbon)", "sky"]
    wordings = {"bow_(weapon)": "red square", "bow_(ribbon)": "red_square", "sky": "blue_square"}
    shown, _ = ClassPrompts.build(classes, wordings, size).find(detector, pictures)
    assert [name for asked in detector.asked[:2] for name in asked][:2] == ["red square", "blue_square"]
    red, blue = SQUARES["red square"], SQUARES["blue_square"]
    expected = [(0, "bow_(weapon)", red), (1, "Red Square", red), (2, "bow_(ribbon)", red), (3, "sky", blue)]
    assert rows(shown) == expected


def test_no_more_than_300_pairs_the_best_of_all_prompts(pictures):
    class Eager(ColourDetector):
        """Finds every phrase 200 times, later phrases with higher scores."""

        def find(self, image, phrases):
            found = super().find(image, ["red square"] * 200)
            found.class_id = np.zeros(200, np.int64)
            found.confidence = np.full(200, 0.1 * int(phrases[0].split()[-1]), np.float32)
            found.data["class_name"] = np.array(phrases * 200)
            return found

    classes = ["thing 1", "thing 3", "thing 2"]
    shown, _ = ClassPrompts.build(classes, names_per_prompt=1).find(Eager(), [pictures[0]] * 2)
    assert len(shown) == MAX_PAIRS
    assert shown.class_id.tolist() == [1] * 200 + [2] * 100


def test_what_is_refused():
    for arguments, words in (
        (([],), "no classes"),
        ((["cat"], {"dog": "hound"}), "a wording for 'dog', which is no class; classes are cat"),
        ((["cat"], {"cat": " "}), "class 'cat': expected words to ask for, got ' '"),
        ((["cat"], None, 0), "names_per_prompt: expected at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            ClassPrompts.build(*arguments)


def test_detect_all_gives_the_same(dataset, folder):
    found = detect_all(ColourDetector(), dataset, folder)
    for record in dataset.images:
        names = found[record.file_name].data["class_name"].tolist()
        assert sorted(names) == sorted(box.label for box in record.boxes)
