"""Names with several wordings, and negatives, against loops that follow the definition."""

import itertools

import numpy as np
import pytest
import supervision as sv
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_detectors import ALL, CONFIG, LONG, WORDS, assert_same, build, picture

from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.images import prepare
from gdino_lib.prompts import word_pieces

NAMES = {"passenger": ["cat", "bus"], "St. Bernard!": ["st. bernard"], "street": ["dog", "red_circle", "Fire Hydrant"]}
NEGATIVES = ["remote control", "a person with an umbrella"]


@pytest.fixture(scope="module")
def detector():
    return build()


def slow(detector, image, names, negatives=(), thresholds=None, nms_iou=None, top_k=None, every_phrase=False, **limits):
    """Rows (name, wording, score, box), by falling score."""
    owners = {wording: name for name, wordings in names.items() for wording in wordings} | dict.fromkeys(negatives)
    prompt = sorted(owners, key=word_pieces)
    config = detector.model.config
    with torch.no_grad():
        out = detector.model(prepare(image, config.short_side, config.long_side)[None], [prompt])
    width, height = image.size
    rows = []
    for logits, (x, y, w, h) in zip(out.logits[0], out.boxes[0].tolist(), strict=True):
        tokens = logits.sigmoid()
        of = [tokens[out.phrase_of_token[0] == number] for number in range(len(prompt))]
        scores = {phrase: own.mean().item() for phrase, own in zip(prompt, of, strict=True)}
        surest = max(own.max().item() for own in of)
        best = max(prompt, key=lambda phrase: scores[phrase])
        if owners[best] is None or surest < (0 if thresholds else limits["box_threshold"]):
            continue
        corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        box = np.clip(corners, 0, [width, height, width, height])
        for name, wordings in names.items() if every_phrase else [(owners[best], [best])]:
            wording = max(wordings, key=lambda phrase: scores[phrase])
            limit = thresholds.of([name])[0] if thresholds else limits["text_threshold"]
            if scores[wording] >= limit:
                rows.append((name, wording, scores[wording], box))
    rows.sort(key=lambda row: -row[2])
    kept = []
    for name, *_, box in rows:
        others = [other[3] for other in kept if other[0] == name]
        overlap = sv.box_iou_batch(np.array([box]), np.array(others)).max() if others and nms_iou is not None else 0
        if nms_iou is None or overlap <= nms_iou:
            kept.append((name, *_, box))
    return kept[:top_k]


def assert_equal(found, rows, names):
    assert found.data["class_name"].tolist() == [row[0] for row in rows]
    assert found.data["wording"].tolist() == [row[1] for row in rows]
    assert [list(names)[number] for number in found.class_id] == [row[0] for row in rows]
    np.testing.assert_allclose(found.confidence, [row[2] for row in rows], atol=1e-5)
    np.testing.assert_allclose(found.xyxy.reshape(-1, 4), np.reshape([row[3] for row in rows], (-1, 4)), atol=1e-2)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, unique=True),
    st.randoms(use_true_random=False),
    st.fixed_dictionaries(
        {
            "box_threshold": st.sampled_from([0.0, 0.4, 0.5]),
            "text_threshold": st.sampled_from([0.0, 0.4, 0.5]),
            "nms_iou": st.sampled_from([None, 0.1, 0.5]),
            "top_k": st.sampled_from([None, 3]),
            "every_phrase": st.booleans(),
            "thresholds": st.sampled_from([None, Thresholds(0.45, {"name 0": 0.3, "Name_1": 0.55}, {})]),
        }
    ),
)
def test_names_with_wordings_and_negatives_equal_plain_loops(detector, words, random, options):
    names = {}
    negatives = []
    for word in words:
        place = random.randrange(4)
        (negatives if place == 3 else names.setdefault(f"name {place}", [])).append(word)
    if not names:
        names, negatives = {"name 0": negatives[:1]}, negatives[1:]
    found = detector(picture(), names, negatives=negatives, **options)
    assert_equal(found, slow(detector, picture(), names, negatives, **options), names)


def test_the_loops_above_drop_and_relabel_something(detector):
    everything = slow(detector, picture(), NAMES, (), **ALL)
    rest = slow(detector, picture(), NAMES, NEGATIVES, **ALL)
    assert len(everything) == CONFIG.queries > len(rest) > 0
    assert len({wording for _, wording, *_ in everything}) > len({name for name, *_ in everything})


def test_one_wording_each_is_the_list(detector):
    listed, named = detector(picture(), WORDS, **ALL), detector(picture(), {word: [word] for word in WORDS}, **ALL)
    for found in (listed, named):
        assert found.data["wording"].tolist() == found.data["class_name"].tolist()
    assert np.array_equal(listed.xyxy, named.xyxy)
    assert np.array_equal(listed.class_id, named.class_id)
    assert np.array_equal(listed.confidence, named.confidence)


def test_order_of_names_and_wordings_and_repetition_change_no_box(detector):
    found = detector(picture(), NAMES, **ALL)
    turned = {name: (*reversed(wordings), wordings[0].upper()) for name, wordings in reversed(NAMES.items())}
    again = detector(picture(), turned, **ALL)
    assert np.array_equal(again.xyxy, found.xyxy)
    assert again.data["class_name"].tolist() == found.data["class_name"].tolist()
    assert (again.class_id == 2 - found.class_id).all()


