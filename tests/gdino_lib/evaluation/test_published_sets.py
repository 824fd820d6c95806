"""Data sets by name: where their files are, what is asked for, and one line for each fault."""

import json
from pathlib import Path

import pytest
from made_up_detectors import COLOURS
from published_files import (
    draw_as,
    instances,
    lvis_instances,
    write_coco,
    write_coco_set,
    write_flickr,
    write_json,
    write_lvis,
    write_refcoco,
)

from gdino_lib.evaluation import odinw
from gdino_lib.evaluation.lvis import words_of
from gdino_lib.evaluation.published_sets import SETS, Choice, read_tasks

WRITERS = {
    "coco": write_coco,
    "lvis": write_lvis,
    "refcoco": write_refcoco,
    "refcoco+": lambda root: write_refcoco(root, "refcoco+"),
    "refcocog": lambda root: write_refcoco(root, "refcocog", "refs(umd).p"),
    "flickr30k": write_flickr,
}


def write_odinw(root, sets):
    for each in sets:
        file = each.annotations(Path(), "valid")
        write_coco_set(root / file.parent, file.name)


def choice(name, root, split=None, **more):
    return Choice(name, root, split or SETS[name].splits[0], **more)


@pytest.mark.parametrize("name", WRITERS)
def test_each_set_as_published(tmp_path, name):
    WRITERS[name](tmp_path)
    (task,) = read_tasks(choice(name, tmp_path))
    assert task.name == name
    shown = 5 if SETS[name].has_classes else 4
    assert len(task.groups) == shown, "a picture without objects counts where classes are asked for"
    assert len({group[0].file_name for group in task.groups}) == shown


def test_lvis_minival_and_its_words(tmp_path):
    content = lvis_instances()
    content["categories"][0]["name"] = "bow_(decorative_ribbons)"
    write_lvis(tmp_path, "lvis_v1_minival_inserted_image_name.json", content)
    (task,) = read_tasks(choice("lvis", tmp_path, "minival", names_per_prompt=2))
    assert task.class_prompts.classes == ("bow_(decorative_ribbons)", "green square", "blue_square")
    assert task.class_prompts.prompts == (("bow", "green square"), ("blue square",))
    assert [words_of(name) for name in ("aerosol_can", "bow_(weapon)", "(sic)", "a_(b)_c")] == [
        "aerosol can",
        "bow",
        "(sic)",
        "a c",
    ]


def test_the_images_may_be_elsewhere(tmp_path):
    write_json(tmp_path / "a" / "annotations" / "instances_val2017.json", instances())
    draw_as(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="no such folder, expected the images"):
        read_tasks(choice("coco", tmp_path / "a"))
    (task,) = read_tasks(choice("coco", tmp_path / "a", images=tmp_path / "b"))
    assert len(task.groups) == 5


def test_the_table_of_odinw():
    assert len(odinw.SETS) == len({each.name for each in odinw.SETS}) == 35
    assert sorted(each.name for each in odinw.SETS if each.in_13) == [
        "AerialMaritimeDrone/large",
        "Aquarium",
        "CottontailRabbits",
        "EgoHands/generic",
        "NorthAmericaMushrooms",
        "Packages",
        "PascalVOC",
        "Raccoon",
        "ShellfishOpenImages",
        "VehiclesOpenImages",
        "pistols",
        "pothole",
        "thermalDogsAndPeople",
    ]
    by_name = {each.name: each for each in odinw.SETS}
    file = by_name["Aquarium"].annotations(Path("root"), "test")
    assert (
        file.as_posix() == "root/Aquarium/Aquarium Combined.v2-raw-1024.coco/test/annotations_without_background.json"
    )
    file = by_name["pistols"].annotations(Path("root"), "valid")
    assert file.as_posix() == "root/pistols/export/val_annotations_without_background.json"


def test_odinw_13(tmp_path):
    write_odinw(tmp_path, [each for each in odinw.SETS if each.in_13])
    tasks = read_tasks(choice("odinw13", tmp_path))
    assert [task.name for task in tasks] == [each.name for each in odinw.SETS if each.in_13]
    with pytest.raises(FileNotFoundError, match=r"there is no file .*tiled"):
        read_tasks(choice("odinw35", tmp_path))
    write_coco_set(tmp_path / "EgoHands/generic/mini_val", "annotations_without_background.json")
    folders = [task.images.name for task in read_tasks(choice("odinw13", tmp_path, "mini_val"))]
    assert folders.count("mini_val") == 1, "the other sets have no such split: valid is taken"
    (tmp_path / "Packages/Raw/valid/annotations_without_background.json").write_text("{")
    with pytest.raises(ValueError, match=r"Packages.*invalid JSON"):
        read_tasks(choice("odinw13", tmp_path))


