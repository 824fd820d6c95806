"""The commands on a YOLO data set, and on a folder of labelme, without a conversion."""

import json

import pytest
from PIL import Image
from small_runs import model, shapes

from data_prep.formats.registry import FORMATS
from data_prep.records import Dataset
from gdino_lib.cli.main import main
from gdino_lib.data.datasets import image_folder, read_records
from gdino_lib.evaluation.report import evaluate_files

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small_scratch(monkeypatch):
    from gdino_lib import config

    monkeypatch.setitem(config.PRESETS, "nano", lambda: model().config)


@pytest.fixture
def yolo_set(tmp_path):
    """A data set as Ultralytics has it: images/train, images/val, labels/train, labels/val, data.yaml."""
    root = tmp_path / "set"
    drawn = shapes(tmp_path / "drawn")
    lines = {name: number for number, name in enumerate(drawn.categories)}
    for position, record in enumerate(drawn.images):
        split = "train" if position < 8 else "val"
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        image = root / "images" / split / record.file_name
        (tmp_path / "drawn" / record.file_name).rename(image)
        rows = [
            f"{lines[box.label]} {(box.x1 + box.x2) / 2 / record.width} {(box.y1 + box.y2) / 2 / record.height} "
            f"{(box.x2 - box.x1) / record.width} {(box.y2 - box.y1) / record.height}\n"
            for box in record.boxes
        ]
        (root / "labels" / split / image.with_suffix(".txt").name).write_text("".join(rows))
    names = "".join(f"  {number}: {name}\n" for name, number in lines.items())
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return root / "data.yaml"


def test_a_yolo_set_is_checked_trained_on_and_evaluated(yolo_set, tmp_path, small_scratch, capsys):
    data, run = str(yolo_set), tmp_path / "run"
    check = ["check", "--data", data, "--from-scratch", "nano", "--out", str(tmp_path / "checked"), "--no-overfit"]
    assert main([*check, "--device", "cpu"]) in (0, 1)  # 1: the few images have problems of their own
    assert (tmp_path / "checked" / "check.json").is_file()
    capsys.readouterr()
    train = ["train", "--train", data, "--val", data, "--from-scratch", "nano", "--out", str(run), "--batch-size", "4"]
    assert main([*train, "--workers", "0", "--device", "cpu", "--epochs", "2", "--warmup-steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "; 8 images, short side" in said
    assert "4 steps; weights: " in said
    measured = tmp_path / "figures.json"
    evaluate = ["eval", "--data", data, "--model", str(run / "best.safetensors"), "--json", str(measured)]
    assert main([*evaluate, "--device", "cpu"]) == 0
    assert json.loads(measured.read_text())["data"]["images"] == 4
    assert main([*evaluate, "--device", "cpu", "--split", "train", "--overwrite"]) == 0
    assert json.loads(measured.read_text())["data"]["images"] == 8
    capsys.readouterr()
    assert main([*evaluate, "--split", "test", "--overwrite"]) == 2
    line = f"error: {data}: expected images of the split 'test', got only train, val\n"
    assert capsys.readouterr().err == line


def test_a_yolo_set_has_the_boxes_that_were_drawn(yolo_set, tmp_path):
    drawn = shapes(tmp_path / "again")
    read = read_records(yolo_set)
    assert image_folder(yolo_set) == yolo_set.parent / "images"
    assert [record.file_name.partition("/")[2] for record in read.images] == [r.file_name for r in drawn.images]
    for one, other in zip(read.images, drawn.images, strict=True):
        assert [box.label for box in one.boxes] == [box.label for box in other.boxes]
        for box, truth in zip(one.boxes, other.boxes, strict=True):
            assert box.xyxy == pytest.approx(truth.xyxy, abs=1e-5)


def test_labelme_names_its_images_itself(tmp_path):
    drawn = shapes(tmp_path / "drawn")
    drawn = Dataset(drawn.images[:2])
    FORMATS["labelme"].write(drawn, tmp_path / "set")
    for record in drawn.images:
        Image.open(tmp_path / "drawn" / record.file_name).save(tmp_path / "set" / record.file_name)
    assert image_folder(tmp_path / "set") == tmp_path / "set"
    assert [box.xyxy for box in read_records(tmp_path / "set").images[0].boxes] == [
        box.xyxy for box in drawn.images[0].boxes
    ]


def test_what_is_missing_is_named(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"a\.csv does not name the folder of its images; --images DIR is needed, too"):
        image_folder(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"has no parts; --split goes with a data\.yaml of YOLO"):
        evaluate_files(tmp_path / "a.csv", tmp_path, "nano", split="val")
    (tmp_path / "voc").mkdir()
    with pytest.raises(ValueError, match="convert a folder of Pascal VOC first"):
        read_records(tmp_path / "voc")
    train = ["train", "--train", str(tmp_path / "a.csv"), "--from-scratch", "nano", "--out", str(tmp_path / "run")]
    assert main(train) == 2
    assert "--images DIR is needed, too" in capsys.readouterr().err
