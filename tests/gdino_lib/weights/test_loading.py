"""Weight files of every layout: each tensor accounted for, nothing executed, nothing half-written."""

import argparse
import copy
import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from official_names import official_swin_t
from peers import ODD, captions, hugging_face, randomise
from peers import SMALL as PEER
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from traps import Trap

import gdino_lib as gd
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.weights import loading
from gdino_lib.weights import names as weight_names
from gdino_lib.weights.hub import names as names_of_models
from gdino_lib.weights.loading import Checkpoint, convert, fill, from_layout, infer_config, load, read, save, to_layout

SMALL = PEER.replace(vocabulary=7000)  # light files; enough for the prompt below
OFFICIAL = ODD.replace(
    vocabulary=7000, bert_layers=1, logit_epsilon=1e-3
)  # what the official layout does not say is as in its code
MM = SMALL.replace(scaled_logits=True, shared_box_head=False)
PROMPTS = [["cat", "remote control"]]


def model_of(config, seed=0):
    model = gd.GroundingDINO(config)
    randomise(model, seed)
    return model.eval()


def checkpoint_of(config):
    return Checkpoint(dict(model_of(config).state_dict()), config, "gdino_lib")


def published(config=OFFICIAL):
    """An official state dict, with the tensors that published files carry and no forward pass uses."""
    state = to_layout(checkpoint_of(config), "official")
    state["bert.pooler.dense.weight"] = torch.randn(config.bert_width, config.bert_width)
    state["label_enc.weight"] = torch.randn(2000, config.width)
    state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    return state


@pytest.fixture(scope="module")
def official():
    return published()


@pytest.fixture
def official_file(tmp_path, official):
    torch.save({"model": official}, tmp_path / "official.pth")
    return tmp_path / "official.pth"


@pytest.fixture(scope="module")
def our_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    save(model_of(SMALL), path)
    return path


@pytest.fixture(scope="module")
def port():
    return hugging_face(SMALL)


@pytest.fixture
def port_folder(tmp_path, port):
    port.save_pretrained(tmp_path / "port")
    return tmp_path / "port"


def assert_same(first, second):
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def refused(function, *arguments, kind=ValueError, **options):
    """The one line that an error says."""
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "weights_only` set to" not in str(caught.value)  # torch's advice to run what is in the file
    return str(caught.value)


# every name and shape at full size


@pytest.fixture(scope="module")
def swin_t():
    """Our Swin-T: names and shapes, weights not drawn."""
    config = GroundingDINOConfig.tiny()
    return Checkpoint(dict(loading._unfilled(config, "").state_dict()), config, "gdino_lib")


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
        peer = GroundingDinoForObjectDetection(loading.hugging_face_config(config))
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
    stored = loading.hugging_face_config(config).to_dict() if layout == "hugging-face" else None
    assert infer_config(state, stored) == config


def test_no_two_tensors_have_one_name(swin_t):
    for layout in ("official", "hugging-face"):
        names = [name for ours in swin_t.state for name in weight_names.their_names(ours, layout)]
        assert len(names) == len(set(names))
        for ours in swin_t.state:
            for part, name in enumerate(theirs := weight_names.their_names(ours, layout)):
                assert weight_names.our_name(name, layout) == (ours, part if len(theirs) > 1 else None)


