"""The cache of BERT's features: no phrase is read twice, no feature is stale, and threads can share the cache."""

import copy
import itertools
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_detectors import ALL, CONFIG, assert_same, build, picture
from torch import nn

import gdino_lib as gd
from gdino_lib.detect.text_cache import TextCache
from gdino_lib.model.text_encoder import TextEncoder
from gdino_lib.prompts import tokenize

CPU = torch.device("cpu")
THINGS = [
    " ".join(words)
    for words in itertools.product(("red", "old", "wet", "big"), ("cat", "bus", "cup", "hat", "fire hydrant"))
]


class Lookup(nn.Module):
    """In place of BERT: features of a token that depend on no other token, so that no batch changes a bit of them."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(30522, width)
        self.calls = []

    def forward(self, input_ids, attention_mask):
        self.calls.append(len(input_ids))
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids) * attention_mask[..., None])


def lookup_encoder(landmarks=0):
    torch.manual_seed(0)
    return TextEncoder(Lookup(8), 8, 16, landmarks=landmarks)


def read_all(encoder, cache, phrases):
    """The features with the cache; they equal those without it."""
    sequences, _, _ = encoder._sequences(tokenize([phrases]))
    features = cache.read(encoder, sequences, CPU)
    expected = encoder.read(sequences, CPU)
    for row, ids in enumerate(sequences):
        assert torch.equal(features[row, : len(ids)], expected[row, : len(ids)])
    return features


def reads(encoder, cache, phrases=("cat",)):
    """Whether BERT reads anything."""
    before = len(encoder.bert.calls)
    cache.read(encoder, encoder._sequences(tokenize([phrases]))[0], CPU)
    return len(encoder.bert.calls) > before


def test_bert_reads_each_phrase_once(monkeypatch):
    detector = gd.Detector(gd.GroundingDINO(CONFIG))
    detector.text_cache = TextCache(capacity=40)
    read = []
    encoder = detector.model.text_encoder
    monkeypatch.setattr(
        encoder, "read", lambda new, device, own=encoder.read: read.append(len(new)) or own(new, device)
    )
    before = detector(picture(), ["kept words"], **ALL)
    assert read == [3]  # [CLS], the phrase, [SEP]
    assert_same(detector(picture(), ["kept words"], **ALL), before)
    detector([picture(), picture(1)], [["kept words", "dog"], ["dog"]], **ALL)
    assert read == [3, 1]
    fresh = gd.Detector(detector.model)
    both, again = (one(picture(), ["dog", "kept words"], **ALL) for one in (detector, fresh))
    assert np.allclose(both.xyxy, again.xyxy, atol=1e-3)
    assert np.allclose(both.confidence, again.confidence, atol=1e-5)
    for number in range(70):
        detector(detector.encode_image(picture()), [f"word {number}"])
    assert 30 < detector.text_cache.tokens <= 40
    detector(picture(), ["long " * 30], **ALL)
    assert detector.text_cache.tokens <= 40
    assert_same(detector(picture(), ["kept words"], **ALL), before)


def test_other_landmarks_empty_the_cache():
    detector = gd.Detector(gd.GroundingDINO(CONFIG))
    detector(picture(), ["kept words"], **ALL)
    for number in range(6):  # an allocator often gives the address of the old landmarks to the new ones
        detector.model.text_encoder.set_landmarks([f"name {number}", f"word {number}"])
        found = detector(picture(), ["kept words"], **ALL)
        assert_same(found, gd.Detector(detector.model)(picture(), ["kept words"], **ALL))


def test_the_oldest_are_dropped_first():
    encoder, cache = lookup_encoder(), TextCache(capacity=8)
    read_all(encoder, cache, ["cat"])  # [CLS], "cat .", [SEP]: 4 tokens
    read_all(encoder, cache, ["dog", "bus"])
    assert cache.tokens == 8
    assert not reads(encoder, cache, ["bus", "dog"])
    assert reads(encoder, cache, ["cup"])  # "cat ." stays, [CLS] goes: it was read first
    features = read_all(encoder, cache, ["a very long name of a thing"])
    assert features.shape[1] == 8
    assert cache.tokens <= 8
    unlimited = TextCache(capacity=None)
    for thing in THINGS:
        read_all(encoder, unlimited, [thing])
    assert not reads(encoder, unlimited, THINGS)


CHANGES = {
    "a training step": lambda encoder: step(encoder),
    "loaded weights": lambda encoder: encoder.load_state_dict(lookup_like(encoder).state_dict()),
    "another precision": lambda encoder: encoder.double(),
    "to half precision and back": lambda encoder: encoder.half().float(),
    "a new parameter": lambda encoder: setattr(encoder.bert.embedding, "weight", nn.Parameter(torch.ones(30522, 8))),
    "data of its own": lambda encoder: setattr(encoder.bert.embedding.weight, "data", torch.ones(30522, 8)),
    "another BERT": lambda encoder: setattr(encoder, "bert", lookup_like(encoder).bert),
    "landmarks": lambda encoder: encoder.set_landmarks(["cat", "dog"]),
    "in place": lambda encoder: change_in_place(encoder),
}


def lookup_like(encoder):
    other = copy.deepcopy(encoder)
    nn.init.normal_(other.bert.embedding.weight)
    return other


def step(encoder):
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    encoder(tokenize([["cat"]])).features.sum().backward()
    optimizer.step()


def change_in_place(encoder):
    with torch.inference_mode():
        encoder.bert.embedding.weight.mul_(2)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_change_of_the_weights_leaves_stale_features(change):
    encoder, cache = lookup_encoder(), TextCache()
    for _ in range(3):  # an allocator may give the address of the old weights to the new ones
        with torch.inference_mode():
            read_all(encoder, cache, ["cat"])
            assert not reads(encoder, cache)
        change(encoder)
        with torch.inference_mode():
            read_all(encoder, cache, ["cat"])


def test_autocasts_precision_and_another_encoder_empty_the_cache():
    encoder, cache = lookup_encoder(), TextCache()
    assert [reads(encoder, cache), reads(encoder, cache)] == [True, False]
    with torch.autocast("cpu", torch.bfloat16):
        assert [reads(encoder, cache), reads(encoder, cache)] == [True, False]
    assert [reads(encoder, cache), reads(encoder, cache)] == [True, False]
    assert reads(copy.deepcopy(encoder), cache)
    cache.clear()
    assert cache.tokens == 0
    assert reads(encoder, cache)


def test_a_write_that_pytorch_does_not_count_needs_clear():
    encoder, cache = lookup_encoder(), TextCache()
    read_all(encoder, cache, ["cat"])
    encoder.bert.embedding.weight.data.mul_(2)
    assert not reads(encoder, cache)
    cache.clear()
    read_all(encoder, cache, ["cat"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda detector: pickle.loads(pickle.dumps(detector))])
def test_a_copied_detector_finds_the_same_and_keeps_its_own(copied):
    detector = build()
    detector.text_cache = TextCache(capacity=50)
    found = detector(picture(), ["cat", "dog"], **ALL)
    other = copied(detector)
    assert (other.text_cache.capacity, other.text_cache.tokens) == (50, 0)
    again = other(picture(), ["cat", "dog"], **ALL)
    assert np.array_equal(again.xyxy, found.xyxy)
    assert np.array_equal(again.confidence, found.confidence)


def calls(number=80):
    choose = random.Random(0)
    return [(picture(index % 5), choose.sample(THINGS, choose.randint(1, 6))) for index in range(number)]


def in_threads(detector, asked, threads=4):
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda call: detector(*call, **ALL), asked))


def test_threads_on_one_detector_find_what_one_thread_finds_bit_for_bit():
    """With features that depend on no batch, every call gets exactly those of its own phrases."""
    detector = build()
    detector.model.text_encoder.bert = Lookup(CONFIG.bert_width)
    detector.text_cache = TextCache(capacity=60)
    asked = calls()
    expected = [gd.Detector(detector.model)(*call, **ALL) for call in asked]
    for found, alone in zip(in_threads(detector, asked), expected, strict=True):
        assert np.array_equal(found.xyxy, alone.xyxy)
        assert np.array_equal(found.confidence, alone.confidence)
        assert found.data["class_name"].tolist() == alone.data["class_name"].tolist()
    assert detector.text_cache.tokens <= 60


def test_threads_on_one_detector_find_what_one_thread_finds():
    """With BERT, the last bits of features depend on the batch in which a phrase was first read."""
    detector = build(language_guided=False)  # with it, a difference in the last bit may select another query
    asked = calls()
    detector.text_cache = TextCache(capacity=60)
    expected = [detector(*call, **ALL) for call in asked]
    detector.text_cache = TextCache(capacity=60)
    for found, alone in zip(in_threads(detector, asked), expected, strict=True):
        assert_same(found, alone)
    assert detector.text_cache.tokens <= 60


def test_no_lock_is_held_while_the_image_model_runs(monkeypatch):
    detector = build()
    held = []
    ground = gd.GroundingDINO.ground

    def watched(model, image, text):
        held.append(detector.text_cache._lock.locked())
        return ground(model, image, text)

    monkeypatch.setattr(gd.GroundingDINO, "ground", watched)
    detector(picture(), ["cat"], **ALL)
    assert held == [False]
