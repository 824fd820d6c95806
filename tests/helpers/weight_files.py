"""Small models and weight files in every layout, and checks of them."""

import pytest
import torch
from peers import ODD, randomise
from peers import SMALL as PEER
from safetensors import safe_open
from safetensors.torch import save_file

import gdino_lib as gd
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.weights.layouts import Checkpoint, to_layout

SMALL = PEER.replace(vocabulary=7000)  # a small vocabulary keeps the files small; it covers the tests' prompt
# fields that the official layout does not store have the values of the official code
OFFICIAL = ODD.replace(vocabulary=7000, bert_layers=1, logit_epsilon=1e-3)
MM = SMALL.replace(scaled_logits=True, shared_box_head=False)


def model_of(config: GroundingDINOConfig, seed: int = 0) -> gd.GroundingDINO:
    """Our model with random weights, in evaluation mode."""
    model = gd.GroundingDINO(config)
    randomise(model, seed)
    return model.eval()


def checkpoint_of(config):
    return Checkpoint(dict(model_of(config).state_dict()), config, "gdino_lib")


def published(config=OFFICIAL):
    """An official state dict, including the tensors of the published files that no forward pass uses."""
    state = to_layout(checkpoint_of(config), "official")
    state["bert.pooler.dense.weight"] = torch.randn(config.bert_width, config.bert_width)
    state["label_enc.weight"] = torch.randn(2000, config.width)
    state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    return state


def assert_same(first, second):
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def refused(function, *arguments, kind=ValueError, **options):
    """The message of the error that the call raises; it must be one line."""
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "weights_only` set to" not in str(caught.value)  # torch's advice to execute the code in the file
    return str(caught.value)


def rewritten(path, target, change=None, **metadata):
    """Copy one of our weight files with changed tensors or metadata."""
    with safe_open(path, "pt") as file:
        state, stored = {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118
    if change:
        change(state)
    save_file(state, target, stored | metadata)
    return target