@pytest.mark.parametrize("every_phrase", [False, True])
def test_chunks_relabel_and_drop_what_the_phrases_find(every_phrase):
    """Negatives in one chunk take away the boxes that other chunks find less sure."""
    detector = build(max_tokens=32)
    names, negatives = {"red": LONG[:10], "blue": LONG[10:20]}, LONG[20:]
    flat = detector(picture(), LONG, **ALL)
    wanted = flat[flat.class_id < 20]
    found = detector(picture(), names, **ALL, negatives=negatives, every_phrase=every_phrase)
    if every_phrase:
        found = found[found.data["best"]]
    assert 0 < len(wanted) < len(flat)
    assert np.array_equal(found.xyxy, wanted.xyxy)
    assert np.array_equal(found.class_id, wanted.class_id // 10)
    assert found.data["wording"].tolist() == wanted.data["class_name"].tolist()


def test_lists_of_images(detector):
    images = [picture(0), picture(1), picture(2, (60, 90))]
    same = detector(images, NAMES, **ALL, negatives=NEGATIVES)
    each = detector(images, [NAMES, ["cat"], {"umbrella": ["person", "umbrella"]}], **ALL, negatives="hat . dog of .")
    for image, found in zip(images, same, strict=True):
        assert_equal(found, slow(detector, image, NAMES, NEGATIVES, **ALL), NAMES)
    for image, found, names in zip(
        images[1:], each[1:], [{"cat": ["cat"]}, {"umbrella": ["person", "umbrella"]}], strict=True
    ):
        assert_equal(found, slow(detector, image, names, ["hat", "dog of"], **ALL), names)


def test_every_form_of_an_image(detector, tmp_path):
    image = picture()
    image.save(tmp_path / "a.png")
    clear = image.convert("RGBA")
    clear.putalpha(9)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [(tmp_path / "a.png").read_bytes(), clear, np.asarray(clear), tensor, tensor / 255]
    expected = detector(image, ["cat", "dog"], **ALL)
    for form in forms:
        found = detector(form, ["cat", "dog"], **ALL)
        assert np.array_equal(found.xyxy, expected.xyxy)
        assert np.array_equal(found.confidence, expected.confidence)
    for found in detector(forms, ["cat", "dog"], **ALL):
        assert_same(found, expected)


def test_an_explanation_has_all_phrases(detector):
    options = {**ALL, "nms_iou": 0.5, "top_k": 6}
    explanation = detector.explain(picture(), NAMES, negatives=NEGATIVES, **options)
    found = detector(picture(), NAMES, negatives=NEGATIVES, **options)
    assert explanation.phrases == (*itertools.chain(*NAMES.values()), *NEGATIVES)
    assert np.array_equal(explanation.detections.xyxy, found.xyxy)
    assert np.array_equal(explanation.detections.class_id, found.class_id)
    queries = explanation.detections.data["query"]
    for query, wording, score in zip(queries, found.data["wording"], found.confidence, strict=True):
        assert explanation.scores_of(wording)[-1, query].item() == pytest.approx(score, abs=1e-6)


def test_the_text_cache_knows_wordings_and_negatives():
    detector = build()
    detector(picture(), NAMES, negatives=NEGATIVES)
    kept = detector.text_cache.tokens
    detector(picture(), [*NEGATIVES, "bus"], negatives=["cat"])
    assert detector.text_cache.tokens == kept > 0


@pytest.mark.parametrize(
    ("phrases", "negatives", "error", "message"),
    [
        ({}, (), ValueError, "no phrases; expected at least one"),
        ({"car": []}, (), ValueError, "wordings of 'car': expected at least one, got none"),
        ({"car": "sedan"}, (), TypeError, "wordings of 'car': expected a list of strings, got str"),
        ({"car": ["car", 3]}, (), TypeError, "wording 1 of 'car': expected a string, got int"),
        ({"car": [" "]}, (), ValueError, "wording 0 of 'car' is empty"),
        ({3: ["car"]}, (), TypeError, "name 0: expected a string, got int"),
        ({" ": ["car"]}, (), ValueError, "name 0 is empty"),
        ({"car": ["dog " * 300]}, (), ValueError, "wording 0 of 'car', .* has 300 tokens; expected at most 253"),
        (["car"], {"bus": ["bus"]}, TypeError, "negatives: expected a string or a list, got dict"),
        (["car"], [3], TypeError, "negative 0: expected a string, got int"),
        (["car"], ["bus", ""], ValueError, "negative 1 is empty"),
        (["car"], ["bus", "Car."], ValueError, "negative 1, 'Car.', is also looked for, as phrase 0"),
        ({"car": ["auto", "car"]}, "car", ValueError, "negative 0, 'car', is also looked for, as wording 1 of 'car'"),
    ],
)
def test_what_cannot_be_looked_for_is_named(detector, phrases, negatives, error, message):
    for ask in (detector, detector.explain):
        with pytest.raises(error, match=message) as caught:
            ask(picture(), phrases, negatives=negatives)
        assert "\n" not in str(caught.value)


def test_a_negative_without_known_words_warns(detector):
    with pytest.warns(UserWarning, match="negative 0, '😀😀', has no word that the model knows"):
        detector(picture(), ["cat"], negatives=["😀😀"])
