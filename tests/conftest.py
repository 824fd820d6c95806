import os
import sys
from pathlib import Path

import pytest
from chromium import launched
from hypothesis import settings

# derandomised: the same examples every run, so that a red run can be repeated; no deadline on a busy machine
settings.register_profile("project", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("project")


@pytest.fixture(scope="session")
def face_mask_dir():
    """The real Face Mask Detection set, where FACE_MASK_DIR names it."""
    folder = os.environ.get("FACE_MASK_DIR")
    if not folder:
        pytest.skip("FACE_MASK_DIR is not set")
    return Path(folder)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    with launched() as browser:
        yield browser


@pytest.fixture(autouse=True)
def gradients_stay_on():
    """A chapter's cells may switch gradients off; that must not reach the tests that follow."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)
