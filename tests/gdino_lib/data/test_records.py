"""Images of records: missing, broken, or of another size."""

import json
import unicodedata

import pytest
from PIL import Image
from squares import EVALUATION, TRAIN, box, with_images

from data_prep import ImageRecord
from data_prep.formats import coco
from gdino_lib.data.datasets import GroundingDataset, read_records
from gdino_lib.data.loader import build_loader
from gdino_lib.data.records import ImageError, crowded_images, is_crowd, open_image
from gdino_lib.evaluation.detect_all import detection_records


def test_missing_images_are_named_at_once(records, folder, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
    with pytest.raises(
        FileNotFoundError, match=r"4\.png': no such file, expected an image \(and 1 more are missing\)$"
    ):
        GroundingDataset(records, tmp_path, TRAIN)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        GroundingDataset(records, tmp_path / "nowhere", TRAIN)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_named_in_one_line(folder, tmp_path, workers):
    (tmp_path / "a.png").write_bytes((folder / "0.png").read_bytes()[:200])
    dataset = GroundingDataset(with_images([ImageRecord("a.png", 100, 80, (box("cat"), box("dog")))]), tmp_path, TRAIN)
    with pytest.raises(ImageError) as caught:
        list(build_loader(dataset, 1, shuffle=True, workers=workers))
    message = str(caught.value)
    assert message.startswith(f"'{tmp_path / 'a.png'}': expected")
    assert "\n" not in message
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png': no such file"):
        dataset[0]


def test_another_size_than_the_boxes_were_drawn_in(folder, tmp_path):
    with pytest.raises(ImageError, match=r"drawn in 100 x 90 pixels, the upright image has 100 x 80"):
        open_image(ImageRecord("0.png", 100, 90), folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.png").save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(ImageRecord("turned.jpg", 80, 100), tmp_path).size == (80, 100)
    with pytest.raises(ImageError, match="the upright image has 80 x 100"):
        open_image(ImageRecord("turned.jpg", 100, 80), tmp_path)


def test_training_and_evaluation_treat_two_records_for_one_image_alike(folder, tmp_path, records):
    """Reading for training and evaluation drops the second with a warning; records that hold both are refused by both."""
    coco.write(records, tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    document["images"].append(document["images"][0] | {"id": 99, "file_name": "./0.png"})
    document["annotations"].append(document["annotations"][0] | {"id": 999, "image_id": 99})
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.warns(UserWarning, match=r"image annotated twice \(1\).*`python -m data_prep audit` lists them all"):
        read = read_records(tmp_path / "a.json")
    assert [record.file_name for record in read.images] == [record.file_name for record in records.images]
    assert len(GroundingDataset(read, folder, TRAIN)) == len(detection_records(read)) == 6
    twice = with_images([*records.images, records.images[0]])
    for use in (detection_records, lambda dataset: GroundingDataset(dataset, folder, TRAIN)):
        with pytest.raises(ValueError, match=r"two records for the image '0\.png'"):
            use(twice)


def test_faults_of_a_file_give_a_warning_and_the_rest_is_used(folder, tmp_path, records):
    coco.write(records, tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    boxes = len(document["annotations"])
    document["annotations"][0]["bbox"] = []
    document["annotations"][1]["iscrowd"] = "0"
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.warns(
        UserWarning, match=r"object unreadable \(1\), detail mended \(1\); the first is a\.json: annotation"
    ):
        read = read_records(tmp_path / "a.json")
    targets = [sample.target for sample in GroundingDataset(read, folder, EVALUATION)]
    assert sum(len(target.boxes) for target in targets) == boxes - 1


@pytest.mark.parametrize(
    ("flag", "is_set"), [(0, 0), (1, 1), (False, 0), (True, 1), ("0", 0), ("1", 1), ("", 0), (None, 0)]
)
def test_a_crowd_flag_may_be_a_text(flag, is_set):
    assert is_crowd(box("cat", iscrowd=flag)) == bool(is_set)


def test_a_text_that_is_no_flag_is_refused():
    with pytest.raises(ValueError, match="expected a flag, 0 or 1, got 'maybe'"):
        is_crowd(box("cat", iscrowd="maybe"))


@pytest.mark.parametrize("spelling", ["NFC", "NFD"])
def test_a_name_with_accents_finds_its_file_in_either_unicode_form(folder, tmp_path, spelling):
    stored, written = (
        unicodedata.normalize(spelling, "café.png"),
        {"NFC": "cafe\u0301.png", "NFD": "caf\u00e9.png"}[spelling],
    )
    (tmp_path / stored).write_bytes((folder / "0.png").read_bytes())
    dataset = GroundingDataset(with_images([ImageRecord(written, 100, 80, (box("cat"), box("dog")))]), tmp_path, TRAIN)
    assert dataset[0].target.name == written


def test_images_with_more_boxes_than_queries_are_named():
    crowded = ImageRecord("a.png", 100, 80, tuple(box("cat", 1, 1, 2 + n, 9) for n in range(4)))
    crowds = ImageRecord("b.png", 100, 80, tuple(box("cat", 1, 1, 2 + n, 9, iscrowd=1) for n in range(4)))
    assert crowded_images([crowded, crowds], 3) == (
        "1 images have more boxes than the model has queries (3), so some boxes are never learned: a.png has 4"
    )
    assert crowded_images([crowded, crowds], 4) is None
