"""The models that `benchmarks/ablations.py` compares with Grounding DINO."""

import sys

import pytest
import torch
from scripts import ROOT, load_script
from small_runs import model

from gdino_lib.model.decoder import DecoderLayer
from gdino_lib.prompts import tokenize


@pytest.fixture(scope="module")
def ablations():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return load_script("benchmarks/ablations")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def closed():
    return load_script("benchmarks/closed_set")


@torch.inference_mode()
def scores(detector, names, pixels):
    """{name: (Q,) score of each query}."""
    out = detector(pixels, [names])
    return {n: out.logits[0][:, out.phrase_of_token[0] == k].mean(1) for k, n in enumerate(names)}


def test_without_text_a_score_does_not_depend_on_the_other_names(closed):
    pixels = torch.randn(1, 3, 64, 64)
    # with static queries, because a guided selection sorts the queries by their best name
    without = closed.without_text(model(fusion=False, text_cross_attention=False, language_guided=False)).eval()
    few = scores(without, ["dog", "dining table"], pixels)
    more = scores(without, ["cat", "dining table", "dog", "tv monitor"], pixels)
    torch.testing.assert_close(few["dog"], more["dog"])
    assert not hasattr(without.text_encoder, "bert")


def test_each_name_has_its_own_embeddings(closed):
    encoder = closed.NameEmbeddings(closed.VOC_NAMES, 32)
    prompt = tokenize([["dog", "potted plant"], ["potted plant", "bus"]])
    features = encoder(prompt).features
    assert (features[prompt.phrases < 0] == 0).all()
    plant = [features[row][prompt.phrases[row] == place] for row, place in ((0, 1), (1, 0))]
    torch.testing.assert_close(*plant)
    with pytest.raises(ValueError, match="does not know"):
        encoder(tokenize([["zebra"]]))
    with pytest.raises(ValueError, match="without a common word piece"):
        closed.NameEmbeddings(("red car", "car"), 8)


def test_text_remains_only_where_it_is_asked_for(closed):
    with pytest.raises(ValueError, match="without fusion"):
        closed.without_text(model())


def test_image_first_is_the_same_layer_in_another_order(ablations):
    both = [model(), model()]
    ablations.image_first(both[1])
    assert [type(each.decoder.layers[0]).__name__ for each in both] == ["DecoderLayer", "ImageFirst"]
    pixels, prompts = torch.randn(1, 3, 64, 64), [["red circle", "dog"]]
    with torch.inference_mode():
        plain, swapped = (each.eval()(pixels, prompts).logits for each in both)
    assert (plain - swapped)[plain.isfinite()].abs().max() > 1e-4
    for each in both:  # without the text both orders are the same
        for layer in each.decoder.layers:
            layer.text_attention.out_proj.weight.data.zero_()
            layer.text_attention.out_proj.bias.data.zero_()
            layer.text_norm = torch.nn.Identity()
    with torch.inference_mode():
        plain, swapped = (each(pixels, prompts).logits for each in both)
    torch.testing.assert_close(plain, swapped)
    assert issubclass(ablations.ImageFirst, DecoderLayer)