@pytest.mark.parametrize(
    ("official_name", "port_name"),
    [
        ("transformer.decoder.layers.1.norm1", "model.decoder.layers.1.encoder_attn_layer_norm"),
        ("transformer.decoder.layers.1.norm2", "model.decoder.layers.1.self_attn_layer_norm"),
        ("transformer.decoder.layers.1.norm3", "model.decoder.layers.1.final_layer_norm"),
        ("transformer.decoder.layers.1.catext_norm", "model.decoder.layers.1.encoder_attn_text_layer_norm"),
        ("transformer.decoder.layers.1.ca_text.out_proj", "model.decoder.layers.1.encoder_attn_text.out_proj"),
        ("transformer.decoder.layers.1.self_attn.out_proj", "model.decoder.layers.1.self_attn.out_proj"),
        ("transformer.encoder.layers.1.norm1", "model.encoder.layers.1.deformable_layer.self_attn_layer_norm"),
        ("transformer.encoder.layers.1.norm2", "model.encoder.layers.1.deformable_layer.final_layer_norm"),
        ("transformer.encoder.text_layers.1.norm1", "model.encoder.layers.1.text_enhancer_layer.layer_norm_before"),
        ("transformer.encoder.text_layers.1.norm2", "model.encoder.layers.1.text_enhancer_layer.layer_norm_after"),
        ("transformer.encoder.fusion_layers.1.layer_norm_v", "model.encoder.layers.1.fusion_layer.layer_norm_vision"),
        ("transformer.encoder.fusion_layers.1.layer_norm_l", "model.encoder.layers.1.fusion_layer.layer_norm_text"),
        ("transformer.encoder.fusion_layers.1.attn.v_proj", "model.encoder.layers.1.fusion_layer.attn.vision_proj"),
        ("transformer.encoder.fusion_layers.1.attn.l_proj", "model.encoder.layers.1.fusion_layer.attn.text_proj"),
        (
            "transformer.encoder.fusion_layers.1.attn.values_v_proj",
            "model.encoder.layers.1.fusion_layer.attn.values_vision_proj",
        ),
        (
            "transformer.encoder.fusion_layers.1.attn.values_l_proj",
            "model.encoder.layers.1.fusion_layer.attn.values_text_proj",
        ),
        (
            "transformer.encoder.fusion_layers.1.attn.out_v_proj",
            "model.encoder.layers.1.fusion_layer.attn.out_vision_proj",
        ),
        (
            "transformer.encoder.fusion_layers.1.attn.out_l_proj",
            "model.encoder.layers.1.fusion_layer.attn.out_text_proj",
        ),
        ("transformer.enc_out_bbox_embed.layers.2", "model.encoder_output_bbox_embed.layers.2"),
        ("transformer.decoder.norm", "model.decoder.layer_norm"),
        ("transformer.enc_output_norm", "model.enc_output_norm"),
        ("backbone.0.layers.1.blocks.1.norm1", f"{weight_names._SWIN}swin.encoder.layers.1.blocks.1.layernorm_before"),
        ("backbone.0.layers.1.blocks.1.norm2", f"{weight_names._SWIN}swin.encoder.layers.1.blocks.1.layernorm_after"),
        ("backbone.0.norm1", f"{weight_names._SWIN}hidden_states_norms.stage2"),
    ],
)
def test_tensors_of_one_shape_are_not_mixed_up(official_name, port_name):
    """Shapes would not show it; the pairs are those of transformers' own conversion script."""
    for kind in ("weight", "bias"):
        ours = weight_names.our_name(f"{official_name}.{kind}", "official")
        assert ours is not None
        assert ours == weight_names.our_name(f"{port_name}.{kind}", "hugging-face")


# round trips, bit for bit


def test_official_to_ours_to_official(official):
    checkpoint = from_layout(official, "official")
    assert checkpoint.config == OFFICIAL
    assert {"label_enc.weight", "bert.embeddings.position_ids", "bert.pooler.dense.weight"} <= checkpoint.unused.keys()
    assert_same(to_layout(checkpoint, "official"), official)


def test_official_to_our_file_to_official(tmp_path, official, official_file):
    read_back = convert(official_file, tmp_path / "ours.safetensors", "gdino_lib")
    assert read_back.format == "official"
    again = convert(tmp_path / "ours.safetensors", tmp_path / "again.pth", "official")
    assert again.config == OFFICIAL
    assert_same(torch.load(tmp_path / "again.pth", weights_only=True)["model"], official)


def test_official_to_port_to_official(tmp_path, official, official_file):
    convert(official_file, tmp_path / "port", "hugging-face")
    convert(tmp_path / "port", tmp_path / "again.pth", "official")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    used = {name: tensor for name, tensor in official.items() if not weight_names.why_unused(name)}
    assert_same({name: again[name] for name in used}, used)
    for name in again.keys() - used.keys():  # what the port does not keep is as in a new file
        assert again[name].shape == official[name].shape
        if name.endswith("relative_position_index"):
            assert torch.equal(again[name], official[name])


