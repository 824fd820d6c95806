"""`supervision.DetectionDataset` from records, and records from it."""

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from data_prep.records import Box, Dataset, ImageRecord
from gdino_lib.data.supervision_dataset import from_supervision, to_supervision

BOXES = (Box("cat", 1, 2, 11, 12, {"iscrowd": 1}), Box("dog", 0.5, 0, 5.25, 5))
DATASET = Dataset(
    (ImageRecord("sub/a.png", 40, 30, BOXES), ImageRecord("a.png", 7, 9), ImageRecord("b.png", 8, 8, BOXES[1:])),
    ("dog", "cat", "bird"),
)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "sub").mkdir()
    for record in DATASET.images:
        Image.new("RGB", (record.width, record.height), "teal").save(tmp_path / record.file_name)
    return tmp_path


def test_records_become_detections(images):
    made = to_supervision(DATASET, images)
    assert made.classes == ["dog", "cat", "bird"]
    path, image, found = made[0]
    assert path == str(images / "sub" / "a.png")
    assert image.shape == (30, 40, 3)
    assert found.xyxy.tolist() == [[1, 2, 11, 12], [0.5, 0, 5.25, 5]]
    assert found.class_id.tolist() == [1, 0]
    assert found.data["class_name"].tolist() == ["cat", "dog"]
    assert found.data["iscrowd"].tolist() == [1, 0]
    assert len(made[1][2]) == 0


def test_a_round_trip_keeps_images_classes_and_boxes(images):
    back = from_supervision(to_supervision(DATASET, images), images)
    assert back.categories == DATASET.categories
    assert [(r.file_name, r.width, r.height) for r in back.images] == [
        (r.file_name, r.width, r.height) for r in DATASET.images
    ]
    assert [[(b.label, b.xyxy) for b in r.boxes] for r in back.images] == [
        [(b.label, b.xyxy) for b in r.boxes] for r in DATASET.images
    ]
    assert [box.extra for box in back.images[0].boxes] == [{"iscrowd": 1}, {"iscrowd": 0}]


def test_no_boxes_at_all(images):
    empty = Dataset((ImageRecord("a.png", 7, 9),), ("cat",))
    assert from_supervision(to_supervision(empty, images), images) == empty


def test_confidence_becomes_the_score(images):
    found = sv.Detections(
        np.array([[1, 2, 3, 4]], dtype=np.float32), confidence=np.array([0.5]), class_id=np.array([0])
    )
    path = str(images / "a.png")
    dataset = from_supervision(sv.DetectionDataset(["cat"], [path], {path: found}), images)
    assert dataset.images[0].boxes == (Box("cat", 1, 2, 3, 4, {"score": 0.5}),)


def test_faults_are_named_in_one_line(images):
    with pytest.raises(ValueError, match=r"expected each image once, got more than once: 'a\.png'"):
        to_supervision(Dataset(DATASET.images[1:2] * 2), images)
    with pytest.raises(ValueError, match=r"a\.png: expected an image inside .*sub$"):
        from_supervision(to_supervision(DATASET, images), images / "sub")
    path = str(images / "a.png")
    unnamed = sv.DetectionDataset(["cat"], [path], {path: sv.Detections(np.array([[1, 2, 3, 4]], dtype=np.float32))})
    with pytest.raises(ValueError, match=r"a\.png: expected a class for each box, got none for box 1"):
        from_supervision(unnamed, images)
    made = to_supervision(DATASET, images)
    (images / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.png: there is no image"):
        from_supervision(made, images)
