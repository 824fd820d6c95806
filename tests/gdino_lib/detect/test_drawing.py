"""Drawn boxes and labels can be seen on every background, at every size and in every script."""

import warnings

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from gdino_lib.detect.drawing import FONTS, _contrast, _fonts, _labels, draw_detections


def found_at(xyxy, names, confidence=0.5):
    return sv.Detections(
        xyxy=np.float32(xyxy),
        confidence=np.full(len(xyxy), confidence, dtype=np.float32),
        class_id=np.arange(len(xyxy)),
        data={"class_name": np.array(names)},
    )


@pytest.mark.parametrize("size", [(40, 30), (640, 480), (3000, 2000), (2000, 12)])
def test_boxes_and_labels_stand_out_from_every_background(size):
    width, height = size
    box = [[width * 0.2, height * 0.4, width * 0.8, height * 0.9]]
    for colour in ("black", "white", sv.ColorPalette.DEFAULT.by_idx(0).as_rgb()):
        image = Image.new("RGB", size, colour)
        drawn = draw_detections(image, found_at(box, ["cat"]))
        changed = (np.asarray(drawn) != np.asarray(image)).any(-1)
        assert drawn.size == size
        middle = width // 2
        sides = changed[:, middle].nonzero()[0]
        assert abs(sides[-1] - box[0][3]) <= max(3, min(size) / 100), "the lower side, as thick as the picture takes"
        assert not changed[round(height * 0.65) : round(height * 0.8), middle].any() or height < 30, (
            "the thing stays seen"
        )


def test_text_can_be_read_on_every_colour():
    """The contrast is at least 4.5 : 1, as WCAG 2 demands for text."""

    def luminance(colour):
        shares = [value / 255 for value in colour.as_rgb()]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for colour in sv.ColorPalette.DEFAULT.colors:
        dark, light = sorted((luminance(colour), luminance(_contrast(colour))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_a_phrase_that_the_font_cannot_write_becomes_its_number(monkeypatch):
    monkeypatch.setattr("gdino_lib.detect.drawing.FONTS", FONTS[:1])
    _fonts.cache_clear()
    image, box = Image.new("RGB", (200, 100)), [[20, 40, 90, 90], [110, 40, 190, 90]]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        drawn = draw_detections(image, found_at(box, ["café ёж", "猫"]))
    _fonts.cache_clear()
    assert [str(one.message) for one in said] == ["the font of the labels cannot write '猫': its boxes are labelled #1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(drawn, draw_detections(image, found_at(box, ["café ёж", "#1"])))
        assert np.array_equal(drawn, draw_detections(image, found_at(box, ["café\t \u200bёж\x07", "#1"]))), (
            "invisible characters are left out"
        )


def test_scale_gives_the_same_drawing_with_more_pixels():
    image = Image.new("RGB", (256, 200), "#808080")
    found = found_at([[40, 60, 120, 150]], ["cat"])
    small, large = draw_detections(image, found), draw_detections(image, found, scale=4)
    assert large.size == (1024, 800)
    coarse = np.asarray(large.resize(small.size, Image.Resampling.BOX), dtype=int)
    assert np.abs(coarse - np.asarray(small, dtype=int)).mean() < 3
    assert draw_detections(image, found[:0], scale=2).size == (512, 400)


def test_the_caller_chooses_letters_and_colours():
    image = Image.new("RGB", (300, 300))
    found = found_at([[20, 100, 120, 200], [150, 100, 280, 200]], ["cat", "dog"])
    drawn = [np.asarray(draw_detections(image, found, text_size=size, colours=["#00ff00"])) for size in (10, 30)]
    green = [(pixels == (0, 255, 0)).all(-1).sum() for pixels in drawn]
    assert green[1] > 3 * green[0]
    assert {tuple(colour) for colour in drawn[0].reshape(-1, 3)} >= {(0, 255, 0), (0, 0, 0)}


def test_the_image_may_be_a_file_and_stays_as_it_is(tmp_path):
    image = Image.new("RGB", (100, 80), "white")
    image.save(tmp_path / "a.png")
    found = found_at([[10, 10, 60, 60]], ["cat"])
    before = np.asarray(image).copy()
    drawn = draw_detections(image, found)
    assert np.array_equal(image, before)
    assert np.array_equal(draw_detections(tmp_path / "a.png", found), drawn)
    assert np.array_equal(draw_detections(before, found), drawn)


def test_boxes_without_phrases_are_refused():
    image, boxes = Image.new("RGB", (100, 80)), sv.Detections(xyxy=np.float32([[1, 2, 30, 40]]))
    with pytest.raises(ValueError, match="expected detections with confidence, class_id and class_name"):
        draw_detections(image, boxes)
    assert np.array_equal(draw_detections(image, sv.Detections.empty()), image)


def test_the_label_of_a_tracked_box_begins_with_its_id():
    found = found_at([[5, 5, 30, 30], [40, 40, 70, 70]], ["cat", "dog"])
    assert _labels(found)[0] == ["cat 0.50", "dog 0.50"]
    found.tracker_id = np.array([7, -1])
    assert _labels(found)[0] == ["7: cat 0.50", "dog 0.50"]
    image = Image.new("RGB", (120, 100), "white")
    tracked = np.asarray(draw_detections(image, found))
    found.tracker_id = np.array([8, -1])
    assert (tracked != np.asarray(draw_detections(image, found))).any(), "the id is in the picture"
