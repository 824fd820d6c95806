"""The Detector on small random models: labels are exact, and order, case and batch change nothing."""

import dataclasses
import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_detectors import ALL, CONFIG, LONG, WORDS, assert_same, build, picture
from torchvision.ops import nms

import gdino_lib as gd
from gdino_lib.prompts import tokenizer, word_pieces
from gdino_lib.weights.loading import save


@pytest.fixture(scope="module")
def detector():
    return build()


def test_the_contract(detector):
    found = detector(picture(), ["cat", "remote control"], **ALL)
    assert isinstance(found, sv.Detections)
    assert len(found) == CONFIG.queries
    assert found.xyxy.dtype == np.float32
    assert found.xyxy.min() >= 0
    assert found.xyxy[:, 2].max() <= 90
    assert found.xyxy[:, 3].max() <= 60
    assert (np.diff(found.confidence) <= 0).all()
    for number, name in zip(found.class_id, found.data["class_name"], strict=True):
        assert ["cat", "remote control"][number] == name


def test_an_empty_result_is_whole(detector):
    found = detector(picture(), ["cat"], box_threshold=1.0, text_threshold=1.0, nms_iou=0.5, top_k=3)
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert found.class_id.shape == found.confidence.shape == found.data["class_name"].shape == (0,)
    merged = sv.Detections.merge([found, detector(picture(), ["cat"], **ALL)])
    assert len(merged) == CONFIG.queries


PHRASE_LISTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)


@settings(max_examples=15)
@given(PHRASE_LISTS, st.randoms(use_true_random=False))
def test_order_case_and_repetition_change_no_box_and_no_label(detector, phrases, random):
    expected = detector(picture(), list(dict.fromkeys(phrases)), **ALL)
    changed = [phrase.upper() if random.random() < 0.5 else phrase for phrase in phrases * 2]
    random.shuffle(changed)
    found = detector(picture(), changed, **ALL)
    # the same prompt goes through the model, so the numbers are the same bits
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.confidence, expected.confidence)
    assert [n.lower() for n in found.data["class_name"]] == [n.lower() for n in expected.data["class_name"]]
    firsts = [n.lower() for n in changed]
    for number, name in zip(found.class_id, found.data["class_name"], strict=True):
        assert changed[number] == name
        assert firsts.index(name.lower()) == number, "the first of the phrases that are alike"


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(PHRASE_LISTS, st.integers(0, 2), st.sampled_from([(90, 60), (60, 90), (64, 64)])),
        min_size=1,
        max_size=5,
    )
)
def test_neighbours_in_a_batch_change_nothing(detector, batch):
    images = [picture(seed, size) for _, seed, size in batch]
    together = detector(images, [phrases for phrases, _, _ in batch], **ALL)
    assert len(together) == len(batch)
    for found, image, (phrases, _, _) in zip(together, images, batch, strict=True):
        assert_same(found, detector(image, phrases, **ALL))


def test_one_vocabulary_for_many_images(detector):
    images = [picture(seed, size) for seed, size in enumerate([(90, 60), (64, 64), (90, 60), (30, 80)])]
    for found, image in zip(detector(images, "cat . dog .", **ALL), images, strict=True):
        assert_same(found, detector(image, ["cat", "dog"], **ALL))
    assert detector([], ["cat"]) == []


@pytest.mark.parametrize(
    "phrase",
    [
        "café au lait",
        "with_mask",
        "a/b, c; d",
        "St. Bernard?",
        "猫",
        "кошка",
        "x" * 200,
        "a " * 100,
        "'quoted' \"twice\"",
        "é" * 30,
    ],
)
def test_the_label_is_the_callers_string(detector, phrase):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = detector(picture(), [phrase, "dog"], **ALL)
    assert set(found.data["class_name"]) <= {phrase, "dog"}
    alone = detector(picture(), [phrase], **ALL)
    assert set(alone.data["class_name"]) == {phrase}


@pytest.mark.parametrize("written", ["{}.", "{},", "{};", '"{}"', "'{}',", " \u201c{}.\u201d ", "{}...", ", {} ;"])
def test_punctuation_around_phrases_changes_no_bit_and_the_label_keeps_it(detector, written):
    phrases = ["tropical fish", "C++", "no. 5", "st. bernard"]
    expected = detector(picture(), phrases, **ALL)
    asked = [written.format(phrase) for phrase in phrases]
    found = detector(picture(), asked, **ALL)
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.confidence, expected.confidence)
    assert np.array_equal(found.class_id, expected.class_id)
    assert found.data["class_name"].tolist() == [written.format(name) for name in expected.data["class_name"]]
    assert set(found.data["class_name"]) <= set(asked)


