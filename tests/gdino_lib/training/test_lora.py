"""Adapters change nothing at first; they can be saved, reloaded strictly, and merged."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import SIDE, model

from gdino_lib.training import lora


def outputs(net):
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return net.eval()(pixels, [["red circle", "blue square"], ["dog"]])


def trained(rank=2, seed=0):
    """A model with adapters that change its outputs."""
    net = lora.add(model(), rank, alpha=4.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net


def same(a, b, **tolerance):
    torch.testing.assert_close(a.boxes, b.boxes, **tolerance)
    torch.testing.assert_close(a.logits, b.logits, **tolerance)


def test_fresh_adapters_change_nothing_and_alone_are_trained():
    before = outputs(model())
    net = lora.add(model(), rank=2)
    same(outputs(net), before, rtol=1e-5, atol=1e-5)
    learning = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    for part in ("text_encoder.bert", "image_backbone.backbone", "feature_enhancer", "query_selection", "decoder"):
        assert any(name.startswith(part) for name in learning), part


def test_saved_and_reloaded_adapters_give_the_same_outputs(tmp_path):
    net = trained()
    lora.save(net, tmp_path / "adapters")
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == [lora.CONFIG, lora.WEIGHTS]
    again = lora.load(model(), tmp_path / "adapters")
    same(outputs(again), outputs(net), rtol=0, atol=0)
    assert not torch.equal(outputs(net).logits, outputs(model()).logits)


def test_merged_adapters_give_the_same_outputs_in_a_plain_model():
    net = trained()
    before = outputs(net)
    merged = lora.merge(net)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in model().named_parameters()}
    assert all(parameter.requires_grad for parameter in merged.parameters())
    same(outputs(merged), before, rtol=1e-4, atol=1e-5)
    plain = model()
    plain.load_state_dict(merged.state_dict())  # strict
    same(outputs(plain), before, rtol=1e-4, atol=1e-5)


def damage_missing(state):
    del state[min(state)]


def damage_unexpected(state):
    state["base_model.head.lora_A.weight"] = torch.zeros(2, 2)


def damage_shape(state):
    state[min(state)] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_missing, "1 missing"), (damage_unexpected, "1 unexpected"), (damage_shape, "1 of another shape")],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path, damage, words):
    lora.save(trained(), tmp_path / "adapters")
    file = tmp_path / "adapters" / lora.WEIGHTS
    state = load_file(file)
    damage(state)
    save_file(state, file)
    with pytest.raises(ValueError, match=f"does not fit the model: {words}, the first is "):
        lora.load(model(), tmp_path / "adapters")


def test_adapters_of_a_deeper_model_are_refused(tmp_path):
    lora.save(lora.add(model(decoder_layers=3), 2), tmp_path / "adapters")
    with pytest.raises(ValueError, match=r"unexpected, the first is 'decoder\.layers\.2"):
        lora.load(model(), tmp_path / "adapters")


def test_folders_without_adapters_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of adapters"):
        lora.load(model(), tmp_path)
    lora.save(trained(), tmp_path / "adapters")
    (tmp_path / "adapters" / lora.CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match="expected peft's configuration of LoRA, got KeyError: 'r'"):
        lora.load(model(), tmp_path / "adapters")


def test_adapters_on_adapters_or_without_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has adapters already"):
        lora.add(trained(), 2)
    with pytest.raises(ValueError, match="has no adapters"):
        lora.merge(model())
    with pytest.raises(ValueError, match="rank: expected at least 1, got 0"):
        lora.add(model(), 0)
