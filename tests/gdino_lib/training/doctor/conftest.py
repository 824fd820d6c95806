"""Pictures of squares for the doctor, which is quick here: one thread, nothing drawn."""

import pytest
from made_up_detectors import draw
from squares_to_learn import RECORDS

from gdino_lib.training.doctor import batch


@pytest.fixture(autouse=True)
def quick(one_thread):
    """So small a model is slower on several threads where the machine is busy."""


@pytest.fixture
def drawn():
    """For tests in which pictures are drawn; in others that would take most of the time."""


@pytest.fixture(autouse=True)
def not_drawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(batch, "draw_sample", lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures 0.png to 5.png of 96 x 72, each with two coloured squares."""
    folder = tmp_path_factory.mktemp("squares")
    draw(RECORDS.images, folder)
    return folder
