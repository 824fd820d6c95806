"""What tests of the official functions share."""

import warnings

import pytest
from official_config_file import write_workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return write_workplace(tmp_path_factory.mktemp("scripts"))


@pytest.fixture
def no_device_warnings():
    """Where there is no CUDA device, each test would get the warning of the first."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no CUDA device")
        warnings.filterwarnings("ignore", message=".*OpenCV.*not installed")
        yield
