"""Every field of a COCO file survives every chain of three formats with its type, or a conversion names it."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_folders import written

from data_prep.__main__ import main
from data_prep.formats import coco
from data_prep.formats.registry import FORMATS
from data_prep.records import parse_flag

EXACT = [FORMATS[name] for name in ("voc", "csv", "coco", "odvg")]  # they keep each bit of a coordinate
CHAINS = list(itertools.product(EXACT, repeat=3))
PAIRS = [pair for pair in itertools.product(FORMATS.values(), repeat=2) if not {*pair} <= {*EXACT}]
ADDED = {"split", "track_id", "frequency", "coco_url", "neg_category_ids", "not_exhaustive_category_ids"}
"""Fields that a format requires, so that it adds them."""


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 10**12)
    | st.floats(-1e6, 1e6)
    | texts
    | st.sampled_from(["0", "1", "007"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts.filter(bool), inner, max_size=3),
    max_leaves=5,
)
# names that a format may use itself, and names that XML cannot hold
names = st.sampled_from(
    [
        *("score", "difficult", "pose", "segmentation", "attributes", "licence", "folder", "name", "bndbox", "label"),
        *("category", "phrase", "size", "object", "filename", "detection", "grounding"),
        *("type of vehicle", "número", "¹", "@x", "#text"),
    ]
)
extras = st.dictionaries(names, values, max_size=3)
numbers = st.integers(0, 500) | st.floats(0, 500)
needed = st.fixed_dictionaries(
    {"area": numbers, "iscrowd": st.sampled_from([0, 1]), "bbox": st.lists(numbers, min_size=4, max_size=4)}
)
labels = st.sampled_from(["cat", "dog", "a b", "猫"])


@st.composite
def coco_files(draw, fewest=0):
    categories = [{"id": n, "name": name} for n, name in enumerate(draw(st.lists(labels, min_size=1, unique=True)), 1)]
    images, annotations = [], []
    for number in range(draw(st.integers(1, 3))):
        folder = draw(st.sampled_from(["", "sub/"]))
        about = {"id": 10 + number, "file_name": f"{folder}{number}.jpg", "width": 640, "height": 480}
        images.append(about | draw(extras))
        for _ in range(draw(st.integers(0 if number else fewest, 3))):
            annotation = {"id": 100 + len(annotations), "image_id": 10 + number}
            annotation |= {"category_id": draw(st.sampled_from(categories))["id"]} | draw(needed)
            annotations.append(annotation | {k: v for k, v in draw(extras).items() if k not in annotation})
    return {"images": images, "annotations": annotations, "categories": categories}


def place(folder, step, format):
    return folder / str(step) / f"set{'' if format.writes_folder else format.suffixes[0]}"


def through(source, chain, folder):
    """(the data set after a chain of formats, its COCO file, the fields that a format had no place for)."""
    (folder / "source.json").write_text(json.dumps(source))
    dataset, gone = coco.read(folder / "source.json"), set()
    for step, format in enumerate(chain):
        dataset, lost = format.fit(dataset)
        gone |= set(lost)
        path = place(folder, step, format)
        path.parent.mkdir()
        images = written(format, dataset, path)
        dataset = format.load(path, None, images)
    dataset, lost = FORMATS["coco"].fit(dataset)
    coco.write(dataset, folder / "end.json")
    return dataset, json.loads((folder / "end.json").read_text()), gone | set(lost)


def as_text(value):
    return json.dumps(value, sort_keys=True)  # distinguishes 2, 2.0, "2" and true


def rows(document, without):
    """Images and annotations in their order, with names instead of ids."""
    name_of = {category["id"]: category["name"] for category in document["categories"]}
    file_of = {image["id"]: image["file_name"] for image in document["images"]}
    for image in document["images"]:
        yield {key: value for key, value in image.items() if key not in without}
    for annotation in document["annotations"]:
        about = {"label": name_of[annotation["category_id"]], "file": file_of[annotation["image_id"]]}
        ignored = {"category_id", "image_id"} | without | ({"bbox"} if "coco_bbox" in without else set())
        yield {"about": about, **{key: value for key, value in annotation.items() if key not in ignored}}


@settings(max_examples=6, deadline=None)
@given(coco_files())
@pytest.mark.parametrize("chain", CHAINS, ids=["-".join(format.name for format in chain) for chain in CHAINS])
def test_every_chain_keeps_each_field_or_names_it(chain, tmp_path_factory, source):
    dataset, end, gone = through(source, chain, tmp_path_factory.mktemp("chain"))
    # XML files are read in the order of their names, so the order of the images may change
    assert sorted(map(as_text, rows(end, gone))) == sorted(map(as_text, rows(source, gone)))
    if "order of the categories" not in gone and "category without boxes" not in gone and "categories" not in gone:
        assert end["categories"] == source["categories"]
    if "iscrowd" not in gone:
        flags = [parse_flag(box.extra["iscrowd"]) for image in dataset.images for box in image.boxes]
        assert sum(flags) == sum(annotation["iscrowd"] for annotation in source["annotations"])


def by_image(document):
    """{file name: [(label, box), ...]}; boxes keep their order within an image."""
    name_of = {category["id"]: category["name"] for category in document["categories"]}
    boxes = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        boxes[annotation["image_id"]].append((name_of[annotation["category_id"]], annotation["bbox"]))
    return {image["file_name"]: boxes[image["id"]] for image in document["images"]}


@settings(max_examples=4, deadline=None)
@given(coco_files(fewest=1))  # without a class, YOLO and LVIS refuse a data set
@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(format.name for format in pair) for pair in PAIRS])
def test_every_pair_keeps_each_box_and_each_field_or_names_it(pair, tmp_path_factory, source):
    dataset, end, gone = through(source, pair, tmp_path_factory.mktemp("pair"))
    expected, got = by_image(source), by_image(end)
    if "image without boxes" in gone:
        expected = {name: boxes for name, boxes in expected.items() if boxes}
    assert got.keys() == expected.keys()
    for name, boxes in expected.items():
        assert [label for label, _ in got[name]] == [label for label, _ in boxes]
        for (_, one), (_, other) in zip(got[name], boxes, strict=True):
            assert one == pytest.approx(other, abs=3e-6)
    source["images"] = [image for image in source["images"] if image["file_name"] in expected]
    without = gone | ADDED | {"bbox"}
    assert sorted(map(as_text, rows(end, without))) == sorted(map(as_text, rows(source, without)))
    if not gone & {"order of the categories", "category without boxes", "categories"}:
        assert [each["name"] for each in end["categories"]] == [each["name"] for each in source["categories"]]
    if "iscrowd" not in gone:
        flags = [parse_flag(box.extra.get("iscrowd")) for image in dataset.images for box in image.boxes]
        assert sum(flags) == sum(annotation["iscrowd"] for annotation in source["annotations"])


def test_a_crowd_flag_survives_voc_on_the_command_line(tmp_path, capsys):
    """In XML, the flag is the text "0", which is true in Python."""
    image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
    annotation = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.2, 0.7], "area": 3.5, "iscrowd": 0}
    source = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(source))
    assert main(["coco-to-voc", str(tmp_path / "a.json"), str(tmp_path / "voc")]) == 0
    assert main(["voc-to-coco", str(tmp_path / "voc"), str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text()) == source
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["0", "0.0", "false", "False", ""])
def test_a_flag_in_xml_of_other_programs_is_parsed(tmp_path, text):
    xml = (
        "<annotation><filename>a.jpg</filename><size><width>9</width><height>9</height></size><object><name>cat</name>"
    )
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"
    (tmp_path / "a.xml").write_text(f"{xml}<iscrowd>{text}</iscrowd><area>12.5</area>{box}")
    dataset = FORMATS["voc"].read(tmp_path, None)
    assert not parse_flag(dataset.images[0].boxes[0].extra["iscrowd"])
    coco.write(dataset, tmp_path / "a.json")
    annotation = json.loads((tmp_path / "a.json").read_text())["annotations"][0]
    assert (annotation["iscrowd"], annotation["area"]) == (0, 12.5)
