"""Runs of `gdino edit`: what is written, how it is stored, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from detect_runs import TABLES, ctrl_c, document, files, film, interrupt_at, picture, unexpected
from PIL import Image, ImageCms
from pycocotools import mask as coco_mask
from small_pretrained import save_inpainting

from data_prep.formats import coco
from gdino_lib.apps.diffusion import Diffusion, RefusedError
from gdino_lib.apps.segment import segment
from gdino_lib.cli.main import main
from gdino_lib.images import read_image

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ALL = ["--box-threshold", "0", "--text-threshold", "0", "--top-k", "3"]


def run(*arguments, find="cat", do="blur", mask="box"):
    return main(["edit", *ALL, *map(str, arguments), "--find", find, "--do", do, "--mask", mask])


def masks(image):
    """The masks of an image's boxes in `detections.json`, bool [N, H, W]."""
    shape = (len(image["boxes"]), image["height"], image["width"])
    return np.array([coco_mask.decode(box["segmentation"]) for box in image["boxes"]]).reshape(shape).astype(bool)


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools beside NumPy 2


@pytest.mark.parametrize("do", [("remove",), ("blur",), ("recolour", "--with", "teal"), ("replace", "--with", "fox")])
def test_an_edited_png_differs_within_the_masks_only(work, capsys, do):
    before = read_image(picture("a.png"))
    assert run("a.png", "--grow", 0, *do[1:], do=do[0]) == 0
    assert files("edited") == TABLES | {"a.png"}
    (image,) = document("edited")["images"]
    after = np.asarray(Image.open("edited/a.png"))
    changed = (after != np.asarray(before)).any(-1)
    assert len(image["boxes"]) == 3
    assert changed.any()
    assert not (changed & ~masks(image).any(0)).any()
    assert ("OpenMoji" in capsys.readouterr().out) == (do[0] == "replace")


def test_the_tables_have_the_masks(work):
    picture("a.png")
    assert run("a.png", "--grow", 2, "--feather", 1, mask="grabcut") == 0
    result = document("edited")
    (image,) = result["images"]
    assert result["edit"] == {
        "do": "blur",
        "with": None,
        "grow": 2,
        "feather": 1,
        "mask": "grabcut",
        "png": False,
        "diffusion": None,
    }
    assert [box["area"] for box in image["boxes"]] == masks(image).sum((1, 2)).tolist()
    (record,) = coco.read("edited/detections.coco.json").images
    assert [box.extra["segmentation"] for box in record.boxes] == [box["segmentation"] for box in image["boxes"]]
    assert [box.extra["score"] for box in record.boxes] == [box["confidence"] for box in image["boxes"]]


def test_a_photograph_on_its_side_is_edited_and_stored_upright(work):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "where it was taken"
    picture("a.jpg", exif=exif, quality=95)
    assert run("a.jpg", "--grow", 0, "--feather", 0) == 0
    before, after = read_image("a.jpg"), Image.open("edited/a.jpg")
    after.load()
    (image,) = document("edited")["images"]
    assert after.size == before.size == (image["width"], image["height"]) == (60, 90)
    assert not after.getexif()  # it may hold a thumbnail of the unedited picture
    outside = ~masks(image).any(0)
    difference = np.abs(np.asarray(after).astype(int) - np.asarray(before))[outside]
    assert difference.size == 0 or difference.mean() < 4