@pytest.mark.parametrize("config", [SMALL, ODD.replace(vocabulary=99), MM], ids=["small", "odd", "mm"])
def test_port_to_ours_to_port(config):
    peer = hugging_face(config)
    with torch.no_grad():
        peer.model.backbone.conv_encoder.model.swin.layernorm.weight.normal_()
    stored = peer.config.to_dict()
    checkpoint = from_layout(peer.state_dict(), "hugging-face", stored)
    assert checkpoint.config.replace(logit_epsilon=1e-5) == config
    assert_same(to_layout(checkpoint, "hugging-face"), peer.state_dict())
    assert_same(from_layout(to_layout(checkpoint, "hugging-face"), "hugging-face", stored).state, checkpoint.state)


def test_unused_tensors_survive_our_file(tmp_path, port_folder):
    convert(port_folder, tmp_path / "ours.safetensors", "gdino_lib")
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert any(name.startswith("unused.model.") for name in file.keys())  # noqa: SIM118
    convert(tmp_path / "ours.safetensors", tmp_path / "again", "hugging-face")
    assert_same(
        read(tmp_path / "again").unused | read(tmp_path / "again").state,
        read(port_folder).unused | read(port_folder).state,
    )


def test_two_spellings_of_the_ports_swin(port):
    for name in port.state_dict():
        old = weight_names.hub_name(name)
        assert weight_names.port_name(old) == name
        assert weight_names.port_name(name) == name
        assert weight_names.hub_name(old) == old
    name = "model.backbone.conv_encoder.model.encoder.layers.0.blocks.0."
    new = "model.backbone.conv_encoder.model.swin.encoder.layers.0.blocks.0."
    assert weight_names.port_name(name + "attention.self.key.bias") == new + "attention.k_proj.bias"
    assert weight_names.port_name(name + "attention.output.dense.bias") == new + "attention.o_proj.bias"
    assert weight_names.port_name(name + "output.dense.bias") == new + "mlp.fc2.bias"
    index = weight_names.port_name(name + "attention.self.relative_position_index")
    assert weight_names.why_unused(index)


# transformers' port reads what we write, and the other way round


def outputs(model, size=64):
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if isinstance(model, gd.GroundingDINO):
            out = model(pixels, PROMPTS)
            return out.logits, out.boxes
        out = model(pixel_values=pixels, pixel_mask=torch.ones(1, size, size, dtype=torch.long), **captions(PROMPTS))
        length = captions(PROMPTS)["input_ids"].shape[1]
        return out.logits[..., :length], out.pred_boxes


