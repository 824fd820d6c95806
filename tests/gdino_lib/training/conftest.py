"""What runs are made of."""

import pytest
from small_runs import dataset


@pytest.fixture
def images(tmp_path):
    return dataset(tmp_path / "images")
