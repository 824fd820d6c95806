"""The size and the boxes of an image are converted to the same frame, or the image is left out.

The reference draws a box as a white rectangle into an image, resizes and rotates the image as a camera and an image editor do,
and measures where the rectangle is.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from voc_files import voc_xml

from data_prep.__main__ import main
from data_prep.audit import audit
from data_prep.formats import csv_table
from data_prep.frames import fit
from data_prep.pictures import Picture
from data_prep.records import Box, Dataset, ImageRecord

QUARTERS = (5, 6, 7, 8)
CORNERS = st.tuples(st.integers(0, 19), st.integers(0, 14), st.integers(1, 20), st.integers(1, 15)).map(
    lambda c: (c[0], c[1], min(c[0] + c[2], 40), min(c[1] + c[3], 30))
)


def photo(path, corners, orientation=1, scale=1, size=(40, 30)):
    """Save a black image with a white rectangle, `scale` times as large as annotated, with this EXIF orientation."""
    image = Image.new("L", size)
    image.paste(255, corners)
    image = image.resize((size[0] * scale, size[1] * scale), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)
    return path


def white_rectangle(path):
    """(size, corners of the rectangle) of the upright image."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    return upright.size, upright.point(lambda value: 255 * (value > 127)).getbbox()


@settings(max_examples=60, deadline=None)
@given(CORNERS, st.sampled_from([1, *QUARTERS]), st.integers(1, 3))
def test_boxes_drawn_before_resizing_and_rotation_end_on_the_object(tmp_path_factory, corners, orientation, scale):
    path = photo(tmp_path_factory.mktemp("frames") / "a.png", corners, orientation, scale)
    record = ImageRecord("a.png", 40, 30, (Box("cat", *corners),))
    cleaned, report = audit(Dataset((record,)), path.parent)
    (after,) = cleaned.images
    size, white = white_rectangle(path)
    assert ((after.width, after.height), after.boxes[0].xyxy) == (size, white)
    action = "turned" if orientation > 1 else "scaled"
    assert [f.action for f in report.findings if f.kind == "size mismatch"] == (
        [action] if (orientation, scale) != (1, 1) else []
    )
    assert not report.has_skipped


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(1, 8),
    st.lists(CORNERS, min_size=1, max_size=3),
)
def test_the_size_never_changes_without_the_boxes(stated, size, orientation, corners):
    boxes = tuple(Box("cat", *box) for box in corners)
    picture = Picture(*size, orientation)
    fitted = fit(boxes, stated, picture)
    if stated != size and fitted.boxes is not None:
        assert fitted.boxes != boxes or all(box.xyxy == (0, 0, 0, 0) for box in boxes) or fitted.action == "turned"
        assert fitted.action in ("scaled", "turned")
    if stated == size and fitted.boxes is not None:
        assert fitted.boxes == boxes
    if fitted.boxes is None:
        assert fitted.detail


@pytest.mark.parametrize(
    ("stated", "picture", "box", "why"),
    [
        ((30, 40), Picture(40, 30), (1, 2, 5, 6), "width and height are swapped, and EXIF does not explain it"),
        ((40, 40), Picture(40, 30), (1, 2, 5, 6), "cropped"),
        ((20, 15), Picture(40, 30), (30, 20, 38, 28), "the box fits the image, but not the stated size"),
        (
            (40, 30),
            Picture(30, 40, 6),
            (2, 32, 12, 38),
            "the box fits the upright image, the size is that of the stored image",
        ),
        ((40, 40), Picture(40, 40, 6), (1, 2, 5, 6), "both frames have one size"),
        (
            (30, 40),
            Picture(30, 40, 6),
            (32, 2, 38, 12),
            "the size is that of the upright image, the box fits the stored image",
        ),
        (None, Picture(40, 30, 6), (1, 2, 5, 6), "no size, and the box fits both frames"),
        (None, Picture(40, 30), (1, 2, 500, 6), "no size, and the box does not fit"),
    ],
)
def test_boxes_in_an_unknown_frame_are_left_out(stated, picture, box, why):
    fitted = fit((Box("cat", *box),), stated, picture)
    assert fitted.boxes is None, why
    assert fitted.kind in ("size mismatch", "orientation uncertain")
    assert fit((), stated, picture).boxes == (), "without boxes no frame is needed"


def test_a_missing_size_is_taken_from_the_image_if_the_boxes_fit():
    boxes = (Box("cat", 1, 2, 41, 30),)  # one pixel outside, as from tools that count pixels from 1
    assert fit(boxes, None, Picture(40, 30)).boxes == boxes
    (turned,) = fit((Box("cat", 32, 2, 38, 12),), None, Picture(30, 40, 6)).boxes
    assert turned.xyxy == (18, 32, 28, 38)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_rotations_that_keep_the_size_are_reported(tmp_path, orientation):
    path = photo(tmp_path / "a.jpg", (1, 2, 11, 12), orientation)
    dataset = Dataset((ImageRecord("a.jpg", 40, 30, (Box("cat", 1, 2, 11, 12),)),))
    cleaned, report = audit(dataset, path.parent)
    assert cleaned == dataset
    assert [(f.kind, f.action) for f in report.findings] == [("orientation uncertain", "kept")]
    assert not report.has_skipped


def test_scaled_boxes_lose_their_other_fields_in_pixels():
    extra = {"segmentation": [[1, 2, 3]], "area": 100, "difficult": "1"}
    box = Box("cat", 4, 4, 8, 8, extra)
    fitted = fit((box,), (40, 30), Picture(80, 60))
    assert fitted.boxes == (Box("cat", 8, 8, 16, 16, {"difficult": "1"}),)
    assert fitted.detail == "1 box scaled, without area, segmentation"
    assert all(isinstance(value, int) for value in fitted.boxes[0].xyxy)


def test_voc_to_csv_scales_turns_counts_and_reports(voc_folder, tmp_path, capsys):
    images = voc_folder.images
    voc_folder.add("large", size=(400, 300), xml=voc_xml("large.jpg", (1600, 1200), [("cat", (100, 100, 300, 250))]))
    photo(images / "photo.png", (5, 6, 15, 16), orientation=6)
    voc_folder.write("photo", voc_xml("photo.png", (40, 30), [("cat", (5, 6, 15, 16))]))
    voc_folder.add("crop", size=(40, 20), xml=voc_xml("crop.jpg"))
    voc_folder.add("swapped", size=(30, 40), xml=voc_xml("swapped.jpg"))
    folders = ["--images", str(images), "--annotations", str(voc_folder.annotations)]
    assert main(["voc-to-csv", *folders, "--out", str(tmp_path / "out"), "--train", "2"]) == 1
    table = csv_table.read(tmp_path / "out" / "train" / "annotations.csv")
    assert {image.file_name: (image.width, image.height, image.boxes[0].xyxy) for image in table.images} == {
        "large.jpg": (400, 300, (25, 25, 75, 62.5)),
        "photo.png": (30, 40, white_rectangle(images / "photo.png")[1]),
    }
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["counts"]["size mismatch"] == 4
    assert {f["file"]: f["action"] for f in report["findings"] if f["kind"] == "size mismatch"} == {
        "crop.xml": "skipped", "swapped.xml": "skipped", "large.xml": "scaled", "photo.xml": "turned",
    }  # fmt: skip
    assert "states 1600 x 1200, large.jpg has 400 x 300 pixels" in " ".join(capsys.readouterr().out.split())
    assert main(["voc-to-csv", *folders, "--out", str(tmp_path / "strict"), "--train", "2", "--strict"]) == 2