def assert_equal_outputs(ours, theirs):
    for a, b in zip(outputs(ours), outputs(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [SMALL, MM], ids=["small", "mm"])
def test_the_port_loads_what_convert_writes(tmp_path, config):
    from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection

    kind = MMGroundingDinoForObjectDetection if config.scaled_logits else GroundingDinoForObjectDetection
    model = model_of(config)
    save(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "port", "hugging-face")
    peer, report = kind.from_pretrained(tmp_path / "port", output_loading_info=True)
    assert not any(report.values()), report
    assert_equal_outputs(model, peer.eval())


def test_files_for_the_port_are_spelled_as_on_the_hub(tmp_path, port_folder):
    """So that every release of transformers reads them: the names that it writes itself, and second copies."""
    convert(port_folder, tmp_path / "again", "hugging-face")
    port_names = load_file(port_folder / "model.safetensors").keys()
    names = load_file(tmp_path / "again" / "model.safetensors").keys()
    assert port_names <= names
    assert all("bbox_embed." in name for name in names - port_names)


@pytest.mark.parametrize("config", [SMALL, MM], ids=["small", "mm"])
def test_loads_folders_that_the_port_writes(tmp_path, config):
    peer = hugging_face(config)
    peer.save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu")
    assert model.config.replace(logit_epsilon=1e-5) == config
    model.decoder.logit_epsilon = 1e-5
    assert_equal_outputs(model, peer)


def test_loads_shards(tmp_path, port, port_folder):
    port.save_pretrained(tmp_path / "shards", max_shard_size="3MB")
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert_same(load(tmp_path / "shards", "cpu").state_dict(), load(port_folder, "cpu").state_dict())
    shards[0].unlink()
    assert shards[0].name in refused(load, tmp_path / "shards", kind=FileNotFoundError)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    assert "weight_map" in refused(load, tmp_path / "shards")


def test_loads_a_single_file_with_the_configuration_beside_it(port_folder):
    assert load(port_folder / "model.safetensors", "cpu").config.text_heads == SMALL.text_heads
    shutil.copy(port_folder / "model.safetensors", port_folder / "other.safetensors")
    assert_same(read(port_folder).state, read(port_folder / "other.safetensors").state)


def test_a_contrastive_head_for_all_layers_serves_each(port):
    config = loading.hugging_face_config(MM).to_dict() | {"decoder_cls_embed_share": True}
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
    stored = loading.hugging_face_config(config).to_dict()
    assert not from_layout(theirs, "hugging-face", stored).config.shared_box_head
    assert from_layout(theirs, "hugging-face").config.shared_box_head  # nothing says otherwise


# the official file's variants


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"module.{name}": nn.Parameter(t, t.is_floating_point()) for name, t in state.items()},
    ],
    ids=["plain", "model", "state_dict", "model-module", "module-parameters"],
)
def test_wrappings_of_the_official_file(tmp_path, official, wrap):
    torch.save(wrap(official), tmp_path / "file.pth")
    assert_same(load(tmp_path / "file.pth", "cpu").state_dict(), from_layout(official, "official").state)
    for to, target in (("official", "again.pth"), ("hugging-face", "port"), ("gdino_lib", "ours.safetensors")):
        convert(tmp_path / "file.pth", tmp_path / target, to)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, official, dtype):
    half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in official.items()}
    torch.save({"model": half}, tmp_path / "half.pth")
    model = load(tmp_path / "half.pth", "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.text_encoder.projection.weight, half["feat_map.weight"].float())
    convert(tmp_path / "half.pth", tmp_path / "half.safetensors", "gdino_lib")
    convert(tmp_path / "half.safetensors", tmp_path / "again.pth", "official")
    assert_same(torch.load(tmp_path / "again.pth", weights_only=True)["model"], half)


def test_strided_and_shared_tensors_are_written(tmp_path, official):
    state = dict(official)
    state["feat_map.weight"] = state["feat_map.weight"].t().contiguous().t()
    state["bert.encoder.layer.0.attention.self.key.weight"] = state["bert.encoder.layer.0.attention.self.query.weight"]
    torch.save(state, tmp_path / "odd.pth")
    convert(tmp_path / "odd.pth", tmp_path / "ours.safetensors", "gdino_lib")
    convert(tmp_path / "odd.pth", tmp_path / "port", "hugging-face")
    for path in ("ours.safetensors", "port"):
        assert_same(read(tmp_path / path).state, from_layout(state, "official").state)


# our own files


@pytest.mark.parametrize(
    "config",
    [
        SMALL.replace(fusion=False, text_mode="whole-sentence"),
        SMALL.replace(language_guided=False),
        SMALL.replace(text_cross_attention=False, text_mode="word-by-word"),
        MM,
        GroundingDINOConfig.nano(bert_layers=1, vocabulary=100),
    ],
    ids=["no-fusion", "static-queries", "no-text-attention", "mm", "nano"],
)
def test_our_own_file_holds_every_model(tmp_path, config):
    model = model_of(config)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors", "cpu")
    assert again.config == config
    assert not again.training
    assert_same(again.state_dict(), model.state_dict())
    convert(tmp_path / "model.safetensors", tmp_path / "copy.safetensors", "gdino_lib")
    assert_same(load(tmp_path / "copy.safetensors", "cpu").state_dict(), model.state_dict())


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


def test_a_refused_conversion_writes_nothing(tmp_path, our_file):
    assert "cannot hold" in refused(convert, our_file, tmp_path / "out.pth", "official")  # 2 heads for the text
    assert list(tmp_path.iterdir()) == []


def test_the_official_layout_holds_ablations_that_its_names_show(tmp_path):
    config = OFFICIAL.replace(fusion=False, text_cross_attention=False, shared_box_head=False)
    config = config.replace(fusion_width=1024)  # a width that nothing has
    model = model_of(config)
    save(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "official.pth", "official")
    again = load(tmp_path / "official.pth", "cpu")
    assert again.config == config
    assert_same(again.state_dict(), model.state_dict())


def rewritten(path, target, change=None, **metadata):
    """A copy of our own file with some of it changed."""
    with safe_open(path, "pt") as file:
        state, stored = {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118
    if change:
        change(state)
    save_file(state, target, stored | metadata)
    return target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "missing"),  # an empty one is Swin-T, and these tensors are not
        ("", "Expecting value"),
        ("[1]", "configuration"),
        ('{"width": NaN}', "NaN"),
        ('{"width": "wide"}', "configuration"),
        ('{"width": 0, "heads": 0}', "configuration"),
        ('{"flavour": 7}', "flavour"),
        ('{"backbone": "hf-hub:somebody/something"}', "somebody"),
        ('{"backbone": "no_such_backbone"}', "no_such_backbone"),
        ('{"queries": -3}', "queries: expected a whole number of at least 1, got -3"),
        ('{"queries": 1000000000000000}', "no model can be built"),
        ("[" * 100000, "configuration"),
    ],
)
def test_a_broken_configuration_in_our_own_file(tmp_path, our_file, text, said):
    bad = rewritten(our_file, tmp_path / "bad.safetensors", gdino_lib=text)
    message = refused(load, bad)
    assert message.startswith(str(bad))
    assert said in message


