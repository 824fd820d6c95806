"""Fixtures: five pictures of coloured squares, and their records."""

import pytest
from made_up_detectors import COLOURS, RECORDS, draw

import data_prep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    draw(RECORDS, folder)
    return folder


@pytest.fixture(scope="module")
def dataset():
    return data_prep.Dataset(RECORDS, tuple(COLOURS))
