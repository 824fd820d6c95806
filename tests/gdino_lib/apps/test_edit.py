"""Guided edits: nothing outside the regions changes, and inside each action does what it says."""

import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refused

from gdino_lib.apps.edit import composite, edit, grown, opacity, paste, pictogram
from gdino_lib.apps.segment import segment
from gdino_lib.detect.detector import Detector
from gdino_lib.nano import pictograms
from gdino_lib.nano.scenes import draw_scene

EDITS = [("remove", None), ("blur", None), ("recolour", "teal"), ("replace", "fox")]


def noise(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def marked(*masks):
    """Detections of masks with the boxes around them."""
    masks = np.stack(masks)
    return sv.Detections(xyxy=sv.mask_to_xyxy(masks).astype(np.float32) + np.float32([0, 0, 1, 1]), mask=masks)


def square(top=20, left=30, side=16, height=60, width=80):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@given(st.data())
def test_every_pixel_outside_keeps_its_value(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    seed, count = data.draw(st.integers(0, 999)), data.draw(st.integers(0, 3))
    generator = np.random.default_rng(seed)
    masks = generator.random((count, height, width)) < data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    corners = generator.uniform(-3, 43, (count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).clip(0, [width, height, width, height])
    found = sv.Detections(xyxy=boxes.astype(np.float32).reshape(-1, 4), mask=masks)
    do, with_ = data.draw(st.sampled_from(EDITS))
    grow, feather = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 9))
    pixels = noise(height, width, seed)
    edited = np.asarray(edit(pixels, found, do, with_, grow=grow, feather=feather))
    allowed = grown(masks, grow).any(0)
    if do == "replace":
        allowed |= segment(pixels, found, "box").mask.any(0)
    np.testing.assert_array_equal(edited[~allowed], pixels[~allowed])
    assert edited.shape == pixels.shape


@pytest.mark.parametrize(("do", "with_"), EDITS)
def test_without_detections_the_image_is_equal(do, with_):
    found = segment(noise(), sv.Detections.empty())
    np.testing.assert_array_equal(np.asarray(edit(noise(), found, do, with_)), noise())


@pytest.mark.parametrize(("do", "with_"), EDITS)
def test_the_callers_image_stays_and_its_inside_changes(do, with_):
    image = Image.fromarray(noise())
    edited = edit(image, marked(square()), do, with_)
    np.testing.assert_array_equal(np.asarray(image), noise())
    assert (np.asarray(edited)[square()] != noise()[square()]).any(-1).mean() > 0.9


def test_a_region_is_the_mask_and_all_pixels_within_a_distance():
    mask = np.zeros((1, 21, 21), bool)
    mask[0, 10, 10] = True
    rows, columns = np.ogrid[-10:11, -10:11]
    for by in (0, 1, 4):
        np.testing.assert_array_equal(grown(mask, by)[0], rows**2 + columns**2 <= by**2)
    assert not grown(np.zeros((1, 5, 5), bool), 3).any()


def test_an_edit_fades_in_over_the_feather_and_not_at_the_border_of_the_image():
    region = np.zeros((30, 40), bool)
    region[:, 20:] = True
    row = opacity(region, 3)[15]
    np.testing.assert_allclose(row[18:26], [0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    assert row[-1] == 1
    assert opacity(np.ones((3, 4), bool), 9).min() == 1


def test_the_composite_mixes_by_its_share():
    old, new = np.full((1, 4, 3), 100, np.uint8), np.full((1, 4, 3), 200, np.uint8)
    mixed = composite(old, new, np.float32([[0, 0.25, 0.5, 1]]))
    assert mixed[0, :, 0].tolist() == [100, 125, 150, 200]


def test_by_default_a_region_grows_by_a_64th_but_not_to_recolour():
    pixels = noise(256, 300)
    mask = square(100, 100, 40, 256, 300)
    for do, with_, by in (("blur", None, 4), ("recolour", "red", 0)):
        changed = (np.asarray(edit(pixels, marked(mask), do, with_)) != pixels).any(-1)
        assert not (changed & ~grown(mask[None], by)[0]).any()
        assert (changed & ~grown(mask[None], by - 1)[0]).any() if by else (changed == mask).mean() > 0.99


def test_removed_from_a_flat_ground_a_thing_leaves_no_trace():
    pixels = np.full((60, 80, 3), (90, 120, 60), np.uint8)
    pixels[square()] = 255
    edited = np.asarray(edit(pixels, marked(square()), "remove"))
    assert np.abs(edited.astype(int) - (90, 120, 60)).max() <= 3  # of 255: OpenCV cuts fractions off


def test_a_blurred_region_keeps_its_mean_and_loses_its_contrast():
    pixels = noise(200, 200)
    mask = square(50, 50, 100, 200, 200)
    edited = np.asarray(edit(pixels, marked(mask), "blur", feather=0))
    before, after = pixels[mask].astype(float), edited[mask].astype(float)
    assert np.abs(before.mean(0) - after.mean(0)).max() < 4
    assert after.std() < 0.1 * before.std()


@pytest.mark.parametrize("colour", ["#4a90a0", "#c87840", "grey"])
def test_recoloured_the_mean_is_the_colour_and_the_texture_stays(colour):
    pixels = (noise() // 8 + 100).astype(np.uint8)
    edited = np.asarray(edit(pixels, marked(square()), "recolour", colour))
    wanted = np.asarray(Image.new("RGB", (1, 1), colour))[0, 0]
    assert np.abs(edited[square()].mean(0) - wanted).max() < 5
    lightness = [np.asarray(Image.fromarray(part).convert("L"))[square()] for part in (pixels, edited)]
    assert np.corrcoef(*lightness)[0, 1] > 0.85


def test_a_pictogram_stands_in_the_middle_of_its_box_unstretched():
    ground = Image.new("RGB", (200, 100))
    picture = Image.new("RGBA", (30, 30), (255, 0, 0, 255))
    pasted = np.asarray(paste(ground, sv.Detections(xyxy=np.array([[20, 10, 180, 90]], np.float32)), picture))
    assert np.argwhere(pasted[..., 0]).min(0).tolist() == [10, 60]
    assert np.argwhere(pasted[..., 0]).max(0).tolist() == [89, 139]


@pytest.mark.parametrize("name", ["fox", " Fox ", "Fox"])
def test_a_pictogram_has_any_of_its_wordings(name):
    picture = pictogram(name, 40)
    assert picture.mode == "RGBA"
    assert max(picture.size) == 40


def test_a_function_may_do_the_edit():
    edited = np.asarray(edit(noise(), marked(square()), lambda pixels, regions: 255 - pixels, grow=0, feather=0))
    np.testing.assert_array_equal(edited[square()], 255 - noise()[square()])
    np.testing.assert_array_equal(edited[~square()], noise()[~square()])


@pytest.mark.parametrize(
    ("do", "with_", "place", "words"),
    [
        ("paint", None, "do", "expected one of remove, blur, recolour, replace, got 'paint'"),
        ("recolour", None, "recolour", "expected a colour to do it with, got None"),
        ("recolour", "blurple", "recolour", "expected a colour such as "),
        ("replace", None, "replace", "expected the name of a pictogram to do it with, got None"),
        ("replace", "a red fox", "replace", "no pictogram is called 'a red fox'; similar are fox"),
        ("replace", "foxx", "replace", "similar are fox"),
        ("blur", "teal", "blur", "expected nothing to do it with, got 'teal'"),
        (lambda *_: None, "teal", "with_", "expected None beside a function, got 'teal'"),
        (lambda pixels, _: pixels[1:], None, "new pixels", "expected uint8 [60, 80, 3], got uint8 [59, 80, 3]"),
    ],
)
def test_what_cannot_be_done_is_one_line(do, with_, place, words):
    with refused(place, words):
        edit(noise(), marked(square()), do, with_)


@pytest.mark.parametrize("numbers", [{"grow": -1}, {"feather": -1}, {"grow": 10**9}])
def test_pixels_out_of_range_are_refused(numbers):
    with refused("grow and feather", "expected 0..65535 pixels"):
        edit(noise(), marked(square()), "blur", **numbers)


def test_masks_must_be_there_and_of_the_images_size():
    with pytest.raises(ValueError, match="expected detections with masks, got boxes only"):
        edit(noise(), sv.Detections(xyxy=np.array([[1, 2, 3, 4]], np.float32)), "blur")
    with refused("masks", "expected the image's size [30, 80], got [60, 80]"):
        edit(noise(30), marked(square()), "blur")


@pytest.mark.slow
def test_nano_finds_and_removes_a_thing_of_a_scene():
    scene = draw_scene(3, seed=0, size=256, things=pictograms.seen())
    names = [box.label for box in scene.record.boxes]
    found = Detector.from_pretrained("nano", "cpu")(scene.image, names)
    found = segment(scene.image, found[found.class_id == 0])
    edited = np.asarray(edit(scene.image, found, "remove"))
    changed = (edited != np.asarray(scene.image)).any(-1)
    assert len(found) == 1
    assert changed[scene.masks[0]].mean() > 0.9
    assert not (changed & ~grown(found.mask, 4)[0]).any()
