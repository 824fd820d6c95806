"""Fixtures for the tests of the official functions."""

import warnings

import pytest
from official_config_file import write_workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return write_workplace(tmp_path_factory.mktemp("scripts"))


@pytest.fixture
def no_device_warnings():
    """Ignore the warnings about a missing CUDA device and a missing OpenCV, which are not what these tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no CUDA device")
        warnings.filterwarnings("ignore", message=".*OpenCV.*not installed")
        yield
