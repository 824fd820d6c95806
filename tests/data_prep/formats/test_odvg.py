import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from data_prep.formats import coco, odvg
from data_prep.records import Box, Dataset, ImageRecord

INSTANCE = {"bbox": [1, 2, 3.5, 4], "label": 0, "category": "cat"}
REGION = {"bbox": [1, 2, 3, 4], "phrase": "Two Cats"}


def line(**more):
    return {"filename": "a.jpg", "height": 480, "width": 640} | more


def detection(*instances, **more):
    return line(detection={"instances": list(instances)}, **more)


def grounding(*regions, caption="Two Cats on a sofa", **more):
    return line(grounding={"caption": caption, "regions": list(regions)}, **more)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.jsonl"


def save(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read(path, *lines, label_map=None):
    save(path, *lines)
    return odvg.read(path, label_map)


def written(path, dataset):
    odvg.write(dataset, path)
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def map_beside(path):
    return path.with_name("set_label_map.json")


# edges


def test_no_lines(path):
    assert read(path) == Dataset()
    assert written(path, Dataset()) == []
    assert not map_beside(path).exists()


def test_no_boxes(path):
    dataset = read(path, detection(), grounding())
    assert [(image.boxes, image.caption) for image in dataset.images] == [((), None), ((), "Two Cats on a sofa")]
    assert written(path, dataset) == [detection(), grounding()]


def test_one_instance(path):
    dataset = read(path, detection(INSTANCE))
    assert dataset == Dataset((ImageRecord("a.jpg", 640, 480, (Box("cat", 1, 2, 3.5, 4),)),), ("cat",))
    assert written(path, dataset) == [detection(INSTANCE)]
    assert json.loads(map_beside(path).read_text()) == {"0": "cat"}


def test_one_region(path):
    dataset = read(path, grounding(REGION))
    box = Box("Two Cats", 1, 2, 3, 4)
    assert dataset == Dataset((ImageRecord("a.jpg", 640, 480, (box,), caption="Two Cats on a sofa"),))
    assert written(path, dataset) == [grounding(REGION)]
    assert not map_beside(path).exists()  # its presence would make Open-GroundingDINO look for detection lines


# behaviour


@pytest.mark.parametrize("bbox", [[[1, 2, 3, 4], [5, 6, 7.0, 8]], [[1, 2, 3, 4]]])
def test_the_boxes_of_a_region_stay_together(path, bbox):
    source = grounding(REGION, REGION | {"bbox": bbox, "tokens_positive": [[0, 3], [4, 8]]}, REGION | {"bbox": bbox})
    dataset = read(path, source)
    assert [box.extra.get("odvg_region") for box in dataset.images[0].boxes] == [None] + [1] * len(bbox) + [2] * len(
        bbox
    )
    assert written(path, dataset) == [source]


def test_boxes_of_a_region_whose_labels_differ_now_are_written_apart(path):
    record = read(path, grounding(REGION | {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]})).images[0]
    changed = replace(record, boxes=(record.boxes[0], replace(record.boxes[1], label="sofa")))
    regions = [REGION | {"odvg_region": 0}, {"bbox": [5, 6, 7, 8], "phrase": "sofa", "odvg_region": 0}]
    assert written(path, Dataset((changed,))) == [grounding(*regions)]
    assert odvg.read(path) == Dataset((changed,))


def test_a_phrase_that_is_a_list_of_texts(path):
    source = grounding(REGION | {"phrase": ["Two", "Cats"]})
    dataset = read(path, source)
    box = dataset.images[0].boxes[0]
    assert (box.label, box.extra) == ("Two Cats", {"odvg_phrase": ["Two", "Cats"]})
    assert written(path, dataset) == [source]
    relabelled = replace(dataset.images[0], boxes=(replace(box, label="sofa"),))
    assert written(path, Dataset((relabelled,))) == [grounding(REGION | {"phrase": "sofa"})]


def test_unknown_fields_are_kept_in_their_places(path):
    source = [detection(INSTANCE | {"score": 0.5}, split="a"), grounding(REGION | {"ann": [1]}, source={"id": 1})]
    source[0]["detection"]["by"] = source[1]["grounding"]["by"] = "hand"
    dataset = read(path, *source)
    assert dataset.images[0].extra == {"split": "a", "detection": {"by": "hand"}}
    assert dataset.images[0].boxes[0].extra == {"score": 0.5}
    assert written(path, dataset) == source


