"""Label Studio: results, addresses of images, annotations and faults."""

import json

import pytest
from PIL import Image
from refusals import refused

from data_prep.formats import label_studio
from data_prep.formats.registry import format_of
from data_prep.records import Box, Dataset, ImageRecord


def result(kind="rectanglelabels", labels=("cat",), value=None, **fields):
    value = value or {"x": 10, "y": 20, "width": 50, "height": 40, "rotation": 0}
    about = {"id": "x1", "type": kind, "from_name": "label", "to_name": "image", "image_rotation": 0}
    size = {"original_width": 40, "original_height": 20}
    return about | size | {"value": value | {kind: list(labels)}} | fields


def task(*results, image="/data/upload/3/1a2b-a.jpg", **fields):
    return {"id": 7, "data": {"image": image}, "annotations": [{"id": 1, "result": list(results)}]} | fields


def write(folder, *tasks):
    (folder / "a.json").write_text(json.dumps(list(tasks)))
    return folder / "a.json"


@pytest.mark.parametrize(
    ("one", "box", "polygon"),
    [
        (result(), (4, 4, 24, 12), None),
        (
            result("polygonlabels", value={"points": [[10, 20], [50, 20], [50, 90.5]], "closed": True}),
            (4, 4, 20, 18.1),
            [4, 4, 20, 4, 20, 18.1],
        ),
        (result("ellipselabels", value={"x": 50, "y": 50, "radiusX": 25, "radiusY": 50}), (10, 0, 30, 20), None),
        (
            result(value={"x": 50, "y": 50, "width": 10, "height": 10, "rotation": 90}),
            (18, 10, 20, 14),
            [20, 10, 20, 14, 18, 14, 18, 10],
        ),
    ],
)
def test_each_result_has_the_box_around_it(tmp_path, one, box, polygon):
    path = write(tmp_path, task(one))
    assert format_of(path).name == "labelstudio"
    dataset = label_studio.read(path)
    extra = {} if polygon is None else {"segmentation": [polygon]}
    assert dataset.images == (ImageRecord("1a2b-a.jpg", 40, 20, (Box("cat", *box, extra),)),)
    assert dataset.categories == ("cat",)
    label_studio.write(dataset, tmp_path / "again.json")
    assert label_studio.read(tmp_path / "again.json") == dataset


def test_fields_and_labels(tmp_path):
    path = write(tmp_path, task(result(labels=["cat", "dog"], score=0.5), data={"image": "a.jpg", "camera": 3}))
    (record,) = label_studio.read(path).images
    assert record.extra == {"camera": 3}
    assert [(box.label, box.extra) for box in record.boxes] == [("cat", {"score": 0.5}), ("dog", {"score": 0.5})]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("a%20b.jpg", "a b.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("/data/local-files/?d=sub/a%20b.jpg", "sub/a b.jpg"),
        ("s3://bucket/x/a.jpg", "a.jpg"),
        ("https://example.com/x/a.jpg?token=1", "a.jpg"),
    ],
)
def test_names_of_images(tmp_path, address, name):
    assert label_studio.read(write(tmp_path, task(result(), image=address))).images[0].file_name == name


def test_the_annotation_that_counts(tmp_path):
    cancelled, other = {"was_cancelled": True, "result": [result(labels=["dog"])]}, {"result": []}
    first = {"result": [result()]}
    found = []
    path = write(tmp_path, task(annotations=[cancelled, first, other]))
    assert [box.label for box in label_studio.read(path, found).images[0].boxes] == ["cat"]
    assert [finding.kind for finding in found] == ["image annotated twice"]
    path = write(tmp_path, task(annotations=[], predictions=[{"result": [result(labels=["bird"])]}]))
    assert [box.label for box in label_studio.read(path).images[0].boxes] == ["bird"]


def test_an_image_without_results_is_measured(tmp_path):
    path = write(tmp_path, task(image="a.jpg"))
    with pytest.raises(ValueError, match=r"task 7: a\.jpg has no result that states its size; name the folder"):
        label_studio.read(path)
    Image.new("1", (6, 5)).save(tmp_path / "a.jpg")
    assert label_studio.read(path, images=tmp_path).images == (ImageRecord("a.jpg", 6, 5),)


RESULTS = {
    "brush": (result("brushlabels"), "got 'brushlabels', which has no box"),
    "turned image": (result(image_rotation=90), "expected an upright image, got 'image_rotation' 90"),
    "no labels": (result(labels=()), "expected 'rectanglelabels' to be a list of labels, got []"),
    "number": (result(value={"x": "1", "y": 1, "width": 1, "height": 1}), "expected 'x' to be percent"),
    "missing": (
        result(value={"x": 1, "y": 1, "width": 1}),
        "expected 'height' to be percent of the image's size, got None",
    ),
    "pixels": (
        result(value={"x": 1, "y": 1, "width": 400, "height": 1}),
        "expected 'width' as a share of the image's size",
    ),
    "rotation": (result(value={"x": 1, "y": 1, "width": 4, "height": 1, "rotation": "a"}), "to be degrees, got 'a'"),
    "points": (
        result("polygonlabels", value={"points": [[1, 2], [3, 4]]}),
        "at least three points of a polygon, got 2",
    ),
    "point": (result("polygonlabels", value={"points": [[1, 2], [3], [4, 5]]}), "a point [x, y] in percent, got [3]"),
    "value": (result() | {"value": []}, "expected 'value' to be an object, got []"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_with_a_fault_is_left_out_alone(tmp_path, name):
    bad, words = RESULTS[name]
    path = write(tmp_path, task(result(), bad, result()))
    with refused(f"{path}: task 7, result 2", words):
        label_studio.read(path)
    found = []
    assert len(label_studio.read(path, found).images[0].boxes) == 2
    assert [finding.kind for finding in found] == ["object unreadable"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (5, "task number 1: expected an object, got 5"),
        ({"id": 1}, "task 1: expected 'data' to be an object, got nothing"),
        (task(data={"text": "x"}), "task 7: expected 'image' to be a text, got nothing"),
        (task(annotations=[3]), "task 7: expected annotations[0] to be an object, got 3"),
        (
            task(result(), data={"image": "a.jpg", "width": 0, "height": 5}),
            "width of 'a.jpg' must be a positive integer",
        ),
    ],
)
def test_a_task_with_a_fault_is_left_out_alone(tmp_path, bad, words):
    path = write(tmp_path, bad, task(result()))
    with refused(path, words):
        label_studio.read(path)
    found = []
    assert len(label_studio.read(path, found).images) == 1
    assert [finding.kind for finding in found] == ["annotation unreadable"]


def test_a_file_that_is_no_list_is_refused(tmp_path):
    for text, words in (
        ("{}", "expected a list [...], got {}"),
        ("[{", "invalid JSON"),
        ("[" * 10**5, "nested too deeply"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json") as error:
            label_studio.read(tmp_path / "a.json")
        assert words in str(error.value)


def test_what_has_no_place_is_counted(tmp_path):
    extra = {"id": 3, "segmentation": [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]], "note": "ä"}
    image = ImageRecord("b.jpg", 8, 8, (Box("cat", 1, 2, 3, 4, extra),), "a cat", {"width": 1})
    dataset = Dataset((image,), ("cat",), {"info": 1})
    assert label_studio.left_out(dataset) == {"info": 1, "width": 1, "caption": 1, "id": 1, "segmentation": 1}
    with pytest.raises(ValueError, match="the extra field 'id' has a name that the format itself uses"):
        label_studio.write(dataset, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
