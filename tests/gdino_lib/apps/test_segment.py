"""Masks for boxes: by GrabCut, as whole boxes, by a function, by SAM 2; and as COCO has them."""

from types import SimpleNamespace

import numpy as np
import pytest
import supervision as sv
from made_up_detectors import detections
from PIL import Image
from pycocotools import mask as coco_mask
from refusals import refused
from scipy.ndimage import binary_fill_holes
from small_pretrained import save_sam2

from data_prep import Box, Dataset, ImageRecord
from data_prep.formats import coco
from gdino_lib.apps import sam2 as sam2_module
from gdino_lib.apps import segment as segment_module
from gdino_lib.apps.sam2 import Sam2
from gdino_lib.apps.segment import coco_fields, grabcut, segment
from gdino_lib.nano import pictograms
from gdino_lib.nano.scenes import draw_scene

decodes = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools beside NumPy 2


def boxes(*rows):
    return sv.Detections(xyxy=np.array(rows, dtype=np.float32).reshape(-1, 4))


def disc(size=(90, 120), centre=(45, 60), radius=25):
    """A red disc on grass-like noise, and its pixels."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 60, (*size, 3)) + np.array([20, 120, 20])
    pixels[inside] = generator.integers(0, 60, (inside.sum(), 3)) + np.array([180, 20, 20])
    return pixels.astype(np.uint8), inside


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("with_", ["grabcut", "box"])
def test_no_boxes_no_masks(with_):
    found = segment(np.zeros((20, 30, 3), np.uint8), sv.Detections.empty(), with_)
    assert found.mask.shape == (0, 20, 30)
    assert found.mask.dtype == bool


def test_everything_else_of_the_detections_stays():
    pixels, _ = disc()
    before = detections(("red square", (30, 15, 90, 75), 0.9), ("green square", (0, 0, 20, 20), 0.5))
    after = segment(pixels, before)
    assert before.mask is None
    assert after.mask.shape == (2, 90, 120)
    for name in ("xyxy", "confidence", "class_id"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.data["class_name"].tolist() == ["red square", "green square"]


def test_grabcut_finds_the_disc_in_its_box():
    pixels, inside = disc()
    (mask,) = segment(pixels, boxes((30, 15, 90, 75))).mask
    assert iou(mask, inside) > 0.95


def test_grabcut_finds_a_large_disc_on_a_smaller_copy():
    pixels, inside = disc((900, 1200), (450, 600), 250)
    (mask,) = segment(pixels, boxes((330, 180, 870, 720))).mask
    assert iou(mask, inside) > 0.95


def test_grabcut_never_leaves_the_box_and_repeats_itself():
    scene = draw_scene(3, seed="masks", size=128, things=pictograms.seen())
    found = boxes(*(box.xyxy for box in scene.record.boxes))
    first, again = segment(scene.image, found), segment(scene.image, found)
    whole = segment(scene.image, found, "box")
    np.testing.assert_array_equal(first.mask, again.mask)
    assert not (first.mask & ~whole.mask).any()
    assert first.mask.any(axis=(1, 2)).all()


def test_masks_of_scenes_fit_better_than_their_boxes():
    by_grabcut, by_box = [], []
    for index in range(12):
        scene = draw_scene(index, seed="masks", size=192, things=pictograms.seen())
        found = boxes(*(box.xyxy for box in scene.record.boxes))
        for with_, values in (("grabcut", by_grabcut), ("box", by_box)):
            values += [
                iou(mask, truth)
                for mask, truth in zip(segment(scene.image, found, with_).mask, scene.masks, strict=True)
            ]
    assert np.mean(by_grabcut) > np.mean(by_box) + 0.05


@pytest.mark.parametrize(
    "box",
    [(0, 0, 120, 90), (-50, -50, 500, 500), (10, 10, 12, 12), (5.2, 5.2, 5.4, 5.4), (119.9, 89.9, 120, 90)],
    ids=["whole image", "beyond the image", "tiny", "within a pixel", "last pixel"],
)
def test_where_grabcut_cannot_work_the_mask_is_the_box(box):
    pixels, _ = disc()
    by_grabcut, by_box = segment(pixels, boxes(box)), segment(pixels, boxes(box), "box")
    np.testing.assert_array_equal(by_grabcut.mask, by_box.mask)
    assert by_box.mask.any()


def test_a_box_covers_every_pixel_that_it_touches():
    (mask,) = segment(np.zeros((20, 30, 3), np.uint8), boxes((2.5, 3, 6.1, 7)), "box").mask
    expected = np.zeros((20, 30), bool)
    expected[3:7, 2:7] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_function_gets_upright_pixels_and_boxes():
    seen = {}

    def everything(pixels, given):
        seen.update(pixels=pixels, boxes=given)
        return np.ones((len(given), *pixels.shape[:2]), bool)

    image = Image.new("RGB", (40, 20), "red")
    image.getexif()[0x0112] = 6  # lies on its side
    found = segment(image, boxes((1, 2, 3, 4)), everything)
    assert seen["pixels"].shape == (40, 20, 3)
    assert seen["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(seen["boxes"], [[1, 2, 3, 4]])
    assert found.mask.all()


@pytest.mark.parametrize(
    "masks",
    [np.ones((1, 20, 30)), np.ones((2, 20, 30), bool), np.ones((1, 30, 20), bool)],
    ids=["float", "two", "turned"],
)
def test_masks_of_another_kind_are_refused(masks):
    with refused("masks", "expected bool [1, 20, 30], got "):
        segment(np.zeros((20, 30, 3), np.uint8), boxes((1, 2, 3, 4)), lambda *_: masks)


def test_a_missing_opencv_is_one_line(monkeypatch):
    monkeypatch.setattr(segment_module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^OpenCV is not installed; pip install 'gdino_lib\[edit\]'$"):
        segment(np.zeros((20, 30, 3), np.uint8), boxes((1, 2, 3, 4)))


def ring():
    """A mask with a hole, in two parts, one of them a single pixel."""
    mask = np.zeros((40, 50), bool)
    mask[5:25, 10:30] = True
    mask[10:15, 15:25] = False
    mask[39, 49] = True
    return mask


@decodes
def test_run_lengths_decode_to_the_mask():
    found = boxes((10, 5, 50, 40), (0, 0, 9, 9))
    found.mask = np.stack([ring(), np.zeros((40, 50), bool)])
    for fields, mask in zip(coco_fields(found), found.mask, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(fields["segmentation"]).astype(bool), mask)
        assert fields["area"] == mask.sum()
        assert fields["iscrowd"] == 0


@decodes
def test_polygons_decode_to_the_mask_with_its_holes_filled():
    found = boxes((10, 5, 50, 40))
    found.mask = ring()[None]
    (fields,) = coco_fields(found, "polygons")
    decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(fields["segmentation"], 40, 50))).astype(bool)
    np.testing.assert_array_equal(decoded, binary_fill_holes(ring()))


@decodes
def test_masks_go_through_a_coco_file(tmp_path):
    found = boxes((10, 5, 50, 40))
    found.mask = ring()[None]
    (fields,) = coco_fields(found)
    record = ImageRecord("a.png", 50, 40, (Box("ring", 10, 5, 50, 40, extra=fields),))
    coco.write(Dataset((record,), ("ring",)), tmp_path / "a.json")
    (box,) = coco.read(tmp_path / "a.json").images[0].boxes
    np.testing.assert_array_equal(coco_mask.decode(box.extra["segmentation"]).astype(bool), ring())


def test_coco_needs_masks_and_a_known_form():
    with refused("form", "expected rle or polygons, got 'png'"):
        coco_fields(boxes(), "png")
    with pytest.raises(ValueError, match="expected detections with masks, got boxes only"):
        coco_fields(boxes((1, 2, 3, 4)))


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory):
    return save_sam2(tmp_path_factory.mktemp("sam2"))


def test_sam2_gives_a_mask_a_box_whatever_their_number(sam2_folder, monkeypatch):
    pixels, _ = disc()
    found = boxes((30, 15, 90, 75), (0, 0, 20, 20), (50, 50, 120, 90))
    segmenter = Sam2(sam2_folder, "cpu")
    together = segment(pixels, found, segmenter).mask
    assert together.shape == (3, 90, 120)
    assert len({mask.tobytes() for mask in together}) > 1  # the box matters
    for number in range(3):
        (alone,) = segment(pixels, found[[number]], segmenter).mask
        assert (together[number] != alone).mean() < 0.001  # a logit near 0 may round to the other side
    monkeypatch.setattr(sam2_module, "AT_ONCE", 2)
    assert (segment(pixels, found, segmenter).mask != together).mean() < 0.001


def test_sam2_by_name_loads_its_default_weights(sam2_folder, monkeypatch):
    monkeypatch.setattr(sam2_module, "WEIGHTS", str(sam2_folder))
    pixels, _ = disc()
    found = boxes((30, 15, 90, 75))
    np.testing.assert_array_equal(segment(pixels, found, "sam2").mask, segment(pixels, found, Sam2(sam2_folder)).mask)


def test_sam2_is_refused_in_one_line(tmp_path, sam2_folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"expected a SAM 2, found a folder without config.json$"):
        Sam2(tmp_path, "cpu")
    with pytest.raises(
        FileNotFoundError, match="expected a SAM 2: no such folder, and no such name on the Hugging Face"
    ):
        Sam2(tmp_path / "nowhere", "cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a SAM 2 that transformers can load, got ") as error:
        Sam2(tmp_path, "cpu")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(sam2_module, "transformers", SimpleNamespace(__version__="4.50.0"))
    with pytest.raises(ValueError, match=r"^SAM 2 needs transformers 4\.56 or later, got 4\.50\.0$"):
        Sam2(sam2_folder, "cpu")


def test_grabcut_is_a_segmenter_by_itself():
    pixels, _ = disc()
    found = boxes((30, 15, 90, 75))
    np.testing.assert_array_equal(grabcut(pixels, found.xyxy), segment(pixels, found).mask)
