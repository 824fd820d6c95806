import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import launched
from hypothesis import settings

# the same examples in every run, so that a failure can be repeated; no deadline, because the machine may be busy
settings.register_profile("project", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("project")


@pytest.fixture(scope="session")
def face_mask_dir():
    """The folder of the real Face Mask Detection set, which FACE_MASK_DIR names."""
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
    """Switch gradients on after each test, because a chapter's cells may have switched them off."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)


@pytest.fixture
def one_thread():
    """Compute on one thread, because small models are slower on two."""
    torch = sys.modules["torch"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk(tmp_path, request):
    """A folder on a file system of 64 kB; `pytest.mark.parametrize(..., indirect=True)` gives another size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '64k')}", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)
