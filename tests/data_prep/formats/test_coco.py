import json
import re
import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from data_prep.formats import coco
from data_prep.records import Box, Dataset, ImageRecord

CAT = {"id": 7, "name": "cat", "supercategory": "animal", "keypoints": ["nose"]}
IMAGE = {"id": 3, "file_name": "a.jpg", "width": 640, "height": 480, "license": 1, "coco_url": "http://x/a.jpg"}
ANNOTATION = {"id": 17, "image_id": 3, "category_id": 7, "bbox": [10, 20, 30, 40], "area": 900.5, "iscrowd": 1}


def content(images=(), annotations=(), categories=(), **more):
    return {"images": list(images), "annotations": list(annotations), "categories": list(categories), **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.json"


def read(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return coco.read(path)


def written(path, dataset):
    coco.write(dataset, path)
    return json.loads(path.read_bytes())


# edges


def test_no_images(path):
    assert read(path, content()) == Dataset()
    assert written(path, Dataset()) == content()


def test_no_boxes(path):
    dataset = read(path, content([IMAGE]))
    assert [image.boxes for image in dataset.images] == [()]
    assert written(path, dataset) == content([IMAGE])


def test_one_box_becomes_xyxy_and_integers_stay_integers(path):
    dataset = read(path, content([IMAGE], [ANNOTATION], [CAT]))
    assert dataset == Dataset(
        (
            ImageRecord(
                "a.jpg",
                640,
                480,
                (Box("cat", 10, 20, 40, 60, {"id": 17, "area": 900.5, "iscrowd": 1}),),
                extra={"id": 3, "license": 1, "coco_url": "http://x/a.jpg"},
            ),
        ),
        ("cat",),
        {"categories": [CAT]},
    )
    assert all(type(value) is int for value in dataset.images[0].boxes[0].xyxy)
    assert written(path, dataset) == content([IMAGE], [ANNOTATION], [CAT])


def test_annotations_and_categories_may_be_missing(path):
    assert written(path, read(path, {"images": [IMAGE]})) == content([IMAGE])


# behaviour


def test_a_data_set_without_coco_fields_gets_what_the_tools_need(path):
    dataset = Dataset(
        (ImageRecord("a.jpg", 9, 9, (Box("dog", 1, 2, 4, 6, {"pose": "Left"}), Box("ant", 0, 0, 0.5, 1))),)
    )
    assert written(path, dataset) == content(
        [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
        [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "pose": "Left"},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0.5, 1], "area": 0.5, "iscrowd": 0},
        ],
        [{"id": 1, "name": "ant"}, {"id": 2, "name": "dog"}],
    )


def test_other_labels_follow_the_categories_alphabetically(path):
    boxes = tuple(Box(label, 0, 0, 1, 1) for label in "zya")
    names = [c["name"] for c in written(path, Dataset((ImageRecord("a", 9, 9, boxes),), ("z", "unused")))["categories"]]
    assert names == ["z", "unused", "a", "y"]


def test_plain_categories_need_no_extra(path):
    assert read(path, content(categories=[{"id": 1, "name": "b"}, {"id": 2, "name": "a"}])) == Dataset((), ("b", "a"))


