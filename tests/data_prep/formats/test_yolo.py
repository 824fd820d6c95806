"""YOLO: the dialects of data.yaml, of image lists and of lines."""

import itertools
import json
import os

import pytest
from picture_folders import draw_images
from PIL import Image
from refusals import refused

from data_prep.__main__ import main
from data_prep.formats import yolo
from data_prep.formats.registry import of_split
from data_prep.records import Box, Dataset, ImageRecord

NAMES = "names: [cat, dog]\n"
SIZE = (40, 20)


def make(folder, yaml="train: images\n" + NAMES, **labels):
    """A data set with `images/a.jpg` for `a="0 0.5 0.5 0.2 0.2"`; None: no label file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "data.yaml").write_text(yaml)
    for stem, text in labels.items():
        Image.new("1", SIZE).save(folder / "images" / f"{stem}.jpg")
        if text is not None:
            (folder / "labels" / f"{stem}.txt").write_text(text)
    return folder / "data.yaml"


def boxes(dataset):
    return {record.file_name: [(box.label, box.xyxy) for box in record.boxes] for record in dataset.images}


@pytest.mark.parametrize(
    "names",
    ["names: [cat, dog]", "names: {0: cat, 1: dog}", 'names: {"1": dog, "0": cat}', "nc: 2\nnames:\n- cat\n- dog"],
)
def test_names_are_a_list_or_have_indices(tmp_path, names):
    path = make(tmp_path, f"train: images\n{names}\n", a="1 0.5 0.5 0.5 1.0\n", b="", c=None)
    dataset = yolo.read(path)
    assert dataset.categories == ("cat", "dog")
    assert boxes(dataset) == {"a.jpg": [("dog", (10, 0, 30, 20))], "b.jpg": [], "c.jpg": []}
    assert yolo.read(tmp_path) == dataset, "the folder of data.yaml stands for it"


@pytest.mark.parametrize(
    ("yaml", "file"),
    [
        ("path: set\ntrain: images", "set/images/a.jpg"),
        ("path: /nowhere/of/another/computer\ntrain: images", "images/a.jpg"),  # mended
        ("train: ./images/", "images/a.jpg"),
        ("train: ../images", "images/a.jpg"),  # as Roboflow writes it; mended
        ("train: [images]", "images/a.jpg"),
        ("train: list.txt", "images/a.jpg"),
        ("train: images\nval:\ntest: ''", "images/a.jpg"),
    ],
)
def test_places_of_the_images(tmp_path, yaml, file):
    root = tmp_path / "root"
    image = root / file
    image.parent.mkdir(parents=True)
    Image.new("1", SIZE).save(image)
    label = image.parent.parent / "labels" / "a.txt"
    label.parent.mkdir()
    label.write_text("0 .5 .5 1e-1 0.2")
    (root / "list.txt").write_text("./images/a.jpg\n\n")
    (root / "data.yaml").write_text(f"{yaml}\n{NAMES}")
    found = []
    dataset = yolo.read(root / "data.yaml", found)
    assert boxes(dataset) == {"a.jpg": [("cat", (18, 8, 22, 12))]}
    assert yolo.image_folder(root) == image.parent
    is_mended = "nowhere" in yaml or ".." in yaml
    assert [finding.kind for finding in found] == ["detail mended"] * is_mended
    if is_mended:
        with pytest.raises(ValueError, match=r"data\.yaml: (path|train): .*there is (none|nothing) at"):
            yolo.read(root / "data.yaml")


def test_splits_are_kept_and_can_be_chosen(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        Image.new("1", SIZE).save(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(
        f"train: train/images\nvalidation: valid/images\ntest: test/images\n{NAMES}roboflow: {{version: 1}}\n"
    )
    dataset = yolo.read(tmp_path)
    assert [(record.file_name, record.extra["split"]) for record in dataset.images] == [
        ("train/images/a.jpg", "train"), ("valid/images/a.jpg", "val"), ("test/images/a.jpg", "test"),
    ]  # fmt: skip
    assert [record.file_name for record in of_split(dataset, "val").images] == ["valid/images/a.jpg"]
    with pytest.raises(ValueError, match="expected images of the split 'dev', got only test, train, val"):
        of_split(dataset, "dev")


def test_splits_survive_a_round_trip_through_coco(tmp_path, capsys):
    records = tuple(
        ImageRecord(f"{split}/a.jpg", 8, 8, (Box("cat", 1, 2, 3, 4),), extra={"split": split}) for split in yolo.SPLITS
    )
    yolo.write(Dataset(records, ("cat", "no")), tmp_path / "a")
    draw_images(Dataset(records), tmp_path / "a" / "images")
    assert (tmp_path / "a" / "val.txt").read_text() == "./images/val/a.jpg\n"
    assert (tmp_path / "a" / "labels" / "val" / "a.txt").read_text() == "0 0.25 0.375 0.25 0.25\n"
    assert main(["yolo-to-coco", str(tmp_path / "a"), str(tmp_path / "a.json")]) == 0
    assert main(["coco-to-yolo", str(tmp_path / "a.json"), str(tmp_path / "b")]) == 0
    draw_images(Dataset(records), tmp_path / "b" / "images")
    assert yolo.read(tmp_path / "b") == yolo.read(tmp_path / "a") == Dataset(records, ("cat", "no"))
    capsys.readouterr()


def test_polygons_have_their_box_and_keep_their_corners(tmp_path):
    path = make(tmp_path, a="1 0.25 0.5 0.75 0.5 0.5 1\n0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4")
    (record,) = yolo.read(path).images
    triangle, turned = record.boxes
    assert triangle.xyxy == (10, 10, 30, 20)
    assert triangle.extra == {"segmentation": [[10, 10, 30, 10, 20, 20]]}
    assert turned.xyxy == (4, 2, 12, 8)
    yolo.write(yolo.read(path), tmp_path / "again")
    draw_images(Dataset((record,)), tmp_path / "again" / "images")
    assert yolo.read(tmp_path / "again") == yolo.read(path)


def test_polygons_become_boxes_where_a_box_has_none(tmp_path):
    """The trainers read four numbers as two corners of a polygon, if another line of the file is a polygon."""
    boxed = Box("cat", 1, 1, 4, 4, {"segmentation": [[1, 1, 4, 1, 4, 4]]})
    dataset = Dataset((ImageRecord("a.jpg", 8, 8, (boxed, Box("cat", 0, 0, 2, 2))),), ("cat",))
    assert yolo.left_out(dataset) == {"segmentation": 1}
    yolo.write(dataset, tmp_path / "a")
    lines = (tmp_path / "a" / "labels" / "a.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5, 5]


def test_scores_and_keypoints(tmp_path):
    path = make(
        tmp_path, "train: images\nkpt_shape: [2, 3]\n" + NAMES, a="0 .5 .5 .5 .5 0.9\n1 .5 .5 .5 .5 .1 .2 2 .3 .4 1"
    )
    first, second = yolo.read(path).images[0].boxes
    assert (first.xyxy, first.extra) == ((10, 5, 30, 15), {"score": 0.9})
    assert (second.xyxy, second.extra) == ((10, 5, 30, 15), {})


def test_an_image_is_measured_upright(tmp_path):
    path = make(tmp_path, a="0 0.5 0.5 1 1")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (40, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (record,) = yolo.read(path).images
    assert (record.width, record.height, record.boxes[0].xyxy) == (20, 40, (0, 0, 20, 40))


def test_a_box_beyond_its_image_is_left_to_the_audit(tmp_path, capsys):
    path = make(tmp_path, a="0 0.01 0.5 0.04 0.5")
    assert yolo.read(path).images[0].boxes[0].xyxy == (-0.4, 5, 1.2, 15)
    assert main(["audit", "--data", str(path), "--out", str(tmp_path / "report")]) == 0
    kinds = [each["kind"] for each in json.loads((tmp_path / "report" / "audit.json").read_text())["findings"]]
    assert kinds == ["box outside"]
    capsys.readouterr()


LINES = {
    "2 .5 .5 .1 .1": "expected a class index of 0 to 1, got '2'",
    "-1 .5 .5 .1 .1": "expected a class index of 0 to 1, got '-1'",
    "cat .5 .5 .1 .1": "expected a class index of 0 to 1, got 'cat'",
    "0.5 .5 .5 .1 .1": "expected a class index of 0 to 1, got '0.5'",
    "0.0 .5 .5 .1 .1": "expected a class index, got '0.0'",
    "0 .5 .5 .1": "expected a class index with 4 numbers, or with three or more points, got 3",
    "0 .5 .5 .1 .1 .2 .2 .3": "got 7",
    "0 .5 .5 .1 nan": "expected a number, got 'nan'",
    "0 12 8 20 10": "expected each coordinate as a share of the image's size in 0..1, got 12",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_with_a_fault_is_named_and_left_out_alone(tmp_path, line):
    path = make(tmp_path, a=f"0 .5 .5 .1 .1\n{line}\n1 .5 .5 .1 .1\n")
    label = tmp_path / "labels" / "a.txt"
    with refused(f"{label}:2", LINES[line]):
        yolo.read(path)
    found = []
    (record,) = yolo.read(path, found).images
    assert len(record.boxes) == 2 + (line[:3] == "0.0")
    assert [finding.file for finding in found] == ["labels/a.txt"]


YAMLS = {
    "": "expected 'names' and 'train', got None",
    "[1]": "expected 'names' and 'train', got [1]",
    "names: [": "invalid YAML, did not find expected node content",
    "train: images": "expected 'names' to be a list, or class indices with names, got None",
    "names: cat": "expected 'names' to be a list",
    "names: {a: cat}": "expected each class index 0, 1, ... once, got 'a'",
    "names: [yes, no]": "expected class 0 to be a text, got True; write it in quotes",
    "names: [cat, cat]": "expected each class name once",
    "names: [[cat]]": "expected class 0 to be a text",
    "names: [cat]": "expected 'train', 'val' or 'test' with a folder or a .txt list, got none of them",
    "names: [cat, 5]\ntrain: images": "expected class 1 to be a text, got 5",
    "names: [cat]\nnc: 3\ntrain: images": "expected 'nc' to be the number of names, 1, got 3",
    "names: [cat]\ntrain: nowhere": "train: expected a folder of images or a .txt list, got 'nowhere'",
    "names: [cat]\ntrain: 5": "train: expected a folder of images or a .txt list, got 5",
    "names: [cat]\ntrain: images\nkpt_shape: 3": "expected 'kpt_shape' to be [number of keypoints, 2 or 3], got 3",
    "names: [cat]\npath: 5\ntrain: images": "expected 'path' to be a folder, got 5",
    "names: !!python/object/apply:os.system [echo]": "invalid YAML, could not determine a constructor",
    "? [1, 2]\n: 3\nnames: [cat]": ":1: invalid YAML, found unhashable key",
    "a: 2001-99-99": "invalid YAML",
}


@pytest.mark.parametrize(("text", "words"), YAMLS.items())
def test_a_fault_in_the_yaml_is_named_in_one_line(tmp_path, text, words):
    path = make(tmp_path, text, a="0 .5 .5 .1 .1")
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        yolo.read(path)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)


def test_nested_and_repeated_yaml_is_bounded(tmp_path):
    path = make(tmp_path, "names: " + "[" * 100_000, a="")
    with pytest.raises(ValueError, match=r"data\.yaml"):
        yolo.read(path)
    lines = [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in itertools.pairwise("abcdefghij")]
    path.write_text("\n".join(["a: &a [x]", *lines, "names: *j"]))
    with pytest.raises(ValueError, match="expected class 0 to be a text"):
        yolo.read(path)
    with path.open("wb") as file:
        file.truncate(30_000_000)
    with pytest.raises(ValueError, match="expected at most 20,000,000 bytes of YAML, got 30,000,000"):
        yolo.read(path)


def test_files_that_belong_to_nothing_are_named(tmp_path):
    path = make(tmp_path, a="0 .5 .5 .1 .1", b="0 .5 .5 .1 .1")
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "images" / "c.jpg").write_bytes(b"no image")
    found = []
    assert list(boxes(yolo.read(path, found))) == ["a.jpg"]
    assert sorted((finding.kind, finding.file) for finding in found) == [
        ("file without image", "data.yaml"),
        ("file without image", "labels/b.txt"),
    ]


def test_a_set_without_any_label_file_is_refused(tmp_path):
    path = make(tmp_path, a=None, b=None)
    (tmp_path / "labels").rmdir()
    with pytest.raises(ValueError, match=r"none of 2 images has a label file; expected .*labels/a\.txt for the first"):
        yolo.read(path)


def test_labels_beside_the_images_as_darknet_has_them(tmp_path):
    path = make(tmp_path, a="1 .5 .5 1 1")
    os.replace(tmp_path / "labels" / "a.txt", tmp_path / "images" / "a.txt")
    assert boxes(yolo.read(path)) == {"a.jpg": [("dog", (0, 0, 40, 20))]}


def test_writing_refuses_what_the_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="needs class names"):
        yolo.write(Dataset((ImageRecord("a.jpg", 1, 1),)), tmp_path / "a")
    two = tuple(ImageRecord(name, 1, 1, (Box("cat", 0, 0, 1, 1),)) for name in ("a.jpg", "a.png"))
    with pytest.raises(ValueError, match="one image a stem"):
        yolo.write(Dataset(two), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    yolo.write(Dataset(two[:1]), tmp_path / "a")
    (tmp_path / "a" / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match=r"mine\.txt, which no run wrote"):
        yolo.write(Dataset(two[:1]), tmp_path / "a", overwrite=True)
