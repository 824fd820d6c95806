"""A working folder in which every model name gives a small model."""

import pytest
import torch
from peers import SMALL, randomise

import gdino_lib as gd
from gdino_lib.weights.loading import choose_device

CONFIG = SMALL.replace(short_side=64, long_side=128, swin_depths=(1, 1, 1, 1), encoder_layers=1, decoder_layers=2)


@pytest.fixture(scope="module")
def model():
    model = gd.GroundingDINO(CONFIG)
    randomise(model, seed=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, several threads are slower for a small model
    yield model.eval()
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path, monkeypatch, model):
    """An empty working folder; every model name gives the small model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gdino_lib.weights.hub.names", lambda: ["nano", "tiny"])
    monkeypatch.setattr("gdino_lib.detect.detector.load", lambda _, device: model.to(choose_device(device)))
    return tmp_path
