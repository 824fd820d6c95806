"""LVIS's files: what each image is annotated for."""

import pytest
from published_files import lvis_instances, write_json
from refusals import refused

from data_prep.formats import lvis
from data_prep.formats.registry import FORMATS, format_of
from data_prep.records import Box, Dataset, ImageRecord


def write(folder, content):
    write_json(folder / "lvis_v1_val.json", content)
    return folder / "lvis_v1_val.json"


def test_a_file_as_published(tmp_path):
    dataset = lvis.read(write(tmp_path, lvis_instances()))
    assert dataset.categories == ("red square", "green square", "blue_square")
    assert [category["frequency"] for category in dataset.extra["categories"]] == ["r", "c", "f"]
    assert [record.file_name for record in dataset.images][:2] == [
        "val2017/000000000001.jpg",
        "val2017/000000000002.jpg",
    ]
    assert [record.extra[lvis.NEGATIVE] for record in dataset.images] == [[], [3], [1, 2], [1], [1, 2, 3]]
    assert [record.extra[lvis.NOT_EXHAUSTIVE] for record in dataset.images] == [[], [], [], [2], []]
    assert sum(len(record.boxes) for record in dataset.images) == 6


def test_images_of_two_folders(tmp_path):
    content = lvis_instances()
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000009.jpg"
    assert lvis.read(write(tmp_path, content)).images[0].file_name == "train2017/000000000009.jpg"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: c["categories"][1].pop("frequency"),
            "category 'green square': expected 'frequency' to be r, c or f",
        ),
        (lambda c: c["images"][2].pop("neg_category_ids"), "expected 'neg_category_ids' to be a list, got nothing"),
        (lambda c: c["images"][2].update(not_exhaustive_category_ids=[9]), "to be category ids of the file, got 9"),
        (lambda c: c["images"][0].pop("coco_url"), "expected 'coco_url' to be a text, got nothing"),
        (lambda c: c["annotations"][0].update(category_id=7), "annotation 100: expected 'category_id' to be one of"),
        (lambda c: c.update(categories=[{"id": n, "name": str(n)} for n in (1, 2, 3)]), "got none"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, change, words):
    content = lvis_instances()
    change(content)
    path = write(tmp_path, content)
    with refused(path, words):
        lvis.read(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        lvis.read(tmp_path / "none.json")


def test_a_published_file_survives_a_round_trip(tmp_path):
    dataset = lvis.read(write(tmp_path, lvis_instances()))
    assert lvis.left_out(dataset) == {}
    assert format_of(tmp_path / "lvis_v1_val.json").name == "lvis"
    lvis.write(dataset, tmp_path / "again.json")
    back = lvis.read(tmp_path / "again.json")
    assert [(record.file_name, record.extra) for record in back.images] == [
        (record.file_name, record.extra) for record in dataset.images
    ]
    assert [[box.xyxy for box in record.boxes] for record in back.images] == [
        [box.xyxy for box in record.boxes] for record in dataset.images
    ]
    assert (back.categories, back.extra) == (dataset.categories, dataset.extra)


def test_a_data_set_without_lists_is_taken_as_labelled_for_every_class(tmp_path):
    cats = tuple(ImageRecord(f"{number}.jpg", 9, 9, (Box("cat", 1, 2, 3, 4),)) for number in range(11))
    extra = {"neg_category_ids": [7], "coco_url": "http://x/y/other.jpg"}
    dataset = Dataset((*cats, ImageRecord("sub/b.jpg", 9, 9, extra=extra)), ("dog", "cat"))
    assert lvis.left_out(dataset) == {"neg_category_ids": 1, "coco_url": 1}
    lvis.write(FORMATS["lvis"].fit(dataset)[0], tmp_path / "a.json")
    back = lvis.read(tmp_path / "a.json")
    assert [(each["name"], each["frequency"]) for each in back.extra["categories"]] == [("dog", "r"), ("cat", "c")]
    assert [record.extra[lvis.NEGATIVE] for record in back.images] == [[1]] * 11 + [[1, 2]]
    assert back.images[-1].file_name == "sub/b.jpg"
    with pytest.raises(ValueError, match="LVIS needs categories"):
        lvis.write(Dataset(), tmp_path / "b.json")
