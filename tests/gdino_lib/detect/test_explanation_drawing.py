"""The picture of an explanation: its parts are where they belong, whatever the image and the model."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from small_detectors import ALL, build, picture

import gdino_lib as gd
from gdino_lib.detect.explanation_drawing import GAP, LEVELS, LINE, MARK, PANEL, draw_explanation, draw_heat_map


@pytest.fixture(scope="module")
def detector():
    return build(encoder_layers=2)


def draw(detector, image, phrases, number=0):
    explanation = detector.explain(image, phrases, **ALL)
    found = explanation.detections
    phrase = found.data["class_name"][number]
    return explanation, draw_explanation(image, explanation, found.data["query"][number], phrase)


def is_colour(drawn, colour):
    return (np.asarray(drawn) == ImageColor.getrgb(colour)).all(-1)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (1, 1), (700, 5), (1200, 900)])
def test_images_of_all_shapes(detector, size):
    image = picture(0, size)
    before = np.asarray(image).copy()
    _, drawn = draw(detector, image, ["cat", "remote control"])
    assert drawn.mode == "RGB"
    assert drawn.width >= GAP + 3 * (PANEL + GAP), "a column for the proposal and one for each of two layers"
    assert np.array_equal(np.asarray(image), before)


def test_boxes_stand_where_the_explanation_has_them(detector):
    image = Image.new("RGB", (PANEL, PANEL), "#404040")  # a panel of the same size, so no coordinate is scaled
    explanation = detector.explain(image, ["cat"], **ALL)
    query = int(explanation.boxes[1:, :, 2:].sub(explanation.boxes[1:, :, :2]).amin((0, 2)).argmax())  # a large box
    drawn = draw_explanation(image, explanation, query, "cat")
    top = 3 * LINE + (PANEL + 3 * LINE + GAP) + 2 * LINE + 8  # below the title, the first row, and the own heading
    for column, box in enumerate(explanation.query(query).boxes):
        left = GAP + column * (PANEL + GAP)
        panel = is_colour(drawn.crop((left, top, left + PANEL, top + PANEL)), MARK)
        rows, columns = panel.any(1).nonzero()[0], panel.any(0).nonzero()[0]
        expected = [0 if value < 3 else PANEL if value > PANEL - 3 else value for value in box.tolist()]
        found = [columns[0], rows[0], columns[-1], rows[-1]]
        assert np.abs(np.array(expected) - found).max() <= 3


def test_a_ring_marks_the_token_and_dots_the_samples():
    detector = gd.Detector.from_pretrained("nano", device="cpu")
    image = Image.new("RGB", (PANEL, PANEL), "#404040")
    explanation = detector.explain(image, ["cat"], **ALL)
    query = next(
        n for n in range(100) if 60 < explanation.query(n).place.x < 200 and 60 < explanation.query(n).place.y < 200
    )
    drawn, place = draw_explanation(image, explanation, query, "cat"), explanation.query(query).place
    left, top = GAP + (len(explanation.stages) - 1) * (PANEL + GAP), 3 * LINE + 2 * LINE + 8
    rows, columns = is_colour(drawn.crop((left, top, left + PANEL, top + PANEL)), MARK).nonzero()
    assert (columns.min() + columns.max()) / 2 == pytest.approx(place.x, abs=1.5)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(place.y, abs=1.5)
    below = drawn.crop((GAP + PANEL + GAP, top + 2 * (PANEL + 3 * LINE + GAP), drawn.width, drawn.height))
    for colour in LEVELS[: len(explanation.shapes)]:
        assert is_colour(below, colour).sum() > 20


def test_heat_is_where_the_tokens_resemble_the_phrase(detector):
    image = Image.new("RGB", (PANEL, PANEL))  # black, so that all light is heat
    explanation = detector.explain(image, ["cat"], **ALL)
    scores = torch.full((len(explanation.selection_scores), len(explanation.pieces)), -20.0)
    warm = explanation.token_at(200, 60, 0)
    scores[warm] = 3.0
    for stage in explanation.stages:
        stage.logits.copy_(scores)
    drawn = draw_explanation(image, explanation, 0, "cat")
    top = 3 * LINE + 2 * LINE + 8
    panel = np.asarray(drawn.crop((GAP, top, GAP + PANEL, top + PANEL)), dtype=float).sum(-1)
    y, x = (float((panel.sum(1 - axis) * np.arange(PANEL)).sum() / panel.sum()) for axis in (0, 1))
    place = explanation.place(warm)
    assert (x, y) == pytest.approx((place.x, place.y), abs=3)


def test_ablations_and_long_prompts():
    static = build(language_guided=False, text_cross_attention=False, fusion=False)
    _, drawn = draw(static, picture(), ["cat"])
    assert drawn.height > 3 * PANEL * 60 / 90
    explanation, few = draw(build(), picture(), ["cat"])
    assert len(explanation.pieces) == 4
    _, many = draw(build(), picture(), ["a", "b", "c", "d", "e", "f", "g", "h"])
    assert many.height == few.height + (12 - 4) * LINE, "at most 12 tokens"


def test_letters_that_no_font_has_become_a_number(monkeypatch):
    from gdino_lib.detect.drawing import FONTS, _fonts

    monkeypatch.setattr("gdino_lib.detect.drawing.FONTS", FONTS[:1])
    _fonts.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        draw(build(), picture(), ["猫"])
    _fonts.cache_clear()
    assert "the font of the labels cannot write '猫'" in [str(one.message).split(":")[0] for one in said]


def test_what_does_not_fit_is_refused(detector):
    explanation = detector.explain(picture(), ["cat"])
    for message, arguments in {
        "image: expected the explained image of 90 x 60 pixels, got 60 x 90": (
            picture(0, (60, 90)),
            explanation,
            0,
            "cat",
        ),
        "phrase: expected one of 'cat', got 'dog'": (picture(), explanation, 0, "dog"),
        "query: expected 0 to 19, got 20": (picture(), explanation, 20, "cat"),
    }.items():
        with pytest.raises(ValueError, match=f"^{message}$"):
            draw_explanation(*arguments)


def test_a_heat_map_covers_the_image_and_is_the_brighter_the_higher_the_score(detector):
    explanation = detector.explain(picture(), ["cat", "dog"], **ALL)
    black = Image.new("RGB", (90, 60))
    drawn = np.asarray(draw_heat_map(black, explanation, "dog")).sum(-1)
    assert drawn.shape == (60, 90)
    levels = [Image.fromarray(level.numpy()) for level in explanation.heat_maps("dog")]
    scores = np.max([np.asarray(level.resize((90, 60), Image.Resampling.BILINEAR)) for level in levels], axis=0)
    assert (np.diff(drawn.ravel()[scores.argsort(axis=None)]) >= 0).all()
    assert drawn.max() == 3 * 255
    with pytest.raises(ValueError, match="phrase: expected one of 'cat', 'dog', got 'bus'"):
        draw_heat_map(black, explanation, "bus")
