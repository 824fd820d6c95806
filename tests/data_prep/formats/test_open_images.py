"""Open Images: the table, its class descriptions, its flags and its faults."""

import pytest
from picture_folders import draw_images
from PIL import Image
from refusals import refused

from data_prep.__main__ import main
from data_prep.formats import coco, open_images
from data_prep.formats.registry import format_of
from data_prep.records import Box, Dataset, ImageRecord

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
ROW = "a1,xclick,/m/01,1,0.1,0.5,0.25,0.75,0,1,0,-1,-1"


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for stem in ("a1", "b2"):
        Image.new("1", (40, 20)).save(tmp_path / "images" / "train" / f"{stem}.jpg")
    return tmp_path / "images"


def write(folder, *rows, header=HEADER, names="/m/01,Cat\n/m/02,Box turtle\n"):
    (folder / "train-annotations-bbox.csv").write_text("\n".join([header, *rows]) + "\n")
    if names:
        (folder / "oidv7-class-descriptions-boxable.csv").write_text(names)
    return folder / "train-annotations-bbox.csv"


def test_a_table_as_published(tmp_path, images):
    path = write(
        tmp_path, ROW, "b2,activemil,/m/02,0.5,0,1,0,1,-1,-1,1,-1,-1", "a1,,/m/02,1,0,0.5,0,0.5,-1,-1,-1,-1,-1"
    )
    assert format_of(path).name == "openimages"
    dataset = open_images.read(path, images=images)
    assert dataset.categories == ("Box turtle", "Cat")
    first = Box("Cat", 4, 5, 20, 15, {"IsOccluded": 0, "IsTruncated": 1, "Source": "xclick"})
    group = Box("Box turtle", 0, 0, 40, 20, {"iscrowd": 1, "Source": "activemil", "Confidence": 0.5})
    assert dataset.images == (
        ImageRecord("train/a1.jpg", 40, 20, (first, Box("Box turtle", 0, 0, 20, 10))),
        ImageRecord("train/b2.jpg", 40, 20, (group,)),
    )
    open_images.write(dataset, tmp_path / "again.csv")
    assert open_images.read(tmp_path / "again.csv", images=images) == dataset


def test_only_six_columns_are_needed_and_labels_may_be_names(tmp_path, images):
    path = write(tmp_path, "1,0,a1,0.5,0,dog,x", header="YMax,XMin,ImageID,XMax,YMin,LabelName,XClick1X", names="")
    assert open_images.read(path, images=images).images[0].boxes == (Box("dog", 0, 0, 20, 20),)


def test_conversion_needs_the_images(tmp_path, images, capsys):
    path = write(tmp_path, ROW)
    assert main(["openimages-to-coco", str(path), str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err.endswith("has no image sizes: --images DIR is needed, too\n")
    assert main(["openimages-to-coco", str(path), str(tmp_path / "a.json"), "--images", str(images)]) == 0
    assert coco.read(tmp_path / "a.json").images[0].boxes[0].xyxy == (4, 5, 20, 15)


ROWS = {
    ROW.replace("a1", "c3"): "expected one image c3.* in",
    ROW.replace(
        "/m/01", "/m/09"
    ): "expected the name of '/m/09' in a *class-descriptions*.csv beside the table, got none",
    ROW.replace("0.75", "x"): "expected a number, got 'x'",
    ROW.replace("0.75", "300"): "expected YMax as a share of the image's size in 0..1, got 300",
    ROW.replace("-1", "2"): "expected IsDepiction to be 0, 1 or -1, got '2'",
    ROW.replace("/m/01", " "): "a box needs a label of one line of text, got ''",
    ROW + ",1": "expected 13 fields, got 14",
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_with_a_fault_is_named_and_left_out_alone(tmp_path, images, row):
    path = write(tmp_path, ROW, row, ROW.replace("a1", "b2"))
    with refused(f"{path}:3", ROWS[row]):
        open_images.read(path, images=images)
    found = []
    dataset = open_images.read(path, found, images)
    assert [len(record.boxes) for record in dataset.images] == [1, 1]
    assert len(found) == 1


def test_other_tables_are_refused(tmp_path, images):
    path = write(tmp_path, header="ImageID,LabelName,XMin,XMax,YMin")
    with pytest.raises(ValueError, match=r"csv:1: expected the columns .*, got no single YMax"):
        open_images.read(path, images=images)
    path.write_text("")
    with pytest.raises(ValueError, match=r"csv:1: expected the columns .*, got nothing"):
        open_images.read(path, images=images)


def test_what_has_no_place_is_counted(tmp_path):
    boxes = (Box("cat", 1, 2, 3, 4, {"iscrowd": 1, "area": 4, "IsInside": True}),)
    dataset = Dataset((ImageRecord("b.jpg", 8, 8, boxes, extra={"id": 1}), ImageRecord("a.jpg", 8, 8)), ("cat", "dog"))
    lost = {"id": 1, "image without boxes": 1, "area": 1, "IsInside": 1, "category without boxes": 1}
    assert open_images.left_out(dataset) == lost
    open_images.write(dataset, tmp_path / "a.csv")
    back = open_images.read(tmp_path / "a.csv", images=draw_images(dataset, tmp_path / "images"))
    assert back.images == (ImageRecord("b.jpg", 8, 8, (Box("cat", 1, 2, 3, 4, {"iscrowd": 1}),)),)
    with pytest.raises(ValueError, match="reads a label that begins with '/' as an identifier, got '/m/1'"):
        open_images.write(Dataset((ImageRecord("b.jpg", 8, 8, (Box("/m/1", 1, 2, 3, 4),)),)), tmp_path / "b.csv")
    assert not (tmp_path / "b.csv").exists()
