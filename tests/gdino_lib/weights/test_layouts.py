"""Between the layouts, bit for bit: each tensor accounted for, sizes read from shapes, and what a layout cannot hold."""

import os
from pathlib import Path

import pytest
import torch
from official_names import official_swin_t
from peers import ODD, hugging_face
from weight_files import MM, OFFICIAL, SMALL, assert_same, model_of, refused

import gdino_lib as gd
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.weights import loading
from gdino_lib.weights.layouts import Checkpoint, from_layout, hugging_face_config, infer_config, to_layout
from gdino_lib.weights.loading import fill

# every name and shape at full size


def shapes_of(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_official_names_and_shapes_at_full_size(swin_t):
    assert len(official_swin_t()) == 938
    assert shapes_of(to_layout(swin_t, "official")) == official_swin_t()


@pytest.mark.parametrize("preset", ["tiny", "base", "large"])
def test_port_names_and_shapes_at_full_size(preset):
    from transformers import GroundingDinoForObjectDetection

    config = getattr(GroundingDINOConfig, preset)()
    with torch.device("meta"):
        peer = GroundingDinoForObjectDetection(hugging_face_config(config))
    ours = Checkpoint(dict(loading._unfilled(config, "").state_dict()), config, "gdino_lib")
    assert shapes_of(to_layout(ours, "hugging-face")) == shapes_of(peer.state_dict())


@pytest.mark.parametrize(
    ("file", "layout"),
    [("official_swint_ogc_state_dict.tsv", "official"), ("hf_grounding_dino_tiny_state_dict.tsv", "hugging-face")],
)
def test_names_and_shapes_of_the_real_files(swin_t, file, layout):
    folder = os.environ.get("GDINO_REFERENCE_DIR")
    if not folder:
        pytest.skip("GDINO_REFERENCE_DIR is not set")
    lines = (Path(folder) / file).read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    real = {name: tuple(int(n) for n in shape.split("x")) if shape else () for name, shape, _ in rows}
    dtypes = {name: dtype for name, _, dtype in rows}
    theirs = to_layout(swin_t, layout)
    assert shapes_of(theirs) == real
    assert {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in theirs.items()} == dtypes


@pytest.mark.parametrize("preset", ["tiny", "base", "large"])
@pytest.mark.parametrize("layout", ["official", "hugging-face"])
def test_sizes_are_read_from_shapes(preset, layout):
    config = getattr(GroundingDINOConfig, preset)()
    state = dict(loading._unfilled(config, "").state_dict())
    stored = hugging_face_config(config).to_dict() if layout == "hugging-face" else None
    assert infer_config(state, stored) == config


# round trips, bit for bit


def test_official_to_ours_to_official(official):
    checkpoint = from_layout(official, "official")
    assert checkpoint.config == OFFICIAL
    assert {"label_enc.weight", "bert.embeddings.position_ids", "bert.pooler.dense.weight"} <= checkpoint.unused.keys()
    assert_same(to_layout(checkpoint, "official"), official)


@pytest.mark.parametrize(
    "config",
    [SMALL, ODD.replace(vocabulary=99), MM, SMALL.replace(swin_maps=4, levels=5)],
    ids=["small", "odd", "mm", "four maps"],
)
def test_port_to_ours_to_port(config):
    peer = hugging_face(config)
    with torch.no_grad():
        peer.model.backbone.conv_encoder.model.swin.layernorm.weight.normal_()
    stored = peer.config.to_dict()
    checkpoint = from_layout(peer.state_dict(), "hugging-face", stored)
    assert checkpoint.config.replace(logit_epsilon=1e-5) == config
    assert_same(to_layout(checkpoint, "hugging-face"), peer.state_dict())
    assert_same(from_layout(to_layout(checkpoint, "hugging-face"), "hugging-face", stored).state, checkpoint.state)


def test_a_contrastive_head_for_all_layers_serves_each(port):
    config = hugging_face_config(MM).to_dict() | {"decoder_cls_embed_share": True}
    state = hugging_face(MM).state_dict()
    state = {
        name: tensor for name, tensor in state.items() if "class_embed.1" not in name and "class_embed.2" not in name
    }
    checkpoint = from_layout(state, "hugging-face", config)
    heads = [checkpoint.state[f"contrastive_heads.{layer}.bias"] for layer in range(3)]
    assert all(torch.equal(head, state["class_embed.0.bias"]) for head in heads)
    fill(gd.GroundingDINO(checkpoint.config), checkpoint)


def test_box_heads_alike_but_not_shared_stay_apart():
    config = SMALL.replace(shared_box_head=False)
    model = model_of(config)
    for head in model.decoder.box_heads[1:]:
        head.load_state_dict(model.decoder.box_heads[0].state_dict())
    theirs = to_layout(Checkpoint(dict(model.state_dict()), config, "gdino_lib"), "hugging-face")
    stored = hugging_face_config(config).to_dict()
    assert not from_layout(theirs, "hugging-face", stored).config.shared_box_head
    assert from_layout(theirs, "hugging-face").config.shared_box_head  # nothing says otherwise


# what does not fit


@pytest.mark.parametrize(
    ("layout", "config", "said"),
    [
        (
            "official",
            GroundingDINOConfig.nano(bert_layers=1, vocabulary=100),
            "backbone must be 'swin', is 'tf_efficientnet_lite0'",
        ),
        ("official", OFFICIAL.replace(scaled_logits=True), "scaled_logits must be False"),
        ("official", OFFICIAL.replace(language_guided=False), "language_guided must be True"),
        ("official", OFFICIAL.replace(text_mode="whole-sentence"), "text_mode must be 'sub-sentence'"),
        ("official", OFFICIAL.replace(text_heads=8), "text_heads must be 4, is 8"),
        ("official", OFFICIAL.replace(landmarks=5), "landmarks must be 0, is 5"),
        ("official", OFFICIAL.replace(bert_heads=6), "bert_heads must be 12"),
        ("hugging-face", GroundingDINOConfig.nano(bert_layers=1, vocabulary=100), "backbone must be 'swin'"),
        ("hugging-face", SMALL.replace(fusion=False), "fusion must be True"),
        ("hugging-face", SMALL.replace(text_cross_attention=False), "text_cross_attention must be True"),
        ("hugging-face", SMALL.replace(text_ffn_width=50), "text_ffn_width must be 48, is 50"),
        ("hugging-face", SMALL.replace(fusion_width=64), "fusion_width must be 48, is 64"),
        ("hugging-face", SMALL.replace(position_temperature=20.5), "position_temperature must be 20, is 20.5"),
    ],
)
def test_layouts_refuse_models_that_they_cannot_hold(layout, config, said):
    message = refused(to_layout, Checkpoint({}, config, "gdino_lib"), layout)
    assert message.startswith(f"the {layout} layout cannot hold this model: ")
    assert said in message


def test_parts_of_a_stacked_tensor_missing(tmp_path, port):
    state = port.state_dict()
    del state["model.decoder.layers.0.self_attn.key.bias"]
    message = refused(from_layout, state, "hugging-face", port.config.to_dict())
    assert "decoder.layers.0.self_attention.in_proj_bias (only 2 of 3 parts)" in message
    state = port.state_dict()
    state["model.decoder.layers.0.self_attn.key.weight"] = torch.zeros(3, 5)
    refused(from_layout, state, "hugging-face", port.config.to_dict())


def test_copies_that_disagree(port):
    state = {name: tensor.clone() for name, tensor in port.state_dict().items()}
    state["bbox_embed.1.layers.0.bias"] += 1
    assert "must be the same tensor" in refused(from_layout, state, "hugging-face", port.config.to_dict())
    state["model.decoder.bbox_embed.1.layers.0.bias"] += 1
    state["model.decoder.bbox_embed.1.layers.0.bias"].copy_(state["bbox_embed.1.layers.0.bias"])
    assert "share one box head" in refused(from_layout, state, "hugging-face", port.config.to_dict())
    assert not from_layout(state, "hugging-face").config.shared_box_head
