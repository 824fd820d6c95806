"""`gdino detect --ontology` and `--negatives`: the boxes of the Detector, under the names of the file."""

import json
from pathlib import Path

import numpy as np
import pytest
from detect_runs import LOW, TABLES, document, files, film, picture, unexpected
from PIL import Image

import gdino_lib as gd
from data_prep.formats import coco
from gdino_lib.apps.detect_files import read_ontology
from gdino_lib.cli.main import main
from gdino_lib.detect.explanation_drawing import draw_explanation
from gdino_lib.detect.thresholds import Thresholds

NAMES = {"pet": ["cat", "dog", "a small dog"], "bus": ["bus", "red bus"], "nothing": ["tree"]}
OPTIONS = {"box_threshold": 0.1, "text_threshold": 0.1}


def ontology(names=NAMES, path="names.json"):
    Path(path).write_text(json.dumps(names), "utf-8")
    return path


def assert_written(image, found):
    boxes = image["boxes"]
    assert np.array_equal(np.float32([box["xyxy"] for box in boxes]).reshape(-1, 4), found.xyxy)
    assert [box["phrase"] for box in boxes] == found.data["class_name"].tolist()
    assert [box.get("wording", box["phrase"]) for box in boxes] == found.data["wording"].tolist()
    assert all(box.get("wording") != box["phrase"] for box in boxes)


def test_a_run_writes_the_boxes_of_names_with_wordings_and_negatives(work, capsys, model):
    names = [picture("a.png"), picture("b.png", (50, 70), 1)]
    options = ["--negatives", "hat . pen", "--negatives", "cup", "--nms", "0.5", "--top-k", "4"]
    assert main(["detect", *names, "--ontology", ontology(), *options, *LOW]) == 0
    assert files() == TABLES | set(names)
    assert unexpected(capsys.readouterr().err) == []
    data, detector = document(), gd.Detector(model)
    assert data["phrases"] == list(NAMES)
    assert data["wordings"] == NAMES
    assert data["negatives"] == ["hat", "pen", "cup"]
    found = [detector(n, NAMES, **OPTIONS, nms_iou=0.5, top_k=4, negatives=["hat", "pen", "cup"]) for n in names]
    without = [detector(n, NAMES, **OPTIONS, nms_iou=0.5, top_k=4) for n in names]
    assert any(not np.array_equal(a.xyxy, b.xyxy) for a, b in zip(found, without, strict=True))
    assert sum(map(len, found)) > 0
    for image, expected in zip(data["images"], found, strict=True):
        assert_written(image, expected)
    dataset = coco.read("detections/detections.coco.json")
    assert dataset.categories == tuple(NAMES)
    for image, expected in zip(dataset.images, found, strict=True):
        assert [box.label for box in image.boxes] == expected.data["class_name"].tolist()


def test_thresholds_go_by_the_name_and_explanations_by_the_wording(work, model):
    picture("a.png")
    Thresholds(1.0, {"Pet": 0.2}, {}).save("own.json")
    assert main(["detect", "a.png", "--ontology", ontology(), "--thresholds", "own.json", "--explain"]) == 0
    thresholds = Thresholds.load("own.json")
    explanation = gd.Detector(model).explain("a.png", NAMES, thresholds=thresholds)
    found = explanation.detections
    assert set(found.data["class_name"]) == {"pet"}
    (image,) = document()["images"]
    assert_written(image, found)
    expected = draw_explanation("a.png", explanation, int(found.data["query"][0]), str(found.data["wording"][0]))
    assert np.array_equal(np.asarray(Image.open(f"detections/{image['boxes'][0]['explained']}")), np.asarray(expected))


def test_films_have_names_too(work):
    film("a.avi")
    assert main(["detect", "a.avi", "--ontology", ontology(), "--negatives", "hat", *LOW]) == 0
    (entry,) = document()["films"]
    lines = [json.loads(line) for line in Path("detections", entry["frames_file"]).read_text().splitlines()]
    assert {box["phrase"] for line in lines for box in line["boxes"]} <= set(NAMES)
    assert any("wording" in box for line in lines for box in line["boxes"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "expected an object {...}, got []"),
        ("{}", "expected names with their wordings"),
        ('{"car": "sedan"}', "'car': expected a list of wordings, got 'sedan'"),
        ('{"car": []}', "'car': expected a list of wordings, got []"),
        ('{"car": ["sedan", 1]}', "'car': expected a list of wordings, got ['sedan', 1]"),
        ('{"car": ["car"], "car": ["sedan"]}', "car"),
        ('{"car": ["car"', "invalid JSON"),
    ],
)
def test_other_files_are_refused_in_one_line(work, capsys, text, words):
    picture("a.png")
    Path("names.json").write_text(text)
    assert main(["detect", "a.png", "--ontology", "names.json"]) == 2
    (line,) = unexpected(capsys.readouterr().err)
    assert line.startswith("error: names.json")
    assert words in line
    assert files(".") == {"a.png", "names.json"}
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.json"):
        read_ontology("nowhere.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ontology", "names.json", "--phrases", "cat"], "not allowed with argument"),
        (["--ontology", "names.json", "--negatives", "Dog"], "negative 0, 'Dog', is also looked for"),
        (["--phrases", "cat", "--negatives", " . "], "expected phrases, as in"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(work, capsys, options, words):
    picture("a.png")
    ontology()
    try:
        status = main(["detect", "a.png", *options])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert not Path("detections").exists()