def test_the_label_map_beside_the_file_names_and_orders_the_categories(path):
    map_beside(path).write_text('{"1": "dog", "0": "cat"}')
    dataset = read(path, detection({"bbox": [1, 2, 3, 4], "label": 1}, INSTANCE))
    assert dataset.categories == ("cat", "dog")
    assert [box.label for box in dataset.images[0].boxes] == ["dog", "cat"]
    assert written(path, dataset)[0]["detection"]["instances"][0]["category"] == "dog"


def test_a_label_map_argument_comes_first_and_must_exist(path, tmp_path):
    map_beside(path).write_text('{"0": "dog"}')
    (tmp_path / "other.json").write_text('{"0": "cat"}')
    assert read(path, detection(INSTANCE), label_map=tmp_path / "other.json").categories == ("cat",)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        odvg.read(path, tmp_path / "none.json")


def test_labels_with_gaps_keep_their_numbers(path):
    source = detection(INSTANCE | {"label": 5}, {"bbox": [1, 2, 3, 4], "label": 2, "category": "dog"})
    dataset = read(path, source)
    assert (dataset.categories, dataset.extra) == (("dog", "cat"), {"label_map": {"2": "dog", "5": "cat"}})
    assert written(path, dataset) == [source]
    assert json.loads(map_beside(path).read_text()) == {"2": "dog", "5": "cat"}
    assert odvg.read(path) == dataset


def test_labels_follow_the_categories_then_other_names_alphabetically(path):
    boxes = tuple(Box(label, 0, 0, 1, 1) for label in "zya")
    records = (ImageRecord("a", 9, 9, boxes), ImageRecord("b", 9, 9, (Box("phrase", 0, 0, 1, 1),), caption="A phrase"))
    written(path, Dataset(records, ("z", "unused")))
    assert json.loads(map_beside(path).read_text()) == {"0": "z", "1": "unused", "2": "a", "3": "y"}


def test_a_stale_label_map_is_replaced(path):
    map_beside(path).write_text('{"0": "dog"}')
    odvg.write(Dataset(), path)
    assert odvg.read(path) == Dataset()


def test_the_label_map_is_written_to_the_given_path(path, tmp_path):
    odvg.write(Dataset((ImageRecord("a", 9, 9, (Box("cat", 0, 0, 1, 1),)),)), path, tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text()) == {"0": "cat"}
    assert not map_beside(path).exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_blank_lines_windows_lines_and_no_last_line_end(path, encoding):
    lines = [
        json.dumps(grounding(REGION, caption="猫\u2028と"), ensure_ascii=False),
        "",
        json.dumps(detection(INSTANCE)),
    ]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    dataset = odvg.read(path)
    assert [image.caption for image in dataset.images] == ["猫\u2028と", None]


def test_coco_to_odvg_and_back(path, tmp_path):
    source = {
        "images": [{"id": 9, "file_name": "a.jpg", "width": 640, "height": 480, "license": 2}],
        "annotations": [
            {
                "id": 4,
                "image_id": 9,
                "category_id": 1,
                "bbox": [0.1, 0.1, 0.2, 0.7],
                "area": 3,
                "iscrowd": 0,
                "score": 0.5,
            }
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(source))
    odvg.write(coco.read(tmp_path / "coco.json"), path)
    coco.write(odvg.read(path), tmp_path / "back.json")
    assert json.loads((tmp_path / "back.json").read_text()) == source


def test_grounding_through_coco_and_back(path, tmp_path):
    dataset = read(path, grounding(REGION | {"phrase": ["Two", "Cats"]}, REGION | {"bbox": [[5, 6, 7, 8]]}))
    coco.write(dataset, tmp_path / "coco.json")
    back = coco.read(tmp_path / "coco.json").images[0]
    assert back.caption == dataset.images[0].caption
    assert [box.label for box in back.boxes] == ["Two Cats", "Two Cats"]
    for box, before in zip(back.boxes, dataset.images[0].boxes, strict=True):
        assert before.extra.items() <= box.extra.items()


# round trips

names = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=8).filter(str.strip)
values = st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.lists(names, max_size=2)
own = {
    "filename",
    "height",
    "width",
    "detection",
    "grounding",
    "instances",
    "regions",
    "caption",
    "bbox",
    "phrase",
    "label",
}
own |= {"category", "odvg_region", "odvg_phrase"}
extras = st.dictionaries(names.filter(lambda name: name not in own), values, max_size=2)
box = st.lists(st.integers(-9, 999) | st.floats(-9, 999), min_size=4, max_size=4)
classes = ("cat", "猫", "Cat", "no mask")
region = st.fixed_dictionaries(
    {"bbox": box | st.lists(box, min_size=1, max_size=3), "phrase": names | st.lists(names, min_size=1, max_size=2)},
    optional={"tokens_positive": st.just([[0, 3], [4, 8]])},
)
instance = st.builds(
    lambda label, box: {"bbox": box, "label": label, "category": classes[label]}, st.integers(0, 3), box
)


