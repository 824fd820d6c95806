"""No command prints control characters of other people's file names and labels on the terminal."""

import json
import os
import warnings
from pathlib import Path

import pytest
from detect_runs import LOW, film, picture, status
from hostile_names import DIRECTION, STEERING, STEERING_LINES, assert_harmless
from made_up_detectors import COLOURS, RECORDS, ColourDetector, Hallucinating, draw
from small_runs import model as model_to_train
from terminals import run_on_a_terminal
from training_runs import csv_of

import data_prep
import gdino_lib as gd
from data_prep.formats import coco
from gdino_lib.weights.loading import save

ESCAPED = "\\x1b]0;taken over\\x07\\x1b[2J\\x9b3m\\x08\\x7f"
TURNED = "fish\\u202egpj.\\u2066x\\u2069\\u200f"


def printed(capsys):
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_detect(work, capsys):
    images = [picture(f"{STEERING}.png"), picture(f"{DIRECTION}/{STEERING}.jpg", seed=1)]
    Path(f"bad{STEERING}.png").write_bytes(b"no image")
    Path("names.txt").write_text(f"{DIRECTION}\ncat\n", "utf-8")
    arguments = [
        "detect",
        *images,
        f"bad{STEERING}.png",
        f"no{STEERING_LINES}.png",
        "--phrases-file",
        "names.txt",
        *LOW,
    ]
    assert status([*arguments, "--out", f"out{STEERING}"]) == 1
    assert_harmless(printed(capsys), ESCAPED, TURNED)
    assert status([*arguments, "--out", f"out{STEERING}"]) == 2
    assert_harmless(printed(capsys), ESCAPED)
    assert status(["detect", images[0], "--phrases", f"a, {DIRECTION}", "--out", "commas", *LOW]) == 0
    assert_harmless(printed(capsys), 'note: "a, fish\\u202egpj"')
    assert status(["detect", images[0], "--phrases", STEERING, "--out", "refused"]) == 2
    assert_harmless(printed(capsys))


def test_detect_warns_without_steering(work, capsys, monkeypatch):
    picture("a.png")
    monkeypatch.setattr(
        "gdino_lib.apps.detect_files.draw_detections",
        lambda image, _: warnings.warn(STEERING_LINES, stacklevel=2) or image,
    )
    assert status(["detect", "a.png", "--phrases", "\u202e\U0001f600", *LOW]) == 0
    assert_harmless(printed(capsys), "warning: phrase 0, '\\u202e", "warning: a\\x1b]0;taken over")


@pytest.mark.parametrize(
    "command", ["detect", "train", "check", "eval", "merge", "convert", "export", "scenes", "build-ops"]
)
def test_arguments(work, capsys, command):
    for arguments in ([STEERING_LINES], [command, f"--{STEERING_LINES}"], [command, "a", f"--{STEERING}=1"]):
        assert status(arguments) == 2
        text = printed(capsys)
        assert_harmless(text)
        assert text.count("\n") == 1


VALUES = {
    "detect": ["a.png", "--phrases", "cat", "--nms={}"],
    "train": ["--train", "a.csv", "--images", ".", "--out", "a", "--from-scratch={}"],
    "check": ["--data={}", "--images", ".", "--out", "a", "--from-scratch=nano"],
    "eval": ["--data={}", "--images", ".", "--model", "nano"],
    "merge": ["{}", "{}", "out.safetensors", "--alpha", "0.5"],
    "convert": ["{}", "out.safetensors", "--to", "gdino_lib"],
    "scenes": ["--out", "a", "--count={}"],
}


@pytest.mark.parametrize("command", VALUES)
def test_values(work, capsys, command):
    assert status([command, *(value.format(STEERING_LINES) for value in VALUES[command])]) == 2
    text = printed(capsys)
    assert_harmless(text)
    assert text.count("\n") == 1
    assert "\\x1b]0;" in text


@pytest.fixture
def measured(work, monkeypatch):
    """Arguments for a data set with a hostile file name and class."""
    records = [
        data_prep.ImageRecord(
            f"{DIRECTION}{record.file_name}", record.width, record.height,
            tuple(data_prep.Box(DIRECTION if b.label == "red square" else b.label, *b.xyxy) for b in record.boxes),
        )
        for record in RECORDS
    ]  # fmt: skip
    Path("images").mkdir()
    draw(RECORDS, Path("images"))
    for record, renamed in zip(RECORDS, records, strict=True):
        (Path("images") / record.file_name).rename(Path("images") / renamed.file_name)
    coco.write(data_prep.Dataset(tuple(records), (DIRECTION, *list(COLOURS)[1:])), f"boxes{STEERING}.json")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich prints escape sequences, which are allowed
    return ["--data", f"boxes{STEERING}.json", "--images", "images"]


