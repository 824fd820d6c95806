"""A user's own `data_prep.py` shadows our package: detecting still works; everything else says what shadows it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gdino_lib as gd
from gdino_lib.companion import require_data_prep
from gdino_lib.weights.loading import save

ROOT = Path(__file__).parents[2]
DETECT = """
import gdino_lib as gd
from gdino_lib.detect.drawing import draw_detections
found = gd.Detector(gd.load("small.safetensors", "cpu"))("a.png", ["cat", "dog"], 0.1, 0.1)
draw_detections("a.png", found).save("drawn.png")
print(len(found))
"""


@pytest.fixture
def shadowed(tmp_path):
    """A folder with a user's own `data_prep.py`."""
    (tmp_path / "data_prep.py").write_text("raise RuntimeError('this is not our data_prep')")
    return tmp_path


def python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def refusal(found):
    return (
        f"data_prep: expected the package installed with gdino_lib, found {found}, which shadows the package; "
        "rename that module, or run in another folder"
    )


def test_the_installed_package_is_found():
    require_data_prep()


def test_detecting_needs_no_data_prep(shadowed):
    from peers import SMALL, randomise

    model = gd.GroundingDINO(SMALL.replace(short_side=64, long_side=128, encoder_layers=1, decoder_layers=1))
    randomise(model)
    save(model, shadowed / "small.safetensors")
    Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)).save(shadowed / "a.png")
    result = python(shadowed, "-c", DETECT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 0
    assert Image.open(shadowed / "drawn.png").size == (90, 60)


def test_saving_weights_says_what_shadows_data_prep(shadowed):
    program = "import pathlib, torch; from gdino_lib.weights import files; "
    for write in ("files.write_pth(path, {})", "files.write_safetensors(path, {})"):
        result = python(shadowed, "-c", program + f"path = pathlib.Path('a'); {write}")
        assert result.stderr.splitlines()[-1] == f"ImportError: {refusal(shadowed / 'data_prep.py')}"


@pytest.mark.parametrize("room", ["apps", "data", "evaluation", "nano", "training"])
def test_subpackages_that_need_data_prep_say_what_shadows_it(shadowed, room):
    result = python(shadowed, "-c", f"import gdino_lib.{room}")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"ImportError: {refusal(shadowed / 'data_prep.py')}"


def test_a_folder_can_shadow_data_prep_too(tmp_path):
    (tmp_path / "data_prep").mkdir()
    (tmp_path / "data_prep" / "__init__.py").touch()
    result = python(tmp_path, "-c", "import gdino_lib.data")
    assert result.stderr.splitlines()[-1] == f"ImportError: {refusal(tmp_path / 'data_prep')}"


@pytest.mark.parametrize("program", ["gdino_lib", "gdino_lib.cli.main"])
@pytest.mark.parametrize("arguments", [["--help"], ["detect", "a.png", "--phrases", "cat"], ["train"]])
def test_the_command_says_in_one_line_what_shadows_data_prep(shadowed, program, arguments):
    result = python(shadowed, "-m", program, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: {refusal(shadowed / 'data_prep.py')}\n"
