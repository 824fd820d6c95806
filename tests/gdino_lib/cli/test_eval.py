"""`gdino eval`: tables, JSON, thresholds, and changes since an earlier run."""

import json

import pytest
from command_line import one_line
from made_up_detectors import COLOURS, RECORDS, SQUARES, BlindDetector, ColourDetector, Hallucinating, box, draw
from peers import SMALL, randomise

import data_prep
import gdino_lib as gd
from data_prep import ImageRecord
from data_prep.formats import coco, csv_table, odvg
from gdino_lib.cli.main import main
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.weights.loading import save

DETECTORS = {"perfect": ColourDetector(), "blind": BlindDetector(), "hallucinating": Hallucinating()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with images/, boxes.json (5 images, 6 boxes) and captions.jsonl."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    draw(RECORDS, folder / "images")
    coco.write(data_prep.Dataset(RECORDS, tuple(COLOURS)), folder / "boxes.json")
    csv_table.write(data_prep.Dataset(RECORDS[:2], ("red square", "green square")), folder / "two.csv")
    wrong = (box("the red square", SQUARES["red square"]), box("the green square", (0, 0, 9, 9)))
    caption = ImageRecord("1.png", 100, 80, wrong, "the red square and the green square")
    odvg.write(data_prep.Dataset((caption,)), folder / "captions.jsonl")
    return folder


@pytest.fixture(autouse=True)
def detectors(monkeypatch):
    """Replace models by the `DETECTORS` of these names."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(gd.Detector, "from_pretrained", lambda name, device, dtype: DETECTORS[name])


def run(data, model, *options, file="boxes.json", status=0):
    arguments = ["--data", data / file, "--images", data / "images", "--model", model, *options]
    assert main(["eval", *map(str, arguments)]) == status


def cells(printed, name):
    """The cells of the row that begins with `name`."""
    rows = ([cell.strip() for cell in line.strip("│┃| ").split("│")] for line in printed.splitlines())
    return next(row for row in rows if row[0] == name)


def refused(capsys, data, model, *options, **more):
    run(data, model, *options, status=2, **more)
    return one_line(capsys)


def test_the_tables(data, capsys):
    run(data, "perfect")
    printed = capsys.readouterr().out
    assert "Average precision, 5 images, 6 objects" in printed
    assert cells(printed, "AP") == ["AP", "1.000"]
    assert cells(printed, "large") == ["large", "-"]
    for name in COLOURS:
        assert cells(printed, name) == [name, "2", "1.000", "1.000", "0.900", "1.000"]
    assert cells(printed, "0.35") == ["0.35", "6", "6", "6", "1.000", "0"]
    assert "expected calibration error 0.100" in printed
    assert "Boxes for classes that 5 images do not show, each of them wrong: no boxes\n" in printed
    assert "Referring" not in printed
    run(data, "hallucinating")
    printed = capsys.readouterr().out
    assert cells(printed, "0.35")[:4] == ["0.35", "15", "6", "0"]
    assert "most often for blue_square (3), green square (3), red square (3)" in printed


def test_a_model_that_finds_nothing_gives_one_line_per_table(data, capsys):
    run(data, "blind")
    printed = capsys.readouterr().out
    assert cells(printed, "AP") == ["AP", "0.000"]
    assert printed.splitlines()[-3:] == [
        "Boxes against objects: no boxes",
        "Calibration of scores from 0.05, expected calibration error -: no boxes",
        "Boxes for classes that 5 images do not show, each of them wrong: no boxes",
    ]


def test_captions(data, capsys):
    run(data, "perfect", file="captions.jsonl")
    printed = capsys.readouterr().out
    assert cells(printed, "all") == ["all", "0.500", "1", "2"]
    assert "missed: 'the green square' in 1.png, overlap 0.00" in printed
    assert "Average precision" not in printed


def test_the_json_is_complete_or_absent(data, tmp_path, capsys, monkeypatch):
    target = tmp_path / "figures.json"
    run(data, "perfect", "--json", target)
    values = json.loads(target.read_text("utf-8"))
    assert values["model"] == "perfect"
    assert values["data"]["images"] == 5
    assert values["data"]["classes"] == list(COLOURS)
    assert values["evaluation"]["precision"]["ap"] == 1
    capsys.readouterr()
    assert "--overwrite" in refused(capsys, data, "blind", "--json", target)
    run(data, "blind", "--json", target, "--overwrite")
    assert json.loads(target.read_text("utf-8"))["evaluation"]["precision"]["ap"] == 0
    capsys.readouterr()
    assert "does not exist" in refused(capsys, data, "blind", "--json", tmp_path / "none" / "a.json")

    def full(*_):
        raise OSError(28, "No space left on device")

    before = target.read_bytes()
    monkeypatch.setattr("data_prep.atomic.os.fsync", full)
    run(data, "perfect", "--json", target, "--overwrite", status=2)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_forgetting(data, tmp_path, capsys):
    earlier = tmp_path / "before.json"
    run(data, "perfect", "--json", earlier)
    capsys.readouterr()
    run(data, "blind", "--compare", earlier)
    printed = capsys.readouterr().out
    assert "expected calibration error 0.100 -> -\n" in printed
    assert printed.splitlines()[-6:-1] == [
        "Changes since the earlier run",
        "AP 1.000 -> 0.000: -1.000",
        "classes whose AP changed: 3 of 3; largest changes:",
        "  red square 1.000 -> 0.000: -1.000",
        "  green square 1.000 -> 0.000: -1.000",
    ]
    assert cells(printed, "AP75") == ["AP75", "1.000 -> 0.000"]
    assert cells(printed, "red square") == [
        "red square",
        "2",
        "1.000 -> 0.000",
        "1.000 -> 0.000",
        "0.900 -> -",
        "1.000 -> -",
    ]
    assert cells(printed, "0.35") == ["0.35", "6 -> 0", "6", "6 -> 0", "1.000 -> 0.000", "0"]
    run(data, "perfect", "--compare", earlier)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == ["AP 1.000 -> 1.000: +0.000", "no class's AP has changed"]
    assert cells(printed, "red square")[2] == "1.000"
    run(data, "perfect", "--json", tmp_path / "captions.json", file="captions.jsonl")
    capsys.readouterr()
    run(data, "perfect", "--compare", tmp_path / "captions.json", file="captions.jsonl")
    printed = capsys.readouterr().out
    assert cells(printed, "all") == ["all", "0.500", "1", "2"]
    run(data, "blind", "--compare", tmp_path / "captions.json", file="captions.jsonl")
    printed = capsys.readouterr().out
    assert cells(printed, "all") == ["all", "0.500 -> 0.000", "1 -> 0", "2"]
    assert printed.endswith("Changes since the earlier run\nreferring accuracy 0.500 -> 0.000: -0.500\n")


def test_earlier_runs_that_cannot_be_compared_are_refused(data, tmp_path, capsys):
    earlier = tmp_path / "before.json"
    run(data, "perfect", "--json", earlier)
    capsys.readouterr()
    line = refused(capsys, data, "perfect", "--compare", earlier, file="two.csv")
    assert "is of other data (5 images) than" in line
    assert "(2 images); cannot compare" in line
    assert "no such file" in refused(capsys, data, "perfect", "--compare", tmp_path / "none.json")
    for text in ("{", "[]", "{}", '{"data": {"images": 5}}', '{"data": 3}'):
        earlier.write_text(text)
        assert "expected the JSON of an earlier evaluation" in refused(capsys, data, "perfect", "--compare", earlier)


def test_thresholds(data, tmp_path, capsys, monkeypatch):
    run(data, "perfect", "--thresholds-out", tmp_path / "best.json")
    assert Thresholds.load(tmp_path / "best.json").classes == pytest.approx(dict.fromkeys(COLOURS, 0.9))
    capsys.readouterr()
    assert "--overwrite" in refused(capsys, data, "perfect", "--thresholds-out", tmp_path / "best.json")
    assert "'tiny' is not a file, so nothing can be written beside it" in refused(
        capsys, data, "tiny", "--thresholds-out"
    )
    assert "no weight file at none.safetensors" in refused(capsys, data, "none.safetensors", "--thresholds-out")
    line = refused(capsys, data, "perfect", "--thresholds-out", tmp_path / "t.json", file="captions.jsonl")
    assert "expected boxes of classes to choose thresholds by, got none" in line
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"")
    monkeypatch.setitem(DETECTORS, str(model), DETECTORS["perfect"])
    run(data, model, "--thresholds-out")
    assert (tmp_path / "model.thresholds.json").is_file()


def test_missing_data_and_images_are_refused(data, tmp_path, capsys):
    assert "none.csv" in refused(capsys, data, "perfect", file="none.csv")
    other = ["--images", str(tmp_path)]
    assert "no such file" in refused(capsys, data, "perfect", *other)


def test_a_package_that_is_missing(data, capsys, monkeypatch):
    monkeypatch.setattr("gdino_lib.cli.options.find_spec", lambda name: None)
    line = refused(capsys, data, "perfect")
    assert line == "error: pycocotools not installed; pip install 'gdino_lib[train]'\n"


def test_with_a_real_model(data, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    model = gd.GroundingDINO(SMALL.replace(short_side=64, long_side=128, encoder_layers=1, decoder_layers=1))
    randomise(model)
    save(model, tmp_path / "model.safetensors")
    run(data, tmp_path / "model.safetensors", "--device", "cpu", "--json", tmp_path / "a.json", file="two.csv")
    assert "Average precision, 2 images, 3 objects" in capsys.readouterr().out
    assert 0 <= json.loads((tmp_path / "a.json").read_text())["evaluation"]["precision"]["ap"] <= 1