def test_our_own_file_with_tensors_missing_or_extra(tmp_path, our_file):
    bad = tmp_path / "bad.safetensors"
    rewritten(our_file, bad, lambda state: state.pop("text_encoder.projection.bias"))
    assert "1 missing: text_encoder.projection.bias" in refused(load, bad)
    assert "1 missing" in refused(convert, bad, tmp_path / "out.pth", "official")
    assert not (tmp_path / "out.pth").exists()
    rewritten(our_file, bad, lambda state: state.update({"unused.surprise": torch.zeros(1)}))
    assert "1 unexpected: unused.surprise" in refused(load, bad)
    rewritten(our_file, bad, lambda state: state.update({"surprise": torch.zeros(1)}))
    assert "1 unexpected: surprise" in refused(load, bad)


# wrong files


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_not_run(tmp_path, official):
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        file = tmp_path / f"trap{number}.pth"
        torch.save({"model": official, "args": Trap(tmp_path / "sprung")}, file, **options)
        assert "not opened further" in refused(load, file)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(load, tmp_path / "plain.pkl")
    shutil.copy(tmp_path / "trap0.pth", tmp_path / "trap.safetensors")
    refused(load, tmp_path / "trap.safetensors")
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "trap0.pth", tmp_path / "folder" / "pytorch_model.bin")
    refused(load, tmp_path / "folder")
    assert not (tmp_path / "sprung").exists()
    Trap(tmp_path / "sprung").__reduce__()[0](tmp_path / "sprung")
    assert (tmp_path / "sprung").exists()  # the trap does work


@pytest.mark.filterwarnings("ignore")  # torch's, of TorchScript and of sparse tensors
def test_files_with_more_than_tensors(tmp_path, official):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    assert "not opened further" in refused(load, tmp_path / "module.pth")
    torch.save({"model": official, "args": argparse.Namespace(lr=1)}, tmp_path / "training.pth")
    assert "more than tensors (argparse.Namespace)" in refused(load, tmp_path / "training.pth")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert refused(load, tmp_path / "script.pt").endswith("TorchScript archives passed to ``torch.load``")
    for number, content in enumerate(
        (
            [torch.zeros(2)], torch.zeros(2), {}, {"model": {}}, {"feat_map.weight": 3},
            {"feat_map.weight": torch.zeros(2, 2).to_sparse()}, {"feat_map.weight": torch.zeros(2, device="meta")},
        )
    ):  # fmt: skip
        torch.save(content, tmp_path / f"{number}.pth")
        assert "no state dict" in refused(load, tmp_path / f"{number}.pth")