@st.composite
def odvg_lines(draw):
    def with_extra(value):
        return value | draw(extras)

    head = {"filename": draw(st.sampled_from(["a.jpg", "b/猫.jpg"])), "height": draw(st.integers(1)), "width": 2}
    if draw(st.booleans()):
        sample = {
            "detection": with_extra({"instances": [with_extra(item) for item in draw(st.lists(instance, max_size=3))]})
        }
    else:
        regions = [with_extra(item) for item in draw(st.lists(region, max_size=4))]
        sample = {"grounding": with_extra({"caption": draw(st.text()), "regions": regions})}
    return with_extra(head | sample)


def as_text(value):
    return json.dumps(value, sort_keys=True)  # distinguishes 2, 2.0 and true


@settings(max_examples=60, deadline=None)
@given(st.lists(odvg_lines(), max_size=3), st.booleans())
def test_lines_that_are_read_and_written_again_are_equal(tmp_path_factory, source, has_map):
    path = tmp_path_factory.getbasetemp() / "set.jsonl"
    map_beside(path).unlink(missing_ok=True)
    if has_map:
        map_beside(path).write_text(json.dumps(dict(enumerate(classes))))
    dataset = read(path, *source)
    assert as_text(written(path, dataset)) == as_text(source)
    assert odvg.read(path) == dataset


# errors


@pytest.mark.parametrize(
    ("second", "place", "words"),
    [
        (line(), ":2", "expected one of 'detection' and 'grounding' in a line, got none"),
        (detection() | grounding(), ":2", "got detection and grounding"),
        (line(detection=[]), ":2", "expected 'detection' to be an object, got []"),
        (line(detection={}), ":2", "expected 'instances' to be a list, got nothing"),
        (line(grounding={"regions": []}), ":2", "expected 'caption' to be a text, got nothing"),
        (line(grounding={"caption": "a"}), ":2", "expected 'regions' to be a list, got nothing"),
        (detection(INSTANCE, 5), ":2", "instances[1]"),
        (detection(filename="../a.jpg"), ":2", "'../a.jpg' leaves its folder"),
        (detection(filename=None), ":2", "expected 'filename' to be a text, got None"),
        (detection(width=0), ":2", "width"),
        (detection(height=1.5), ":2", "expected 'height' to be an integer, got 1.5"),
        (detection(INSTANCE, INSTANCE | {"bbox": [1, 2, 3]}), ":2: instances[1]", "four numbers, got [1, 2, 3]"),
        (detection(INSTANCE | {"bbox": [1, 2, 3, True]}), ":2: instances[0]", "four numbers"),
        (detection(INSTANCE | {"bbox": [1, 2, 3, 10**400]}), ":2: instances[0]", "y2"),
        (detection(INSTANCE | {"label": "0"}), ":2: instances[0]", "expected 'label' to be an integer, got '0'"),
        (detection(INSTANCE | {"label": -1}), ":2: instances[0]", "0 or more, got -1"),
        (detection(INSTANCE | {"category": None}), ":2: instances[0]", "expected 'category' to be a text, got None"),
        (detection(INSTANCE | {"category": ""}), ":2: instances[0]", "label"),
        (detection({"bbox": [1, 2, 3, 4], "label": 0}), ":2: instances[0]", "'category' or a label map"),
        (
            detection(INSTANCE | {"category": "dog"}),
            ":2: instances[0]",
            "label 0 is category 'dog' here and 'cat' before",
        ),
        (detection(INSTANCE | {"label": 1}), ":2: instances[0]", "'cat' has label 1 here and another one before"),
        (grounding({"bbox": [1, 2, 3, 4]}), ":2: regions[0]", "expected 'phrase' to be a text, got nothing"),
        (grounding(REGION | {"phrase": ["a", 1]}), ":2: regions[0]", "expected 'phrase' to be a text, got ['a', 1]"),
        (grounding(REGION | {"phrase": []}), ":2: regions[0]", "label"),
        (grounding(REGION, REGION | {"bbox": []}), ":2: regions[1]", "empty list"),
        (grounding(REGION | {"bbox": [[1, 2, 3, 4], 5]}), ":2: regions[0]", "four numbers, got 5"),
        (
            grounding(REGION | {"bbox": [[1, 2, 3, 4]], "odvg_region": 0}),
            ":2: regions[0]",
            "the extra field 'odvg_region'",
        ),
        (grounding(REGION | {"odvg_phrase": []}), ":2: regions[0]", "the extra field 'odvg_phrase'"),
    ],
)
def test_the_message_about_a_fault_has_the_line(path, second, place, words):
    save(path, detection(INSTANCE), second)
    with refused(f"{path}{place}", words):
        odvg.read(path)


