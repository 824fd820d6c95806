"""A working folder in which any model is a small one."""

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
    torch.set_num_threads(1)  # so small a model is slower on several where the machine is busy
    yield model.eval()
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path, monkeypatch, model):
    """An empty working folder; any model's name gives the small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gdino_lib.weights.hub.names", lambda: ["nano", "tiny"])
    monkeypatch.setattr("gdino_lib.detect.detector.load", lambda _, device: model.to(choose_device(device)))
    return tmp_path