def test_damaged_files(tmp_path, our_file, official_file):
    whole, ours = official_file.read_bytes(), our_file.read_bytes()
    pages = b"<!DOCTYPE html><title>404</title>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    for content in (b"", b"\0", whole[:10], whole[: len(whole) // 2], whole[:-100], *pages, ours):
        (tmp_path / "bad.pth").write_bytes(content)
        assert refused(load, tmp_path / "bad.pth").startswith(f"{tmp_path / 'bad.pth'} ")
    for content in (b"", b"\0", ours[:4], ours[:100], ours[: len(ours) // 2], ours[:-1], *pages, whole):
        (tmp_path / "bad.safetensors").write_bytes(content)
        assert "damaged" in refused(load, tmp_path / "bad.safetensors")


def test_flipped_bytes_are_refused_or_harmless(tmp_path):
    """Whatever a few wrong bytes do to the pickle, the answer is one ValueError or plain tensors."""
    torch.save({"model": {"a": torch.zeros(3), "b": {"c": [1, "x"]}}}, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(3):
            content[generator.randrange(len(content))] = generator.randrange(256)
        (tmp_path / "a.pth").write_bytes(content)
        refused(load, tmp_path / "a.pth")


def test_missing_files(tmp_path):
    assert "no weight file" in refused(load, tmp_path / "nothing.pth", kind=FileNotFoundError)
    assert f"names are {', '.join(names_of_models())}" in refused(load, "huge", kind=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert "expected model.safetensors" in refused(load, tmp_path / "empty", kind=FileNotFoundError)
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "expected model.safetensors" in refused(load, tmp_path / "empty", kind=FileNotFoundError)


def test_a_folder_with_several_files_is_ambiguous(tmp_path, official_file):
    shutil.copy(official_file, tmp_path / "second.pth")
    assert "2 weight files" in refused(load, tmp_path)
    (tmp_path / "second.pth").unlink()
    assert load(tmp_path, "cpu").config == OFFICIAL


def test_other_models(tmp_path):
    from torchvision.models import resnet18
    from transformers import BertConfig, BertModel

    torch.save(resnet18().state_dict(), tmp_path / "resnet.pth")
    assert "holds no Grounding DINO: none of its 122 tensors" in refused(load, tmp_path / "resnet.pth")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    assert "holds no Grounding DINO" in refused(load, tmp_path / "bert")
    torch.save({"feat_map.weight": torch.zeros(2, 2)}, tmp_path / "hardly.pth")
    assert "missing" in refused(load, tmp_path / "hardly.pth")


def without(name):
    return lambda state: state.pop(name)


def with_tensor(name, tensor):
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("transformer.decoder.norm.bias"), "1 missing: decoder.norm.bias"),
        (without("transformer.tgt_embed.weight"), "missing query_selection.contents"),
        (without("backbone.0.layers.1.blocks.0.norm1.bias"), "1 missing: image_backbone.backbone.stages.1.0.norm1.bias"),
        (with_tensor("surprise", torch.zeros(2)), "1 unexpected: surprise"),
        (with_tensor("bert.surprise", torch.zeros(2)), "1 unexpected: text_encoder.bert.surprise"),
        (with_tensor("transformer.decoder.norm.bias", torch.zeros(65)), "decoder.norm.bias [65] instead of [64]"),
        (with_tensor("transformer.decoder.norm.bias", torch.zeros(64, dtype=torch.int64)), "decoder.norm.bias torch.int64"),
        (with_tensor("transformer.level_embed", torch.tensor(1.0)), "does not fit the model"),
        (with_tensor("feat_map.weight", torch.zeros(3)), "does not fit the model"),
        (with_tensor("feat_map.weight", torch.zeros(63, 48)), "width 63 is not a multiple of heads 8"),
        (with_tensor("bbox_embed.1.layers.0.bias", torch.zeros(64)), "must be the same tensor and differ"),
    ],
)  # fmt: skip
def test_official_files_that_do_not_fit(tmp_path, official, change, said):
    state = dict(official)
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    for refusal in (
        refused(load, tmp_path / "bad.pth"),
        refused(convert, tmp_path / "bad.pth", tmp_path / "out.safetensors", "gdino_lib"),
    ):
        assert refusal.startswith(str(tmp_path / "bad.pth"))
        assert said in refusal
    assert not (tmp_path / "out.safetensors").exists()


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "None model"),
        ({"model_type": "bert"}, "a 'bert' model"),
        ({"model_type": "mm-grounding-dino"}, "tensors are another's"),
        ({"encoder_attention_heads": 8}, "attention heads"),
        ({"activation_function": "gelu"}, "gelu"),
        ({"encoder_n_points": 0}, "does not fit the model"),
        ({"text_config": 7}, "does not fit the model"),
        ({"text_config": {"num_attention_heads": 7}}, "bert_width 48 is not a multiple of bert_heads 7"),
        ({"positional_embedding_temperature": "hot"}, "does not fit the model"),
    ],
)
def test_broken_config_json(port_folder, change, said):
    file = port_folder / "config.json"
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    assert said in refused(load, port_folder)


