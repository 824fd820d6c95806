"""Pictures of squares for the doctor, which saves time in tests: one thread, and no report pictures."""

import pytest
from made_up_detectors import draw
from squares_to_learn import RECORDS

from gdino_lib.training.doctor import batch


@pytest.fixture(autouse=True)
def quick(one_thread):
    """On a busy machine, such a small model is slower on several threads."""


@pytest.fixture
def drawn():
    """For tests that need the report's pictures; other tests skip them, because drawing takes most of the time."""


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
