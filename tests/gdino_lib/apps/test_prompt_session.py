"""The prompt lab without widgets: every state gives what a fresh call of the detector gives."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_detectors import LONG, WORDS, build, picture

import gdino_lib as gd
from gdino_lib.apps.prompt_session import KEPT_PREDICTIONS, PromptSession
from gdino_lib.detect.thresholds import Thresholds


@pytest.fixture(scope="module")
def detector():
    return build()


@pytest.fixture
def session(detector):
    session = PromptSession(detector)
    session.open(picture())
    session.change(phrases=WORDS[:3], box_threshold=0.3, text_threshold=0.3)
    return session


def assert_equal(found, expected):
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.confidence, expected.confidence)
    assert found.data["class_name"].tolist() == expected.data["class_name"].tolist()


def fresh(detector, image, prompt):
    own = {phrase: value for phrase, value in prompt.own_thresholds.items() if phrase in prompt.phrases}
    thresholds = Thresholds(prompt.text_threshold, own, {}) if own else None
    return detector(
        image,
        list(prompt.phrases),
        prompt.box_threshold,
        prompt.text_threshold,
        prompt.nms_iou,
        score=prompt.score,
        thresholds=thresholds,
        negatives=prompt.negatives,
    )


CHANGES = st.one_of(
    st.lists(st.sampled_from(WORDS[:5]), min_size=1, max_size=4).map(lambda words: {"phrases": words}),
    st.lists(st.sampled_from(WORDS[5:]), max_size=2).map(lambda words: {"negatives": words}),
    st.floats(0, 1).map(lambda value: {"box_threshold": value}),
    st.floats(0, 1).map(lambda value: {"text_threshold": value}),
    st.sampled_from([None, 0.1, 0.5]).map(lambda value: {"nms_iou": value}),
    st.sampled_from(["mean", "max"]).map(lambda value: {"score": value}),
    st.dictionaries(st.sampled_from(WORDS), st.floats(0, 0.6), max_size=2).map(lambda own: {"own_thresholds": own}),
    st.just("undo"),
)


@settings(max_examples=12)
@given(st.lists(CHANGES, min_size=1, max_size=8))
def test_every_state_equals_a_fresh_call(detector, changes):
    session = PromptSession(detector)
    session.open(picture())
    for change in changes:
        session.undo() if change == "undo" else session.change(**change)
        found = session.detections()
        if not session.prompt.phrases:
            assert found is None
            continue
        assert_equal(found, fresh(detector, picture(), session.prompt))


def test_the_backbone_runs_once_and_the_decoder_once_for_new_phrases(detector, session):
    calls = []
    hooks = [
        getattr(detector.model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in ("image_backbone", "decoder")
    ]
    session.open(picture(1))
    session.change(phrases=["cat", "bus"])
    session.change(phrases=["dog", "bus"])
    for value in (0.1, 0.2, 0.3):
        session.change(box_threshold=value, nms_iou=value)
        session.detections()
    assert session.undo()
    session.detections()
    for hook in hooks:
        hook.remove()
    assert calls == ["image_backbone", "decoder", "decoder"]


def test_history_holds_prompts_and_undo_returns_to_them(session):
    first = session.prompt
    session.change(text_threshold=0.4)
    second = session.prompt
    session.change(phrases=["bus"])
    session.change(negatives=["dog"])
    assert session.history == [second, session.history[1]]
    assert session.history[1].phrases == ("bus",)
    session.change(phrases=["tree"], box_threshold=0.9)
    assert session.go_back(1)
    assert session.prompt.phrases == ("bus",)
    assert session.undo()
    assert session.prompt == second != first
    assert not session.undo()
    assert not session.go_back(3)
    assert session.prompt == second


def test_a_change_that_fails_leaves_the_prompt(session):
    before = session.prompt
    for change in (
        {"phrases": ["cat", " "]},
        {"negatives": ["Cat"]},
        {"phrases": ["dog " * 300]},
        {"box_threshold": 2},
        {"score": "sum"},
    ):
        with pytest.raises(ValueError, match=r"expected|looked for|empty"):
            session.change(**change)
    with pytest.raises(FileNotFoundError):
        session.open("nowhere.png")
    assert session.prompt == before
    assert not session.history
    assert session.image.size == (90, 60)


def test_without_image_or_phrases_nothing_is_found(detector):
    session = PromptSession(detector)
    assert session.detections() is None
    session.change(phrases=["cat"], box_threshold=0.0, text_threshold=0.0)
    assert session.detections() is None
    assert session.token_scores(0) == []
    with pytest.raises(ValueError, match="heat-map: expected an image, got none"):
        session.heat_map("cat")
    with pytest.raises(ValueError, match="wordings: expected an image"):
        session.compare("cat", ["dog"])
    content = io.BytesIO()
    picture().save(content, "PNG")
    session.open(content.getvalue())
    assert len(session.detections()) > 0


def test_wordings_are_compared_within_the_prompt(detector, session):
    session.change(own_thresholds={"cat": 0.2})
    for wording, found in session.compare("cat", ["cat", "kitten", "a small cat"]):
        phrases = [wording, *WORDS[1:3]]
        everything = detector(picture(), phrases, thresholds=Thresholds(0.3, {wording: 0.2, "cat": 0.2}, {}))
        assert_equal(found, everything[everything.class_id == 0])
    assert session.prompt.phrases == tuple(WORDS[:3])
    with pytest.raises(ValueError, match=r"phrase: expected one of 'cat', .*, got 'bus'"):
        session.compare("bus", ["car"])


def test_tokens_and_heat_maps_are_those_of_the_explanation(detector, session):
    session.change(negatives=["dog"], box_threshold=0.0, text_threshold=0.0)
    found = session.detections()
    explanation = detector.explain(picture(), WORDS[:3], negatives=["dog"])
    for query in found.data["query"]:
        logits = explanation.logits[-1, query].sigmoid()
        expected = [logits[token].item() for phrase in explanation.phrases for token in explanation.tokens_of(phrase)]
        assert sorted(token.score for token in session.token_scores(query)) == pytest.approx(sorted(expected), abs=1e-6)
    drawn = [np.asarray(session.heat_map(phrase)) for phrase in explanation.phrases]
    assert drawn[0].shape == (60, 90, 3)
    assert len({each.tobytes() for each in drawn}) == len(drawn)
    assert session.heat_map("cat", picture().resize((180, 120))).size == (180, 120)
    with pytest.raises(ValueError, match="phrase: expected one of"):
        session.heat_map("bus")


@pytest.mark.parametrize(
    "changes", [{}, {"negatives": ["dog's"], "nms_iou": 0.5, "score": "max"}, {"own_thresholds": {"cat": 0.2}}]
)
def test_the_code_finds_the_same(detector, session, tmp_path, monkeypatch, changes):
    session.change(**changes)
    picture().save(tmp_path / "it's.png")
    monkeypatch.setattr(gd.Detector, "from_pretrained", lambda name: detector if name == "nano" else None)
    names = {}
    exec(session.prompt.code("nano", str(tmp_path / "it's.png")), names)
    assert_equal(names["found"], session.detections())


def test_few_predictions_are_kept(detector):
    session = PromptSession(detector)
    session.open(picture())
    for word in [*LONG, *LONG[::-1], *map(str.upper, LONG)]:
        session.change(phrases=[word])
    assert len(session._predictions) == KEPT_PREDICTIONS
    assert_equal(session.detections(), fresh(detector, picture(), session.prompt))
