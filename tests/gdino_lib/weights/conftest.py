"""Small weight files that the tests of this room read."""

import pytest
import torch
from peers import hugging_face
from weight_files import SMALL, model_of, published

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.weights import loading
from gdino_lib.weights.layouts import Checkpoint
from gdino_lib.weights.loading import save


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


@pytest.fixture(scope="module")
def swin_t():
    """Our Swin-T: names and shapes, weights not drawn."""
    config = GroundingDINOConfig.tiny()
    return Checkpoint(dict(loading._unfilled(config, "").state_dict()), config, "gdino_lib")
