"""Loading fills every parameter, or says in one line what does not fit."""

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weight_files import MM, OFFICIAL, SMALL, assert_same, model_of, refused, rewritten

import gdino_lib as gd
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.weights import loading
from gdino_lib.weights.layouts import from_layout
from gdino_lib.weights.loading import convert, fill, load, read, save
from gdino_lib.weights.names import hub_name

# files of every layout


def test_loads_a_single_file_with_the_configuration_beside_it(port_folder):
    assert load(port_folder / "model.safetensors", "cpu").config.text_heads == SMALL.text_heads
    shutil.copy(port_folder / "model.safetensors", port_folder / "other.safetensors")
    assert_same(read(port_folder).state, read(port_folder / "other.safetensors").state)


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


# files that do not fit


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
        ('{"queries": 1000000000000000}', "queries: expected at most 1000000000, got 1000000000000000"),
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "None model"),
        ({"model_type": "bert"}, "a 'bert' model"),
        ({"model_type": "mm-grounding-dino"}, "tensors are of the other kind"),
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


@pytest.mark.parametrize(
    "scale", [torch.ones(5), torch.ones(1, 10**6), torch.ones(3, 1)], ids=["5", "1 x 10**6", "3 x 1"]
)
def test_factors_of_8_bits_of_another_shape_are_refused(tmp_path, scale):
    """Broadcasting would make such factors and a small tensor a huge one."""
    state = {
        "query_selection.contents": torch.ones(10**6, 1, dtype=torch.int8),
        "query_selection.contents.scale": scale,
    }
    save_file(state, tmp_path / "bad.safetensors", loading.our_metadata(SMALL))
    assert "expected one number for each row of the tensor" in refused(load, tmp_path / "bad.safetensors", "cpu")


def test_tensors_that_would_get_one_name_are_refused(tmp_path, official, port):
    torch.save(official | {"module.feat_map.bias": official["feat_map.bias"]}, tmp_path / "twice.pth")
    assert "with and without the prefix 'module.'" in refused(load, tmp_path / "twice.pth", "cpu")
    state = port.state_dict()
    old = {hub_name(name): tensor for name, tensor in state.items() if "q_proj" in name}
    assert old.keys() - state.keys()
    message = refused(from_layout, state | old, "hugging-face", port.config.to_dict())
    assert "tensors twice, under an old and a new name" in message


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


# devices, time


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
    monkeypatch.setattr(loading, "locate", lambda _: pytest.fail("looked for the file"))
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


# warnings, and a user's own data_prep


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_give_a_warning(tmp_path, official, value):
    name, tensor = next(
        (name, tensor) for name, tensor in official.items() if tensor.is_floating_point() and tensor.numel() > 1
    )
    broken = tensor.clone()
    broken.view(-1)[1] = value
    torch.save({"model": official | {name: broken}}, tmp_path / "broken.pth")
    with pytest.warns(UserWarning, match=r"broken\.pth: 1 tensors hold NaN or infinity, so the model finds nothing"):
        load(tmp_path / "broken.pth", "cpu")


def test_loading_needs_nothing_of_data_prep(tmp_path, our_file):
    """A user's own `data_prep.py` in the working folder comes first on the path."""
    (tmp_path / "data_prep.py").write_text("raise SystemExit('the wrong data_prep')\n")
    code = f"import gdino_lib as gd; print(gd.load({str(our_file)!r}, 'cpu').config.queries)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == (f"{SMALL.queries}\n", 0), ended.stderr