def test_a_wrong_preset(official_file):
    message = refused(load, official_file, config=OFFICIAL.replace(swin_depths=(2, 1, 1, 2), queries=7))
    assert "missing: image_backbone.backbone.stages.3.1" in message
    assert "query_selection.contents [33, 64] instead of [7, 64]" in message
    assert "more)" in message
    kept = load(official_file, "cpu", OFFICIAL.replace(short_side=320, dropout=0.1))
    assert kept.config.short_side == 320


def test_a_failed_fill_leaves_the_model_untouched(official):
    model = model_of(OFFICIAL, seed=5)
    before = copy.deepcopy(model.state_dict())
    checkpoint = from_layout(official, "official")
    checkpoint.state["decoder.norm.bias"] = torch.zeros(65)
    refused(fill, model, checkpoint)
    assert_same(model.state_dict(), before)


# writing


def test_what_stands_there_is_kept(tmp_path, official_file):
    target = tmp_path / "out.safetensors"
    target.write_text("old")
    assert "exists" in refused(convert, official_file, target, "gdino_lib", kind=FileExistsError)
    (tmp_path / "bad.pth").write_text("bad")
    refused(convert, tmp_path / "bad.pth", target, "gdino_lib", overwrite=True)
    assert target.read_text() == "old"
    convert(official_file, target, "gdino_lib", overwrite=True)
    assert load(target, "cpu").config == OFFICIAL


def test_a_folder_with_other_things_is_never_replaced(tmp_path, official_file):
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("dear")
    for to in ("hugging-face", "gdino_lib", "official"):
        name = home.with_suffix(".safetensors") if to == "gdino_lib" else home
        if name != home:
            name.mkdir()
        refused(convert, official_file, name, to, overwrite=True, kind=FileExistsError)
    assert (home / "diary.txt").read_text() == "dear"
    for _ in range(2):
        convert(official_file, tmp_path / "port", "hugging-face", overwrite=True)
    assert sorted(file.name for file in (tmp_path / "port").iterdir()) == ["config.json", "model.safetensors"]


def test_suffixes_say_what_a_file_is(tmp_path, official_file):
    assert "is a .safetensors file" in refused(convert, official_file, tmp_path / "a.pth", "gdino_lib")
    assert "is a .pth file" in refused(convert, official_file, tmp_path / "a.safetensors", "official")
    assert "is a .safetensors file" in refused(save, gd.GroundingDINO(SMALL), tmp_path / "a.pth")
    assert "unknown layout 'onnx'" in refused(convert, official_file, tmp_path / "a.onnx", "onnx")
    missing = tmp_path / "no" / "a.safetensors"
    assert "does not exist" in refused(convert, official_file, missing, "gdino_lib", kind=FileNotFoundError)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_nothing(small_disk, official_file):
    for to, name in (("gdino_lib", "a.safetensors"), ("official", "a.pth"), ("hugging-face", "folder")):
        assert "No space left" in refused(convert, official_file, small_disk / name, to, kind=OSError)
        assert list(small_disk.iterdir()) == []
    (small_disk / "a.safetensors").write_text("old")
    refused(save, gd.GroundingDINO(SMALL), small_disk / "a.safetensors", kind=OSError)
    assert [(file.name, file.read_text()) for file in small_disk.iterdir()] == [("a.safetensors", "old")]


# names of models, devices, time


@pytest.fixture
def hub(monkeypatch, port_folder):
    """A hub that has `port_folder`; `calls` holds what it is asked, and whether the cache may answer alone."""

    class Hub:
        def __init__(self):
            self.calls = []
            self.cached = self.online = True

        def snapshot_download(self, repository, local_files_only=False, **options):
            self.calls.append((repository, local_files_only, options))
            if local_files_only and not self.cached:
                raise LocalEntryNotFoundError("nothing in the cache")
            return str(port_folder)

        def get_hf_file_metadata(self, url, **_):
            self.calls.append((url, False, None))
            if not self.online:
                raise RuntimeError("name resolution failed\nfor a long while")

    hub = Hub()
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", hub.get_hf_file_metadata)
    return hub


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_the_hubs_files_are_fetched_at_a_pinned_commit(monkeypatch, tmp_path, hub, name):
    hub.cached = False
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a folder that happens to be called so is not what was asked for
    assert load(name, "cpu").config.width == SMALL.width
    (_, _, options), (url, _, _), (repository, local, again) = hub.calls
    assert repository == f"IDEA-Research/grounding-dino-{name}"
    assert len(options["revision"]) == 40
    assert options["allow_patterns"] == ["config.json", "model.safetensors"]
    assert (again, local) == (options, False)
    assert f"{repository}/resolve/{options['revision']}/model.safetensors" in url


