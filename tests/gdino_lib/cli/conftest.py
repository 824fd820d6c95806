"""A weight file of a small model."""

import pytest
from peers import ODD, randomise

import gdino_lib as gd
from gdino_lib.weights import loading


@pytest.fixture
def model_file(tmp_path):
    model = gd.GroundingDINO(ODD.replace(bert_layers=1, vocabulary=99))
    randomise(model)
    loading.save(model, tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"
