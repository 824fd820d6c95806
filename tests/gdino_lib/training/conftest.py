"""What runs are made of."""

import pytest
import torch
from small_runs import dataset


@pytest.fixture
def one_thread():
    """Models as small as these only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path):
    return dataset(tmp_path / "images")