def test_substrings_are_never_mixed_up(detector, monkeypatch):
    """If the tokens of one phrase win, all boxes carry this phrase, even if others share its letters or words."""
    phrases = ["mask", "no mask", "car", "carpet", "car wash", "a mask and no mask"]
    ground, pieces = gd.GroundingDINO.ground, {phrase: list(word_pieces(phrase)) for phrase in phrases}
    for wanted in phrases:

        def chosen(model, image, text, wanted=wanted):
            out, ids = ground(model, image, text), text.prompt.ids[0].tolist()
            logits = torch.full_like(out.logits, -9.0)
            closing = tokenizer().convert_tokens_to_ids(".")
            bounds = [0, *(place for place, number in enumerate(ids) if number == closing)]  # [CLS] and each "."
            (start,) = (a + 1 for a, b in itertools.pairwise(bounds) if ids[a + 1 : b] == pieces[wanted])
            logits[..., start : start + len(pieces[wanted])] = 9.0
            return dataclasses.replace(out, logits=logits)

        monkeypatch.setattr(gd.GroundingDINO, "ground", chosen)
        found = detector(picture(), phrases, **ALL)
        assert set(found.data["class_name"]) == {wanted}
        assert {phrases[number] for number in found.class_id} == {wanted}


def test_a_detector_follows_its_model():
    """The model may load other weights or be set to training mode between two calls."""
    detector, other = build(), build()
    detector(picture(), WORDS, **ALL)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.add_(torch.sin(torch.arange(weight.numel(), dtype=torch.float32)).reshape(weight.shape) * 0.02)
    detector.model.load_state_dict(other.model.state_dict())
    detector.model.train()
    found = detector(picture(), WORDS, **ALL)
    assert_same(found, other(picture(), WORDS, **ALL))
    assert not detector.model.training


def test_chunked_equals_unchunked_where_phrases_do_not_influence_each_other():
    # phrases influence each other in the fusion, in the selection of queries and in the decoder's text attention
    apart = {"fusion": False, "language_guided": False, "text_cross_attention": False}
    whole, chunked = build(**apart), build(**apart, max_tokens=32)
    found = whole(picture(), LONG, **ALL)
    keep = torch.from_numpy(found.xyxy), torch.from_numpy(found.confidence)
    assert_same(chunked(picture(), LONG, **ALL), found[nms(*keep, 0.7).numpy()])


def test_per_image_chunks_of_different_number():
    detector = build(max_tokens=32)
    both = detector([picture(0), picture(1)], [LONG, ["cat"]], **ALL)
    assert_same(both[0], detector(picture(0), LONG, **ALL))
    assert_same(both[1], detector(picture(1), ["cat"], **ALL))


def test_an_embedded_image_answers_like_the_image(detector):
    embedding = detector.encode_image(picture())
    for phrases in (["cat"], ["dog", "bus"]):
        assert_same(detector(embedding, phrases, **ALL), detector(picture(), phrases, **ALL))
    mixed = detector([picture(1), embedding], ["cat"], **ALL)
    assert_same(mixed[1], detector(picture(), ["cat"], **ALL))


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3000, 20)])
def test_sizes_far_from_a_photograph(detector, size):
    found = detector(picture(0, size), ["cat"], **ALL)
    assert np.isfinite(found.xyxy).all()
    assert (found.xyxy[:, 2] <= size[0]).all()
    assert (found.xyxy[:, 3] <= size[1]).all()