def test_eval(measured, capsys, monkeypatch):
    for number, detector in enumerate((ColourDetector(), Hallucinating())):
        monkeypatch.setattr(gd.Detector, "from_pretrained", lambda *_, detector=detector: detector)
        comparing = ["--compare", "0.json"] if number else []
        assert status(["eval", *measured, "--model", "nano", "--json", f"{number}.json", *comparing]) == 0
        assert_harmless(printed(capsys), TURNED)
    document = json.loads(Path("0.json").read_text("utf-8"))
    document["data"]["classes"] = [STEERING]
    Path(f"{STEERING}.json").write_text(json.dumps(document), "utf-8")
    assert status(["eval", *measured, "--model", "nano", "--compare", f"{STEERING}.json"]) == 2
    assert_harmless(printed(capsys))


def test_check(measured, capsys, tmp_path):
    save(model_to_train(), f"{STEERING}.safetensors")
    arguments = [
        "check",
        *measured,
        "--init",
        f"{STEERING}.safetensors",
        "--out",
        STEERING,
        "--no-overfit",
        "--device=cpu",
    ]
    assert status(arguments) in (0, 1)
    assert_harmless(printed(capsys), ESCAPED)
    next(iter(Path("images").iterdir())).write_bytes(b"no image")
    assert status([*arguments, "--overwrite"]) == 1
    assert_harmless(printed(capsys), TURNED)


def test_train_convert_and_merge(work, capsys, monkeypatch):
    save(model_to_train(), f"{STEERING}.safetensors")
    data = csv_of(Path.cwd())
    arguments = ["train", *data, "--init", f"{STEERING}.safetensors", "--out", STEERING, "--epochs=1", "--batch-size=4"]
    assert status([*arguments, "--workers=0", "--device=cpu"]) == 0
    assert_harmless(printed(capsys), ESCAPED)
    assert status([*arguments, "--workers=0", "--device=cpu"]) == 2
    assert_harmless(printed(capsys), ESCAPED)
    assert status(["convert", f"{STEERING}.safetensors", f"b{STEERING}.pth", "--to", "official"]) == 2
    assert_harmless(printed(capsys))
    assert status(["convert", f"{STEERING}.safetensors", f"b{STEERING}.safetensors", "--to", "gdino_lib"]) == 0
    assert_harmless(printed(capsys), ESCAPED)
    weights = [f"{STEERING}.safetensors", f"b{STEERING}.safetensors"]
    assert status(["merge", *weights, "--alpha", "0.5", f"c{STEERING}.safetensors"]) == 0
    assert_harmless(printed(capsys), ESCAPED)


def test_interrupts(work, capsys, monkeypatch):
    picture("a.png")

    def interrupt(*_, **__):
        raise KeyboardInterrupt(STEERING)

    monkeypatch.setattr("gdino_lib.apps.detect_files.detect_files", interrupt)
    assert status(["detect", "a.png", "--phrases", "cat"]) == 130
    assert_harmless(printed(capsys), ESCAPED)


@pytest.mark.skipif(os.name == "nt", reason="no such terminals")
def test_a_real_terminal_gets_no_control_characters(work, model):
    """Progress bars print names, too."""
    save(model, f"{STEERING}.safetensors")
    pytest.importorskip("cv2")
    film("film.avi")
    Path("film.avi").rename(f"{STEERING}.avi")
    picture(f"{STEERING}.png")
    arguments = [
        "detect",
        f"{STEERING}.avi",
        f"{STEERING}.png",
        "--phrases",
        DIRECTION,
        "--model",
        f"{STEERING}.safetensors",
    ]
    code, text = run_on_a_terminal("gdino_lib", *arguments, *LOW)
    assert code == 0, text
    assert "frame" in text, "the progress bar of the film"
    bars = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x1b[A", "")  # tqdm moves the cursor up a line
    assert_harmless(bars, ESCAPED, TURNED)
