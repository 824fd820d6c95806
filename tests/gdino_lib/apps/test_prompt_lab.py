"""The widgets of the prompt lab, driven through their values: what they show is what the detector finds."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from small_detectors import WORDS, build, picture

from gdino_lib.detect.drawing import draw_detections

widgets = pytest.importorskip("ipywidgets")
from gdino_lib.apps.prompt_lab import MOST_BOXES, SIDE, PromptLab  # noqa: E402 - needs ipywidgets


@pytest.fixture(scope="module")
def detector():
    return build()


@pytest.fixture
def lab(detector):
    lab = PromptLab(detector, picture(), WORDS[:3])
    lab.text_threshold.value = lab.box_threshold.value = 0.3
    return lab


def shown(lab):
    return np.asarray(Image.open(io.BytesIO(lab.picture.value)).convert("RGB")).astype(float)


def drawn(image, found, side=SIDE):
    """The image with boxes as the lab shows it, as a JPEG."""
    large = image.resize([round(length * side / max(image.size)) for length in image.size], Image.Resampling.BILINEAR)
    scale = [large.width / image.width, large.height / image.height]
    found.xyxy = (found.xyxy * [*scale, *scale]).astype(np.float32)
    content = io.BytesIO()
    draw_detections(large, found).save(content, "JPEG", quality=90)
    return np.asarray(Image.open(content)).astype(float)


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def cards(html):
    return re.findall(r"<b>([^<]*)</b>(?: |: )([^<]*)<", html)


def assert_shows(lab, found):
    labels = [(name, f"{score:.2f}") for name, score in zip(found.data["class_name"], found.confidence, strict=True)]
    assert cards(lab.boxes.value) == labels[:MOST_BOXES]
    assert (f"and {len(found) - MOST_BOXES} more" in lab.boxes.value) == (len(found) > MOST_BOXES)
    assert np.array_equal(shown(lab), drawn(lab.session.image, found))
    assert lab.message.value == ""


def test_each_control_shows_what_a_fresh_call_finds(detector, lab):
    prompt = {"box_threshold": 0.3, "text_threshold": 0.3}
    phrases = WORDS[:3]
    assert_shows(lab, detector(picture(), phrases, **prompt))
    phrases = ["bus", *WORDS[:2]]
    lab.phrases.value = phrases
    assert_shows(lab, detector(picture(), phrases, **prompt))
    lab.phrases.value = phrases = phrases[::-1]
    assert_shows(lab, detector(picture(), phrases, **prompt))
    lab.negatives.value = ["dog"]
    assert_shows(lab, detector(picture(), phrases, **prompt, negatives=["dog"]))
    prompt |= {"negatives": ["dog"], "nms_iou": 0.2}
    lab.nms.value = 0.2
    assert_shows(lab, detector(picture(), phrases, **prompt))
    lab.score.value = "max"
    assert_shows(lab, detector(picture(), phrases, **prompt, score="max"))
    lab.score.value, lab.phrases.value = "mean", ["a person with an umbrella"]
    lab.box_threshold.value = lab.text_threshold.value = 1.0
    assert lab.boxes.value == "nothing found"
    assert lab.picture.value
    assert lab.message.value == ""


def test_a_text_field_adds_chips(detector, lab):
    lab.add_phrases.value = "bus . cat. a dog ."
    lab.add_negatives.value = "tree"
    assert lab.phrases.value == [*WORDS[:3], "bus", "a dog"]
    assert lab.negatives.value == ["tree"]
    assert lab.add_phrases.value == lab.add_negatives.value == ""
    assert_shows(lab, detector(picture(), [*WORDS[:3], "bus", "a dog"], 0.3, 0.3, negatives=["tree"]))
    lab.add_phrases.value = "tree"
    assert "is also looked for, as phrase 5" in lab.message.value
    assert lab.phrases.value == [*WORDS[:3], "bus", "a dog"]


def test_the_code_to_copy_is_that_of_the_prompt(lab):
    lab.nms.value = 0.5
    assert lab.code.value == lab.session.prompt.code("nano", "picture.png")
    assert "nms_iou=0.5" in lab.code.value
    assert repr(WORDS[:3]) in lab.code.value
    lab.phrases.value = []
    assert lab.code.value == lab.boxes.value == ""


def test_a_threshold_of_its_own_belongs_to_the_selected_phrase(detector, lab):
    lab.phrases.value = ["cat", "remote control"]
    assert lab.own.disabled
    lab.selected.value = "remote control"
    lab.has_own.value = True
    assert not lab.own.disabled
    lab.own.value = 0.05
    assert dict(lab.session.prompt.own_thresholds) == {"remote control": 0.05}
    assert lab.box_threshold.disabled, "thresholds go by phrase now"
    lab.selected.value = "cat"
    assert not lab.has_own.value
    assert lab.own.value == 0.3
    lab.selected.value = "remote control"
    assert (lab.has_own.value, lab.own.value) == (True, 0.05)
    lab.has_own.value = False
    assert_shows(lab, detector(picture(), ["cat", "remote control"], 0.3, 0.3))
    lab.negatives.value = ["dog"]
    lab.selected.value = "dog"
    assert lab.has_own.disabled


def test_undo_and_history_set_every_control(lab):
    assert lab.undo.disabled
    lab.negatives.value = ["dog"]
    lab.box_threshold.value = 0.5
    lab.phrases.value = ["bus"]
    assert [label for label, _ in lab.history.options] == ["", " . ".join(WORDS[:3]), " . ".join(WORDS[:3])]
    lab.undo.click()
    assert (lab.phrases.value, lab.negatives.value, lab.box_threshold.value) == (WORDS[:3], ["dog"], 0.5)
    lab.history.value = 0
    assert (lab.phrases.value, lab.negatives.value, lab.box_threshold.value) == (WORDS[:3], [], 0.3)
    assert lab.undo.disabled


def test_wordings_stand_side_by_side(detector, lab):
    lab.wordings.value = "kitten, <b>, "
    names = [name for name, _ in re.findall(r"<b>([^<]*)</b>: (\d+) found", lab.compared.value)]
    assert names == ["cat", "kitten", "&lt;b&gt;"]
    found = detector(picture(), ["kitten", *WORDS[1:3]], 0.3, 0.3)
    assert f"<b>kitten</b>: {(found.class_id == 0).sum()} found" in lab.compared.value
    assert lab.phrases.value == WORDS[:3]
    lab.wordings.value = ""
    assert lab.compared.value == ""


def test_the_heat_map_follows_the_selected_phrase(lab):
    boxes = shown(lab)
    lab.view.value = "heat-map"
    first = shown(lab)
    lab.selected.value = WORDS[1]
    second = shown(lab)
    assert boxes.shape == first.shape
    assert len({each.tobytes() for each in (boxes, first, second)}) == 3
    lab.view.value = "boxes"
    assert np.array_equal(shown(lab), boxes)


def test_strips_have_the_scores_of_all_word_pieces(lab):
    lab.phrases.value = ["remote control", "a <b> cat"]
    strip = lab.boxes.value.split("</div></div>")[0]
    pieces = re.findall(r'title="([\d.]+)" style="[^"]*text-decoration:(\w+)[^"]*">([^<]*)<', strip)
    assert [piece for *_, piece in pieces] == ["remote", "control", "a", "&lt;", "b", "&gt;", "cat"]
    name, score = cards(strip)[0]
    own = [float(value) for value, line, _ in pieces if line == "underline"]
    assert len(own) == (2 if name == "remote control" else 5)
    assert np.mean(own) == pytest.approx(float(score), abs=0.011)
    data = re.search(r"base64,([^\"]*)", strip)[1]
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 110


@pytest.mark.parametrize(
    ("control", "value", "words"),
    [
        ("phrases", ["cat", "dog " * 300], "has 300 tokens; expected at most 253"),
        ("negatives", ["Cat"], "is also looked for, as phrase 0"),
        ("path", "nowhere<b>.png", "&#x27;nowhere&lt;b&gt;.png&#x27;: no such file"),
        (
            "upload",
            ({"name": "a.txt", "content": memoryview(b"no image")},),
            "expected an image file that PIL can read",
        ),
    ],
)
def test_what_is_refused_is_one_line_and_changes_nothing(lab, control, value, words):
    before, prompt = shown(lab), lab.session.prompt
    if control == "upload":
        lab._act(lambda: lab._open_upload(value))
    else:
        getattr(lab, control).value = value
    assert words in lab.message.value
    assert lab.message.value.count("<div") == 1
    assert lab.session.prompt == prompt
    assert lab.phrases.value == WORDS[:3]
    assert np.array_equal(shown(lab), before)
    lab.box_threshold.value = 0.31
    assert lab.message.value == ""


def test_a_warning_is_shown(lab):
    lab.phrases.value = ["cat", "😀😀"]
    assert "has no word that the model knows" in lab.message.value
    assert lab.phrases.value == ["cat", "😀😀"]


def test_a_picture_is_uploaded_or_read_from_a_path(detector, tmp_path):
    lab = PromptLab(detector, phrases=["cat"])
    assert lab.picture.layout.display == "none"
    lab.view.value = "heat-map"
    lab.view.value = "boxes"
    lab.text_threshold.value = lab.box_threshold.value = 0.3
    lab._act(lambda: lab._open_upload(({"name": "up.png", "content": memoryview(png(picture(1, (60, 90))))},)))
    assert "'up.png'" in lab.code.value
    assert_shows(lab, detector(picture(1, (60, 90)), ["cat"], 0.3, 0.3))
    picture(2).save(tmp_path / "two.png")
    lab.path.value = f" {tmp_path / 'two.png'} "
    assert_shows(lab, detector(picture(2), ["cat"], 0.3, 0.3))
    assert "two.png" in lab.code.value


def test_a_notebook_shows_it_with_core_widgets_only(lab):
    assert lab.widget.model_id in str(lab._repr_mimebundle_())

    def parts(widget):
        return [widget, *(part for child in getattr(widget, "children", ()) for part in parts(child))]

    assert {part._model_module for part in parts(lab.widget)} == {"@jupyter-widgets/controls"}
    assert len(parts(lab.widget)) > 20
