"""The real inpainting pipeline of diffusers, small and with random weights, as an edit."""

import subprocess
import sys

import numpy as np
import pytest
import supervision as sv
from refusals import refused
from small_pretrained import PAINTED, save_inpainting

from gdino_lib.apps import diffusion as diffusion_module
from gdino_lib.apps.diffusion import Diffusion, DiffusionSettings, load_pipeline, native_size, window_around
from gdino_lib.apps.edit import edit, grown

WITHOUT = """
import sys
sys.modules["diffusers"] = None
import importlib, pkgutil, gdino_lib.apps
for module in pkgutil.iter_modules(gdino_lib.apps.__path__):
    importlib.import_module(f"gdino_lib.apps.{module.name}")
from gdino_lib.cli.main import main
assert main(["edit", "a.png", "--find", "cat", "--do", "replace", "--with", "a fox", "--diffusion", "x"]) == 2
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_inpainting(tmp_path_factory.mktemp("inpainting") / "made")


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder, "cpu")


def noise(height=90, width=120):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_squares():
    masks = np.zeros((2, 90, 120), bool)
    masks[0, 10:30, 10:30] = True
    masks[1, 50:80, 60:100] = True
    return sv.Detections(xyxy=np.array([[10, 10, 30, 30], [60, 50, 100, 80]], np.float32), mask=masks)


def painted(pipeline, found=None, **settings):
    settings = DiffusionSettings(**{"prompt": "a red fox", "steps": 2} | settings)
    return np.asarray(edit(noise(), found or two_squares(), Diffusion(pipeline, settings), grow=2, feather=0))


def test_the_regions_are_painted_and_nothing_else(pipeline):
    assert type(pipeline).__name__ == "StableDiffusionInpaintPipeline"
    changed = (painted(pipeline) != noise()).any(-1)
    regions = grown(two_squares().mask, 2)
    assert not changed[~regions.any(0)].any()
    for region in regions:
        assert changed[region].mean() > 0.95


def test_the_seed_and_the_prompt_decide(pipeline):
    first = painted(pipeline)
    np.testing.assert_array_equal(painted(pipeline), first)
    assert (painted(pipeline, seed=1) != first).any()
    assert (painted(pipeline, prompt="fox") != first).any()
    assert (painted(pipeline, negative_prompt="red") != first).any()


def test_each_region_has_its_own_seed(pipeline):
    """So the second of two regions is painted as if it were alone with the next seed."""
    both, second = painted(pipeline), painted(pipeline, two_squares()[[1]], seed=1)
    region = grown(two_squares().mask, 2)[1]
    np.testing.assert_array_equal(both[region], second[region])


def test_less_strength_stays_closer_to_the_picture(folder, pipeline):
    seen = []

    class Recorded:
        vae_scale_factor, unet = pipeline.vae_scale_factor, pipeline.unet

        def __call__(self, prompt, image, mask_image, height, width, strength, num_inference_steps, generator):
            seen.append((image.size, mask_image.size, height, width, strength, num_inference_steps))
            return pipeline(
                prompt=prompt,
                image=image,
                mask_image=mask_image,
                height=height,
                width=width,
                strength=strength,
                num_inference_steps=num_inference_steps,
                generator=generator,
            )

    painted(Recorded(), strength=0.5, steps=4)
    assert [entry[4:] for entry in seen] == [(0.5, 4)] * 2
    # a small object is enlarged: both windows go in at the model's own resolution
    assert [entry[0] for entry in seen] == [entry[1] for entry in seen] == [entry[3:1:-1] for entry in seen]
    assert [max(entry[0]) for entry in seen] == [PAINTED] * 2


@pytest.mark.parametrize("size", [32, 128])
def test_the_resolution_may_be_given(pipeline, size):
    assert Diffusion(pipeline, DiffusionSettings("fox")).size == native_size(pipeline) == PAINTED
    assert Diffusion(pipeline, DiffusionSettings("fox", size=size)).size == size
    assert (painted(pipeline, size=size) != painted(pipeline)).any()


def test_a_region_as_large_as_the_image_is_painted(pipeline):
    found = sv.Detections(xyxy=np.array([[0, 0, 120, 90]], np.float32), mask=np.ones((1, 90, 120), bool))
    assert (painted(pipeline, found) != noise()).any(-1).mean() > 0.95


@pytest.mark.parametrize(
    ("bounds", "window"),
    [
        ((slice(40, 50), slice(60, 80)), (slice(25, 65), slice(50, 90))),
        ((slice(0, 10), slice(0, 20)), (slice(0, 40), slice(0, 40))),
        ((slice(95, 100), slice(190, 200)), (slice(70, 100), slice(170, 200))),
        ((slice(0, 100), slice(0, 90)), (slice(0, 100), slice(0, 200))),
    ],
    ids=["middle", "corner", "no smaller than 30", "as high as the image"],
)
def test_a_window_is_a_square_around_the_region_inside_the_image(bounds, window):
    assert window_around(bounds, (100, 200), 2.0, 30) == window


def test_a_safety_checker_that_refuses_ends_the_edit(pipeline):
    class Refusing:
        vae_scale_factor, unet = pipeline.vae_scale_factor, pipeline.unet

        def __call__(self, prompt, image, mask_image, height, width, strength, num_inference_steps, generator):
            return type("Output", (), {"images": [image], "nsfw_content_detected": [True]})()

    with pytest.raises(
        ValueError, match="the model's safety checker refuses what it painted for 'a red fox' with seed 0"
    ):
        painted(Refusing())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": 0}, "strength: expected a number above 0 and at most 1, got 0"),
        ({"strength": 0.1, "steps": 9}, "strength and steps: expected at least one step"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"seed": -1}, "seed: expected a whole number in 0.."),
        ({"prompt": None}, "prompt: expected text, got None"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with refused(words.partition(":")[0], words):
        DiffusionSettings(**{"prompt": "fox"} | settings)


def test_what_is_no_inpainting_pipeline_is_refused_in_one_line(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="expected an inpainting pipeline, found a folder without"):
        load_pipeline(tmp_path, "cpu")
    with pytest.raises(FileNotFoundError, match="expected an inpainting pipeline: no such folder, and no such name"):
        load_pipeline(tmp_path / "nowhere", "cpu")
    (tmp_path / "model_index.json").write_text('{"_class_name": "AudioLDMPipeline"}')
    with pytest.raises(ValueError, match="expected an inpainting pipeline that diffusers can load, got ") as error:
        load_pipeline(tmp_path, "cpu")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="dtype: expected one of float32, "):
        load_pipeline(folder, "cpu", "float8")
    with pytest.raises(ValueError, match="does not take image, mask_image"):
        Diffusion(type("Other", (), {"__call__": lambda self, prompt: None})(), DiffusionSettings("fox"))


def test_weights_that_are_pickles_are_not_read(tmp_path, folder):
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        target = tmp_path / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="expected an inpainting pipeline that diffusers can load"):
        load_pipeline(tmp_path, "cpu")


def test_without_diffusers_it_is_one_line(monkeypatch, folder):
    monkeypatch.setattr(diffusion_module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^diffusers is not installed; pip install 'gdino_lib\[edit\]'$"):
        load_pipeline(folder, "cpu")


def test_the_apps_import_without_diffusers():
    ended = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1] == "error: diffusers is not installed; pip install 'gdino_lib[edit]'"