def test_written_words_of_odinw(tmp_path):
    write_odinw(tmp_path, [each for each in odinw.SETS if each.in_13])
    file = tmp_path / "CottontailRabbits/valid/annotations_without_background.json"
    content = json.loads(file.read_text("utf-8"))
    content["categories"][0]["name"] = "Cottontail-Rabbit"
    file.write_text(json.dumps(content), "utf-8")
    prompts = {}
    prompts["names"] = read_tasks(choice("odinw13", tmp_path))
    with pytest.warns(UserWarning, match="for which there are written words") as warned:
        prompts["written"] = read_tasks(choice("odinw13", tmp_path, prompts="written"))
    assert len(warned) == 5, "of six sets with written words, these files have the class of one"
    first = {way: {task.name: task.class_prompts.prompts[0][0] for task in tasks} for way, tasks in prompts.items()}
    assert first["names"]["CottontailRabbits"] == "Cottontail-Rabbit"
    assert first["written"]["CottontailRabbits"] == "rabbit"
    assert first["written"]["Aquarium"] == "red square"


def test_any_folder_of_sets(tmp_path):
    write_coco_set(tmp_path / "one")
    write_coco_set(tmp_path / "two", "_annotations.coco.json")
    write_coco_set(tmp_path / "three", "annotations.json")
    pictures = list((tmp_path / "three").glob("*.png"))
    (tmp_path / "three" / "images").mkdir()
    for path in pictures:
        path.rename(path.parent / "images" / path.name)
    (tmp_path / "notes").mkdir()
    tasks = read_tasks(choice("folder", tmp_path))
    assert [task.name for task in tasks] == ["one", "three", "two"]
    assert [task.images.name for task in tasks] == ["valid", "images", "two"]
    write_json(tmp_path / "prompts.json", {"two": {"red square": "crimson"}})
    tasks = read_tasks(choice("folder", tmp_path, prompts="written"))
    assert [task.class_prompts.prompts[0][0] for task in tasks] == ["red square", "red square", "crimson"]
    for content, words in (
        ({"four": {}}, "expected names of the sets one, three, two, got 'four'"),
        ({"two": {"cat": "dog"}}, "two: a wording for 'cat'"),
        ({"two": "crimson"}, "expected {set: {class: words}}, got 'two': 'crimson'"),
    ):
        write_json(tmp_path / "prompts.json", content)
        with pytest.raises(ValueError, match=words):
            read_tasks(choice("folder", tmp_path, prompts="written"))
    with pytest.raises(FileNotFoundError, match="no sub-folder has one of test/annotations"):
        read_tasks(choice("folder", tmp_path / "notes", "test"))


def test_a_set_without_boxes(tmp_path):
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"annotations": []}), "utf-8")
    with pytest.raises(ValueError, match="coco: 5 records without a box; expected at least one to measure by"):
        read_tasks(choice("coco", tmp_path))


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("voc", {"split": "val"}, "dataset: expected one of coco, lvis, .*, got 'voc'"),
        ("coco", {"split": "val"}, "split: coco has val2017, train2017, got 'val'"),
        ("refcoco", {"names_per_prompt": 3}, "names_per_prompt: refcoco has no classes, got 3"),
        ("coco", {"prompts": "written"}, "only odinw13, odinw35 and folder have written words, not coco"),
        ("odinw13", {"prompts": "best"}, "prompts: expected one of names, written, got 'best'"),
        ("odinw13", {"images": Path("images")}, "the images of odinw13 are beside its files, got images"),
    ],
)
def test_options_that_mean_nothing(tmp_path, name, more, words):
    more = {"split": SETS[name].splits[0] if name in SETS else "", **more}
    with pytest.raises(ValueError, match=words):
        read_tasks(Choice(name, tmp_path, **more))


@pytest.mark.parametrize("name", SETS)
def test_a_folder_that_is_missing_or_empty(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no such folder, expected the data set {name.replace('+', '.')}"):
        read_tasks(choice(name, tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        read_tasks(choice(name, tmp_path))


def test_the_classes_are_those_of_the_file(tmp_path):
    write_coco(tmp_path)
    (task,) = read_tasks(choice("coco", tmp_path, names_per_prompt=2))
    assert task.class_prompts.classes == tuple(COLOURS)
    assert [len(prompt) for prompt in task.class_prompts.prompts] == [2, 1]