def test_a_jpeg_has_quality_95_without_chroma_subsampling(work):
    picture("a.jpg")
    assert run("a.jpg") == 0
    Image.new("RGB", (8, 8)).save("95.jpg", quality=95)
    with Image.open("edited/a.jpg") as after, Image.open("95.jpg") as wanted:
        assert after.quantization == wanted.quantization
        assert [part[1:3] for part in after.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_colour_profile_stays(work, name):
    picture(name, icc_profile=PROFILE)
    picture(f"grey {name}", mode="L", icc_profile=PROFILE)  # no profile of RGB
    assert run(".", "--out", "out") == 0
    with Image.open(f"out/{name}") as colour, Image.open(f"out/grey {name}") as grey:
        assert colour.info.get("icc_profile") == PROFILE
        assert grey.info.get("icc_profile") is None


def test_png_keeps_every_pixel_outside_whatever_the_original_is(work):
    for name in ("a.jpg", "a.png", "a.jpg.png"):
        picture(f"photos/{name}", seed=len(name))
    assert run("photos", "--png", "--grow", 0) == 0
    images = document("edited")["images"]
    assert len({image["drawn"] for image in images}) == 3
    for image in images:
        after = Image.open(Path("edited") / image["drawn"])
        after.load()
        assert after.format == "PNG"
        outside = ~masks(image).any(0)
        np.testing.assert_array_equal(np.asarray(after)[outside], np.asarray(read_image(image["file"]))[outside])


def test_a_folder_is_edited_with_its_folders_and_what_cannot_be_is_named(work, capsys):
    picture("photos/a.jpg")
    picture("photos/deep/b.webp", seed=1)
    Path("photos/c.png").write_bytes(b"no image")
    film("photos/d.avi")
    assert run("photos") == 1
    assert files("edited") == TABLES | {"a.jpg", "deep/b.webp.png"}
    lines = unexpected(capsys.readouterr().err)
    assert len(lines) == 2
    assert "'photos/c.png': expected an image file that PIL can read" in lines[0]
    assert "'photos/d.avi': expected an image, got a film; gdino edit takes images only" in lines[1]
    assert [Path(entry["file"]).name for entry in document("edited")["failed"]] == ["c.png", "d.avi"]


def test_where_nothing_is_found_the_copy_is_equal(work):
    before = read_image(picture("a.png"))
    assert main(["edit", "a.png", "--find", "cat", "--do", "remove", "--box-threshold", "1"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("edited/a.png")), np.asarray(before))


def test_what_fits_a_negative_better_stays(work):
    picture("a.png")
    assert run("a.png", "--out", "both", "--top-k", 1000, find="cat . remote control") == 0
    (both,) = document("both")["images"]
    assert len(both["boxes"]) > 3
    for wanted, negative in (("cat", "remote control"), ("remote control", "cat")):
        assert run("a.png", "--out", wanted, "--negatives", negative, find=wanted) == 0
        (one,) = document(wanted)["images"]
        # --top-k counts the boxes that are left
        assert one["boxes"] == [box for box in both["boxes"] if box["phrase"] == wanted][:3]
        assert document(wanted)["negatives"] == [negative]


def test_overwrite_replaces_results_and_nothing_else(work, capsys):
    picture("a.png")
    assert run("a.png") == 0
    assert run("a.png") == 2
    assert "'edited' is not empty" in capsys.readouterr().err
    assert run("a.png", "--overwrite") == 0
    Path("edited/mine.txt").write_text("mine")
    assert run("a.png", "--overwrite") == 2
    assert Path("edited/mine.txt").read_text() == "mine"


def test_an_interrupt_keeps_what_was_done(work, monkeypatch):
    for number in range(3):
        picture(f"photos/{number}.png", seed=number)
    interrupt_at(monkeypatch, 3, ctrl_c)
    assert run("photos") == 130
    assert files("edited") == TABLES | {"0.png", "1.png"}
    assert document("edited")["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--do", "recolour"], "recolour: expected a colour to do it with, got None"),
        (["--do", "recolour", "--with", "blurple"], "recolour: expected a colour such as"),
        (["--do", "replace", "--with", "a red fox"], "no pictogram is called 'a red fox'; similar are fox"),
        (["--do", "blur", "--with", "teal"], "blur: expected nothing to do it with"),
        (["--do", "blur", "--mask", "nowhere"], "'nowhere': expected a SAM 2: no such folder"),
        (["--do", "blur", "--diffusion", "x"], "a diffusion model can replace with a prompt, or remove; got blur"),
        (
            ["--do", "replace", "--diffusion", "x"],
            "a diffusion model can replace with a prompt, or remove; got replace",
        ),
        (["--do", "remove", "--seed", "1"], "seed: only with a diffusion model, which --diffusion names"),
        (["--do", "remove", "--diffusion", "x", "--seed", "-1"], "seed: expected a whole number in 0.."),
        (["--do", "remove", "--diffusion", "x", "--strength", "0"], "strength: expected a number above 0"),
        (["--do", "remove", "--diffusion", "nowhere"], "'nowhere': expected an inpainting pipeline: no such folder"),
        (["--do", "remove", "--negatives", " . "], "expected phrases, as in "),
        (["--do", "remove", "--out", "a.png"], "--out: 'a.png' is a file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(work, capsys, arguments, words):
    picture("a.png")
    assert main(["edit", "a.png", "--find", "cat", *arguments]) == 2
    (line,) = unexpected(capsys.readouterr().err)
    assert line.startswith("error: ")
    assert words in line
    assert files(".") == {"a.png"}


def test_a_diffusion_model_replaces_and_removes(work):
    folder = save_inpainting(work / "made")
    before = np.asarray(read_image(picture("photos/a.png")))
    paint = ["photos", "--diffusion", folder, "--steps", 2, "--grow", 0]
    assert run(*paint, "--with", "a red fox", "--seed", 1, "--out", "one", do="replace") == 0
    assert run(*paint, "--with", "a red fox", "--seed", 1, "--out", "again", do="replace") == 0
    assert run(*paint, "--strength", 0.5, "--out", "removed", do="remove") == 0
    assert Path("one/a.png").read_bytes() == Path("again/a.png").read_bytes()
    for out in ("one", "removed"):
        (image,) = document(out)["images"]
        changed = (np.asarray(Image.open(f"{out}/a.png")) != before).any(-1)
        assert changed.any()
        assert not (changed & ~masks(image).any(0)).any()
    assert document("one")["edit"] | {"seed": 1, "steps": 2, "with": "a red fox"} == document("one")["edit"]
    shutil.rmtree(folder / "unet")
    assert run(*paint, "--with", "a red fox", "--out", "broken", do="replace") == 2
    assert not Path("broken").exists()


def test_a_picture_that_the_safety_checker_refuses_is_named_and_the_others_are_done(work, monkeypatch, capsys):
    folder = save_inpainting(work / "made")
    for number in range(2):
        picture(f"photos/{number}.png", seed=number)
    paint, calls = Diffusion.__call__, []

    def refuse_the_first(self, pixels, regions):
        calls.append(1)
        if len(calls) == 1:
            raise RefusedError("refused")
        return paint(self, pixels, regions)

    monkeypatch.setattr(Diffusion, "__call__", refuse_the_first)
    assert run("photos", "--diffusion", folder, "--steps", 1, do="remove") == 1
    assert "error: 'photos/0.png': refused" in capsys.readouterr().err
    assert files("edited") == TABLES | {"1.png"}


def test_the_masks_of_the_command_are_those_of_the_library(work, model):
    import gdino_lib as gd

    picture("a.png")
    assert run("a.png", mask="grabcut") == 0
    found = gd.Detector(model)("a.png", ["cat"], box_threshold=0, text_threshold=0, top_k=3)
    (image,) = document("edited")["images"]
    np.testing.assert_array_equal(masks(image), segment("a.png", found).mask)
