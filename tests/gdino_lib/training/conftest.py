"""Models and data for small training runs."""

import pytest
from small_runs import dataset


@pytest.fixture
def images(tmp_path):
    return dataset(tmp_path / "images")
