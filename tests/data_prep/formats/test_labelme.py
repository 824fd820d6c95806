"""labelme: shapes, file names and faults."""

import json

import pytest
from refusals import refused

from data_prep.formats import labelme
from data_prep.records import Box, Dataset, ImageRecord


def shape(kind="rectangle", points=((1, 2), (11, 12)), label="cat", **fields):
    fields = {"group_id": None, "description": "", "flags": {}, "mask": None} | fields
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind} | fields


def write(folder, *shapes, name="a.json", **fields):
    document = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg", "imageData": "aGVsbG8="}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | {"imageHeight": 30, "imageWidth": 40} | fields))
    return path


@pytest.mark.parametrize(
    ("kind", "points", "box", "polygon"),
    [
        ("rectangle", [(11, 12), (1, 2)], (1, 2, 11, 12), None),
        ("rectangle", [(1, 2), (11, 2), (11, 12), (1, 12)], (1, 2, 11, 12), None),
        ("mask", [(1, 2), (11, 12)], (1, 2, 11, 12), None),
        ("polygon", [(1.5, 2), (11, 3), (4, 12)], (1.5, 2, 11, 12), [1.5, 2, 11, 3, 4, 12]),
        (None, [(1, 2), (11, 3), (4, 12)], (1, 2, 11, 12), [1, 2, 11, 3, 4, 12]),
        ("oriented_rectangle", [(5, 0), (9, 4), (5, 8), (1, 4)], (1, 0, 9, 8), [5, 0, 9, 4, 5, 8, 1, 4]),
        ("circle", [(10, 10), (13, 14)], (5, 5, 15, 15), None),
    ],
)
def test_each_shape_has_the_box_around_it(tmp_path, kind, points, box, polygon):
    write(tmp_path, shape(kind, points))
    (record,) = labelme.read(tmp_path).images
    assert (record.file_name, record.width, record.height) == ("a.jpg", 40, 30)
    assert record.boxes == (Box("cat", *box, {} if polygon is None else {"segmentation": [polygon]}),)


def test_fields_of_shapes_and_files_are_kept(tmp_path):
    write(tmp_path, shape(group_id=3, flags={"far": True}, difficult=1), flags={"night": True}, camera=[1, 2])
    (record,) = labelme.read(tmp_path).images
    assert record.extra == {"flags": {"night": True}, "camera": [1, 2]}
    assert record.boxes[0].extra == {"group_id": 3, "flags": {"far": True}, "difficult": 1}


def test_a_round_trip_keeps_boxes_polygons_and_fields(tmp_path):
    boxes = (
        Box("cat", 1, 2.5, 9, 8, {"group_id": 1}),
        Box("a dog", 1, 2, 9, 8, {"segmentation": [[1, 2, 9, 2, 9, 8]]}),
    )
    dataset = Dataset((ImageRecord("sub/a.jpg", 40, 30, boxes, extra={"note": "ä"}), ImageRecord("b.png", 7, 9)))
    labelme.write(dataset, tmp_path / "set")
    assert json.loads((tmp_path / "set" / "sub" / "a.json").read_text())["imagePath"] == "a.jpg"
    back = labelme.read(tmp_path / "set")
    assert sorted(back.images, key=lambda record: record.file_name, reverse=True) == list(dataset.images)
    assert back.categories == ("a dog", "cat")


@pytest.mark.parametrize("path", ["..\\images\\a.jpg", "../../a.jpg", "/home/me/a.jpg", "C:\\me\\a.jpg"])
def test_the_image_is_in_the_sub_folder_of_its_file(tmp_path, path):
    write(tmp_path, name="sub/a.json", imagePath=path)
    assert labelme.read(tmp_path).images[0].file_name == "sub/a.jpg"


SHAPES = {
    "line": (shape("linestrip"), "expected a rectangle, polygon, oriented_rectangle, mask or circle, got 'linestrip'"),
    "point": (shape("point", [(1, 2)]), "got 'point'"),
    "kind": (shape([]), "got []"),
    "one corner": (shape(points=[(1, 2)]), "expected at least 2 points of a rectangle, got 1"),
    "two points": (shape("polygon"), "expected at least 3 points of a polygon, got 2"),
    "three numbers": (shape(points=[(1, 2, 3), (4, 5, 6)]), "expected a point [x, y], got [1, 2, 3]"),
    "text": (shape(points=[("1", 2), (3, 4)]), "expected a point [x, y], got ['1', 2]"),
    "huge": (shape(points=[(10**400, 2), (3, 4)]), "x2 of a box must be a number of pixels below"),
    "no label": (shape(label=""), "a box needs a label"),
    "label": (shape(label=5), "expected 'label' to be a text, got 5"),
    "no object": (5, "expected an object, got 5"),
    "segmentation": (shape("polygon", [(1, 2), (3, 4), (5, 1)], segmentation=[]), "'segmentation' has a name that"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_with_a_fault_is_left_out_alone(tmp_path, name):
    bad, words = SHAPES[name]
    path = write(tmp_path, shape(), bad, shape())
    with refused(f"{path}: shape 2", words):
        labelme.read(tmp_path)
    found = []
    assert len(labelme.read(tmp_path, found).images[0].boxes) == 2
    assert [(finding.kind, finding.object) for finding in found] == [("object unreadable", 2)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"imageWidth": None}, "expected 'imageWidth' to be an integer, got None"),
        ({"imageHeight": 0}, "height of 'a.jpg' must be a positive integer"),
        ({"imagePath": ""}, "a file name of one line of text is needed"),
        ({"shapes": {}}, "expected 'shapes' to be a list"),
    ],
)
def test_a_file_with_a_fault_is_left_out_alone(tmp_path, fields, words):
    write(tmp_path, shape(), name="b.json", imagePath="b.jpg")
    path = write(tmp_path, shape(), **fields)
    with refused(path, words):
        labelme.read(tmp_path)
    found = []
    assert [record.file_name for record in labelme.read(tmp_path, found).images] == ["b.jpg"]
    assert [finding.kind for finding in found] == ["annotation unreadable"]


def test_writing_refuses_fields_that_would_be_lost(tmp_path):
    box = Box("cat", 1, 2, 3, 4, {"points": 1})
    dataset = Dataset((ImageRecord("a.jpg", 9, 9, (box,)),))
    assert labelme.left_out(dataset) == {"points": 1}
    with pytest.raises(ValueError, match=r"^image 'a.jpg': the extra field 'points' has a name"):
        labelme.write(dataset, tmp_path / "set")
    assert not (tmp_path / "set").exists()