def test_a_new_category_gets_an_unused_id_and_a_removed_category_is_not_written(path):
    dataset = read(path, content(categories=[{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]))
    assert written(path, replace(dataset, categories=("c", "a")))["categories"] == [
        {"id": 2, "name": "c"},
        {"id": 1, "name": "a"},
    ]


def test_missing_ids_are_filled_with_unused_numbers(path):
    boxes = tuple(Box("a", 0, 0, 1, 1, extra) for extra in ({}, {"id": 1}, {"id": "x"}, {}))
    annotations = written(path, Dataset((ImageRecord("a", 9, 9, boxes),)))["annotations"]
    assert [annotation["id"] for annotation in annotations] == [2, 1, "x", 3]


def test_a_caption_is_a_field_of_the_image(path):
    dataset = Dataset((ImageRecord("a.jpg", 9, 9, (Box("Two cats", 0, 0, 1, 1),), caption="Two cats."),))
    assert written(path, dataset)["images"][0]["caption"] == "Two cats."
    assert coco.read(path).images[0].caption == "Two cats."


@pytest.mark.parametrize("bbox", [[0.1, 0.1, 0.2, 0.7], [473.07, 395.93, 38.65, 28.67], [1.5, 0, 2, 3], [1, 2, 3, 4.0]])
def test_a_box_that_did_not_move_is_written_with_the_same_digits(path, bbox):
    source = content([IMAGE], [ANNOTATION | {"bbox": bbox}], [CAT])
    assert json.dumps(written(path, read(path, source))["annotations"][0]["bbox"]) == json.dumps(bbox)


def test_a_box_that_moved_is_written_at_its_new_place(path):
    dataset = read(path, content([IMAGE], [ANNOTATION | {"bbox": [0.1, 0.1, 0.2, 0.7]}], [CAT]))
    box = dataset.images[0].boxes[0]
    assert box.extra["coco_bbox"] == [0.1, 0.1, 0.2, 0.7]
    moved = replace(dataset, images=(replace(dataset.images[0], boxes=(replace(box, x1=0, y1=0, x2=2, y2=3),)),))
    annotation = written(path, moved)["annotations"][0]
    assert annotation["bbox"] == [0, 0, 2, 3]
    assert "coco_bbox" not in annotation


def test_annotations_come_back_grouped_by_image(path):
    images = [IMAGE, IMAGE | {"id": "b"}]
    annotations = [ANNOTATION | {"id": n, "image_id": i} for n, i in ((1, "b"), (2, 3), (3, "b"))]
    ids = [
        annotation["id"] for annotation in written(path, read(path, content(images, annotations, [CAT])))["annotations"]
    ]
    assert ids == [2, 1, 3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(path, encoding):
    path.write_text(json.dumps(content([IMAGE | {"file_name": "猫.jpg"}]), ensure_ascii=False), encoding=encoding)
    assert coco.read(path).images[0].file_name == "猫.jpg"


def test_the_bytes_are_deterministic_and_not_escaped(path):
    dataset = read(path, content([IMAGE | {"file_name": "猫.jpg"}], [ANNOTATION], [CAT], info={"b": 1, "a": 2}))
    coco.write(dataset, path)
    first = path.read_bytes()
    coco.write(coco.read(path), path)
    assert path.read_bytes() == first
    assert "猫.jpg".encode() in first


# round trips

names = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=8).filter(str.strip)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)
numbers = st.integers(-1000, 1000) | st.floats(-1000, 1000)
ids = st.integers() | names
own = {"id", "file_name", "width", "height", "caption", "image_id", "category_id", "bbox", "name", "coco_bbox"}
extras = st.dictionaries(names.filter(lambda name: name not in own), values, max_size=2)


@st.composite
def coco_files(draw):
    def unique(strategy, most):
        return draw(st.lists(strategy, unique=True, max_size=most))

    def extra():
        return draw(extras)

    categories = [{"id": i, "name": n} | extra() for i, n in zip(unique(ids, 3), unique(names, 3), strict=False)]
    images = [
        {"id": i, "file_name": draw(st.text(string.ascii_letters + "猫é", min_size=1)), "width": 5, "height": 4}
        | draw(st.sampled_from([{}, {"caption": "A cat."}]))
        | extra()
        for i in unique(ids, 3)
    ]
    annotations = []
    for i in unique(ids, 4) if images and categories else ():
        annotation = {"id": i, "image_id": draw(st.sampled_from(images))["id"]}
        annotation |= {"category_id": draw(st.sampled_from(categories))["id"], "area": draw(numbers), "iscrowd": 0}
        annotations.append(annotation | {"bbox": draw(st.lists(numbers, min_size=4, max_size=4))} | extra())
    order = {image["id"]: position for position, image in enumerate(images)}
    annotations.sort(key=lambda annotation: order[annotation["image_id"]])
    top = {key: value for key, value in extra().items() if key not in ("images", "annotations", "categories")}
    return content(images, annotations, categories, **top)


def as_text(value):
    return json.dumps(value, sort_keys=True)  # distinguishes 2, 2.0 and true