@pytest.mark.parametrize(
    ("label_map", "place", "words"),
    [
        ("[]", "set_label_map.json", "expected an object"),
        ('{"0": "cat"', "set_label_map.json:1:12", "cut off"),
        ('{"0": "a", "0": "b"}', "set_label_map.json", "'0' occurs twice"),
        ('{"a": "cat"}', "set_label_map.json", "got the label 'a'"),
        ('{"01": "cat"}', "set_label_map.json", "got the label '01'"),
        ('{"0": 1}', "set_label_map.json", "name of label 0, got 1"),
        ('{"0": "cat", "1": "cat"}', "set_label_map.json", "each category once, got more than once: 'cat'"),
        ('{"1": "cat"}', "set.jsonl:1: instances[0]", "label 0 is not in the label map"),
        ('{"0": "dog"}', "set.jsonl:1: instances[0]", "label 0 is category 'cat' here and 'dog' in the label map"),
    ],
)
def test_a_label_map_that_is_wrong_or_disagrees(path, label_map, place, words):
    map_beside(path).write_text(label_map)
    save(path, detection(INSTANCE))
    with refused(path.parent / place, words):
        odvg.read(path)


def one(boxes=(), caption=None, **extra):
    return Dataset((ImageRecord("a.jpg", 9, 9, tuple(boxes), caption, extra),))


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Dataset(extra={"info": {}, "licenses": []}), "'info', 'licenses'; to drop them, pass dataclasses.replace"),
        (Dataset(extra={"label_map": {"x": "cat"}}), "got the label 'x'"),
        (Dataset(categories=("a", "a")), "each category once, got more than once: 'a'"),
        (one(filename="b"), "image 'a.jpg': the extra field 'filename'"),
        (one(detection=1), "image 'a.jpg': expected 'detection' to be an object, got 1"),
        (one(detection={"instances": []}), "image 'a.jpg': the extra field 'instances'"),
        (one(caption="x", grounding={"caption": "y"}), "image 'a.jpg': the extra field 'caption'"),
        (one([Box("a", 0, 0, 1, 1, {"bbox": 1})]), "image 'a.jpg': the extra field 'bbox'"),
        (one([Box("a", 0, 0, 1, 1, {"phrase": 1})], caption="a"), "image 'a.jpg': the extra field 'phrase'"),
        (one([Box("a", 0, 0, 1, 1, {"bbox": 1})], caption="a"), "image 'a.jpg': the extra field 'bbox'"),
        (one(note=float("inf")), "image 'a.jpg'"),
        (one(grounding={}), "image 'a.jpg': the extra field 'grounding' does not belong in a detection line"),
    ],
)
def test_a_data_set_that_cannot_be_written_is_refused_and_the_old_file_stays(path, dataset, words):
    path.write_text("old")
    with refused(path, words):
        odvg.write(dataset, path)
    assert path.read_text() == "old"
    assert not map_beside(path).exists()


def test_the_label_map_must_be_another_file(path):
    with pytest.raises(ValueError, match="another file"):
        odvg.write(Dataset(), path, path)