def test_the_largest_image(detector):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(detector(Image.new("L", (10_000, 10_000)), ["cat"], **ALL)) == CONFIG.queries


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_mode(detector, tmp_path, mode):
    image = Image.new("I;16", (50, 40)) if mode == "I;16" else picture(0, (50, 40)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert_same(detector(path, ["cat"], **ALL), detector(image, ["cat"], **ALL))


def test_half_precision():
    model = build().model
    exact = gd.Detector(model)(picture(), ["cat"], **ALL)
    for dtype in ("bfloat16", "float16"):
        found = gd.Detector(model, dtype=dtype)(picture(), ["cat"], **ALL)
        assert len(found) == len(exact)
        assert not np.array_equal(found.confidence, exact.confidence)
        assert abs(np.median(found.confidence) - np.median(exact.confidence)) < 0.05


def test_refer_takes_one_string_and_one_image(detector):
    with pytest.raises(TypeError, match="phrase: expected one string, got list"):
        detector.refer(picture(), ["the cup", "the pen"])
    with pytest.raises(TypeError, match="image: expected one image, got list"):
        detector.refer([picture()], "the cup")


def test_a_path_in_place_of_a_model_is_refused_with_the_remedy(tmp_path):
    for file in ("file.pth", tmp_path / "file.pth"):
        with pytest.raises(
            TypeError, match=r"expected a GroundingDINO, got .*file.pth.*; weights: Detector.from_pretr"
        ):
            gd.Detector(file)
    with pytest.raises(TypeError, match="got dict"):
        gd.Detector({})
    with pytest.raises(ValueError, match="device: expected auto, cpu, cuda, cuda:1 or mps, got 'gpu'"):
        gd.Detector.from_pretrained(tmp_path, device="gpu")
    with pytest.raises(ValueError, match="dtype: expected one of"):
        gd.Detector.from_pretrained(tmp_path, dtype="half")


def test_repr_of_a_detector_and_an_embedding(detector):
    count = sum(parameter.numel() for parameter in detector.model.parameters())
    assert repr(detector) == f"<Detector: GroundingDINO of {count / 1e6:.1f} million parameters, on cpu, float32>"
    embedding = detector.encode_image(picture())
    tokens = sum(height * width for height, width in embedding.tokens.shapes)
    assert repr(embedding) == f"<ImageEmbedding: 90 x 60 pixels as {tokens} tokens, on cpu>"


def test_unknown_settings_are_named():
    model = gd.GroundingDINO(CONFIG)
    with pytest.raises(ValueError, match="dtype: expected one of float32"):
        gd.Detector(model, dtype="int8")
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        gd.Detector(model, batch_size=0)


def test_supervision_draws_slices_and_tracks(detector):
    scene = np.asarray(picture(0, (200, 150)))
    found = detector(scene, ["cat", "dog"], **ALL, top_k=8)
    drawn = sv.BoxAnnotator().annotate(scene.copy(), found)
    drawn = sv.LabelAnnotator().annotate(drawn, found)
    assert drawn.shape == scene.shape
    assert (drawn != scene).any()
    slicer = sv.InferenceSlicer(
        lambda tile: detector(tile, ["cat", "dog"], **ALL, top_k=3), slice_wh=100, overlap_wh=10
    )
    sliced = slicer(scene)
    assert set(sliced.data["class_name"]) <= {"cat", "dog"}
    assert sliced.xyxy[:, 2].max() <= 200


def test_bytetrack_follows_boxes_over_frames(detector):
    trackers = pytest.importorskip("trackers")  # supervision's own tracker moved there
    found = detector(picture(), ["cat", "dog"], **ALL, top_k=4, nms_iou=0.1)
    tracker = trackers.ByteTrackTracker(track_activation_threshold=0.0, high_conf_det_threshold=0.0)
    frames = [tracker.update(found) for _ in range(5)]
    assert set(frames[-1].data["class_name"]) <= {"cat", "dog"}
    assert set(frames[-1].tracker_id) == set(frames[-2].tracker_id) != {-1}


BESIDE_A_MODULE_OF_THAT_NAME = """
import data_prep, numpy, sys
import gdino_lib as gd

assert data_prep.x == 1
detector = gd.Detector.from_pretrained(sys.argv[1], device="cpu")
found = detector(numpy.zeros((60, 90, 3), numpy.uint8), ["cat", "dog"], box_threshold=0, text_threshold=0)
assert len(found) == detector.model.config.queries, found
"""


def test_detecting_needs_nothing_of_data_prep(tmp_path):
    """The folder has a user's own `data_prep.py`, which Python finds before the installed package."""
    save(build().model, tmp_path / "weights.safetensors")
    (tmp_path / "data_prep.py").write_text("x = 1\n", encoding="utf-8")
    paths = os.pathsep.join([str(Path(gd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", BESIDE_A_MODULE_OF_THAT_NAME, "weights.safetensors"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