@settings(max_examples=60, deadline=None)
@given(coco_files())
def test_a_file_that_is_read_and_written_again_is_equal(tmp_path_factory, source):
    path = tmp_path_factory.getbasetemp() / "property.json"
    dataset = read(path, source)
    assert as_text(written(path, dataset)) == as_text(source)
    assert coco.read(path) == dataset


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2000) | st.floats(0, 2000)] * 4), max_size=4))
def test_a_box_survives_a_round_trip_to_the_last_bit(tmp_path_factory, corners):
    path = tmp_path_factory.getbasetemp() / "property.json"
    boxes = tuple(Box("a", min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in corners)
    coco.write(Dataset((ImageRecord("a.jpg", 2000, 2000, boxes),)), path)
    assert [box.xyxy for box in coco.read(path).images[0].boxes] == [
        pytest.approx(box.xyxy, rel=1e-15) for box in boxes
    ]


# errors


@pytest.mark.parametrize(
    ("source", "place", "words"),
    [
        ("", ":1:1", "cut off"),
        ('{"images": [\n{"id":', ":2:7", "cut off"),
        ({}, "", "'images'"),
        ({"images": {}}, "", "expected 'images' to be a list"),
        ({"images": [7]}, "", "images[0]"),
        (content([IMAGE, IMAGE]), "", "each image id once, got more than once: 3"),
        (content([IMAGE], [ANNOTATION, ANNOTATION], [CAT]), "", "each annotation id once, got more than once: 17"),
        (content(categories=[CAT, CAT | {"name": "dog"}]), "", "each category id once, got more than once: 7"),
        (content(categories=[CAT, CAT | {"id": 8}]), "", "each category name once, got more than once: 'cat'"),
        (content(categories=[{"id": 8}]), ": category 8", "'name'"),
        (content(categories=[CAT | {"name": " "}]), ": category 7", "expected a name"),
        (content([IMAGE | {"id": 1.5}]), "", "image number 1"),
        (content([IMAGE | {"id": True}]), "", "image number 1"),
        (content([IMAGE | {"file_name": "../a.jpg"}]), ": image 3", "'../a.jpg' leaves its folder"),
        (content([IMAGE | {"width": 0}]), ": image 3", "width"),
        (content([IMAGE | {"width": "640"}]), ": image 3", "expected 'width' to be an integer, got '640'"),
        (content([IMAGE | {"caption": None}]), ": image 3", "expected 'caption' to be a text, got None"),
        (content([{"file_name": "a"}]), ": image number 1", "expected 'width' to be an integer, got nothing"),
        (content([IMAGE], [ANNOTATION | {"image_id": 4}], [CAT]), ": annotation 17", "'image_id'"),
        (content([IMAGE], [ANNOTATION | {"image_id": [3]}], [CAT]), ": annotation 17", "'image_id'"),
        (content([IMAGE], [ANNOTATION | {"category_id": 8}], [CAT]), ": annotation 17", "'category_id'"),
        (content([IMAGE], [{"image_id": 3}], [CAT]), ": annotation number 1", "got None"),
        (
            content([IMAGE], [{"id": 2, "image_id": 3, "category_id": 7}], [CAT]),
            ": annotation 2",
            "four numbers, got None",
        ),
        (content([IMAGE], [ANNOTATION | {"bbox": [1, 2, 3]}], [CAT]), ": annotation 17", "four numbers"),
        (content([IMAGE], [ANNOTATION | {"bbox": [1, 2, 3, "4"]}], [CAT]), ": annotation 17", "four numbers"),
        (content([IMAGE], [ANNOTATION | {"bbox": [1, 2, 3, 10**400]}], [CAT]), ": annotation 17", "y2"),
        (content([IMAGE], [ANNOTATION | {"bbox": [1.5, 2, 10**400, 3]}], [CAT]), ": annotation 17", "too large"),
        (content([IMAGE], [ANNOTATION | {"coco_bbox": 1}], [CAT]), ": annotation 17", "the extra field 'coco_bbox'"),
    ],
)
def test_the_message_about_a_fault_names_its_place(path, source, place, words):
    with refused(f"{path}{place}", words) as error:
        read(path, source)
    assert len(str(error.value)) < len(str(path)) + 250


def test_the_message_about_another_encoding_has_the_line(path):
    path.write_bytes('{"images": [],\n"info": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}:2: expected UTF-8")):
        coco.read(path)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Dataset(extra={"images": 1}), "the extra field 'images'"),
        (Dataset(extra={"categories": 1}), "expected 'categories' to be a list"),
        (Dataset(extra={"info": {1, 2}}), "JSON cannot represent"),
        (Dataset(extra={"info": float("nan")}), "JSON compliant"),
        (Dataset(extra={"info": "\ud800"}), "surrogates"),
        (Dataset(categories=("a", "a")), "each category once, got more than once: 'a'"),
        (Dataset((ImageRecord("a.jpg", 9, 9, extra={"width": 1}),)), "image 'a.jpg': the extra field 'width'"),
        (Dataset((ImageRecord("a.jpg", 9, 9, extra={"caption": "x"}),)), "image 'a.jpg': the extra field 'caption'"),
        (
            Dataset((ImageRecord("a.jpg", 9, 9, (Box("a", 0, 0, 1, 1, {"bbox": []}),)),)),
            "image 'a.jpg': the extra field",
        ),
        (Dataset((ImageRecord("a.jpg", 9, 9, extra={"id": 1}),) * 2), "each image id once, got more than once: 1"),
    ],
)
def test_a_data_set_that_cannot_be_written_is_refused_and_the_old_file_stays(path, dataset, words):
    path.write_text("old")
    with refused(path, words):
        coco.write(dataset, path)
    assert path.read_text() == "old"


def test_pycocotools_can_load_the_file(path):
    pycocotools = pytest.importorskip("pycocotools.coco")
    coco.write(Dataset((ImageRecord("a.jpg", 9, 9, (Box("dog", 1, 2, 4, 6),)),)), path)
    loaded = pycocotools.COCO(str(path))
    assert loaded.loadAnns(loaded.getAnnIds(imgIds=1, catIds=1, iscrowd=0))[0]["bbox"] == [1, 2, 3, 4]