def test_what_is_in_the_cache_needs_no_network(hub):
    hub.online = False
    load("tiny", "cpu")
    assert [local for _, local, _ in hub.calls] == [True]


def test_half_of_it_in_the_cache_is_not_taken_for_the_whole(hub, port_folder):
    (port_folder / "model.safetensors").unlink()  # older versions of the hub's package answer with what there is
    hub.online = False
    assert "cannot fetch 'tiny'" in refused(load, "tiny", kind=FileNotFoundError)


def test_without_a_network_one_question_and_one_line(hub):
    hub.cached = hub.online = False
    message = refused(load, "tiny", kind=FileNotFoundError)
    assert "cannot fetch 'tiny' from the Hugging Face hub (name resolution failed); " in message
    assert [local for _, local, _ in hub.calls] == [True, False], "asked once, nothing downloaded"


def test_the_hub_itself_is_quick_and_quiet_without_a_network(monkeypatch, tmp_path, capfd):
    with socket.socket() as closed:  # bound, not listening: whoever calls is turned away
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        start = time.perf_counter()
        message = refused(load, "tiny", kind=FileNotFoundError)
        assert time.perf_counter() - start < 5  # 0.1 s on an idle machine; 33 s with the hub's own retries
    assert "cannot fetch 'tiny'" in message
    assert "refused" in message
    assert capfd.readouterr() == ("", "")


def test_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refused(load, "tiny", kind=FileNotFoundError)
    assert "cannot fetch 'tiny'" in message
    assert "HF_HUB_OFFLINE" in message
    assert "config.json and model.safetensors of IDEA-Research/grounding-dino-tiny" in message
    assert "pass its path" in message


def test_names_without_weights(monkeypatch, tmp_path, our_file):
    assert "never released; use 'base'" in refused(load, "large", kind=FileNotFoundError)
    monkeypatch.setattr("gdino_lib.weights.hub.NANO", tmp_path)
    assert names_of_models() == ["tiny", "base"]
    assert "'nano' is not part of this version; use --model tiny" in refused(load, "nano", kind=FileNotFoundError)
    shutil.copy(our_file, tmp_path / "model.safetensors")
    assert load("nano", "cpu").config == SMALL
    assert names_of_models() == ["nano", "tiny", "base"]
    assert "expected a name or a path, got NoneType" in refused(load, None, kind=TypeError)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_taken(monkeypatch, official_file, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    moved = []
    monkeypatch.setattr(gd.GroundingDINO, "to", lambda model, device: moved.append(device) or model)
    load(official_file)
    assert moved == [torch.device(expected)]
    assert loading.choose_device("cpu") == torch.device("cpu")


def test_devices_that_cannot_be_used_are_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(loading, "find", lambda _: pytest.fail("looked for the file"))
    for name in ("gpu", "", "cuda:x", None):
        assert f"expected auto, cpu, cuda, cuda:1 or mps, got {name!r}" in refused(load, "tiny", name)
    assert "device: 'meta' cannot be used here: " in refused(load, "tiny", "meta")
    if not torch.cuda.is_available():
        assert "device: 'cuda' cannot be used here: " in refused(load, "tiny", "cuda")


def test_loading_draws_hardly_any_random_weights(official_file):
    """They would be overwritten, and for a full-size model they take ten times as long as the rest of its making."""
    drawn = []

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (torch.Tensor.normal_, torch.Tensor.uniform_):
                drawn.append(args[0].numel())
            return function(*args, **(kwargs or {}))

    with Count():
        model = load(official_file, "cpu")
    assert not drawn
    assert_same(model.state_dict(), read(official_file).state)
    expected = dict(model_of(OFFICIAL).named_buffers())
    buffers = dict(model.named_buffers())  # those that no file keeps, too
    assert_same(buffers, expected)
