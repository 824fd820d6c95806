"""`gdino detect`: whole runs, what they write, how they end, and a thousand inputs that nobody should give."""

import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from peers import SMALL, randomise
from PIL import Image

import gdino_lib as gd
from data_prep.formats import coco, csv_table
from gdino_lib.apps.detect_files import read_phrases
from gdino_lib.apps.input_files import find_input_files
from gdino_lib.cli.main import main
from gdino_lib.detect.drawing import FONTS, _contrast, _fonts, draw_detections
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.images import read_image
from gdino_lib.weights.loading import choose_device, save

ROOT = Path(__file__).parents[3]
CONFIG = SMALL.replace(short_side=64, long_side=128, swin_depths=(1, 1, 1, 1), encoder_layers=1, decoder_layers=2)
LOW = ["--box-threshold", "0.1", "--text-threshold", "0.1"]
TABLES = {"detections.json", "detections.csv", "detections.coco.json"}


@pytest.fixture(scope="module")
def model():
    model = gd.GroundingDINO(CONFIG)
    randomise(model, seed=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower on several where the machine is busy
    yield model.eval()
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path, monkeypatch, model):
    """An empty working folder; any model's name gives the small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gdino_lib.weights.hub.names", lambda: ["nano", "tiny"])
    monkeypatch.setattr("gdino_lib.detect.detector.load", lambda _, device: model.to(choose_device(device)))
    return tmp_path


def picture(path, size=(90, 60), seed=0, mode="RGB", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return str(path)


def film(path, size=(64, 48), frames=5, code="MJPG", rate=10):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, size)
    generator = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    writer.release()
    return str(path)


def detect(*arguments, phrases="cat . remote control ."):
    return main(["detect", *map(str, arguments), "--phrases", phrases, *LOW])


def files(folder="detections"):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def document(folder="detections"):
    return json.loads((Path(folder) / "detections.json").read_text("utf-8"))


def interrupt_at(monkeypatch, number, act):
    """Call `act` when the detector is called for the `number`th time."""
    calls, real = [], gd.Detector.__call__

    def call(self, *arguments, **options):
        calls.append(1)
        if len(calls) == number:
            act()
        return real(self, *arguments, **options)

    monkeypatch.setattr(gd.Detector, "__call__", call)


def ctrl_c():
    raise KeyboardInterrupt


def unexpected(errors):
    """Lines of standard error but the one that says, once, that there is no compiler."""
    return [line for line in errors.splitlines() if not line.startswith("gdino_lib: no compiler")]


def test_a_whole_run_is_the_detectors_answer_in_three_formats(work, capsys, model):
    names = [picture("a.png"), picture("b.png", (50, 70), 1)]
    assert detect("a.png", "b.png", "--nms", "0.5", "--top-k", 4) == 0
    assert files() == TABLES | set(names)
    found = [gd.Detector(model)(n, ["cat", "remote control"], 0.1, 0.1, 0.5, 4) for n in names]
    data = document()
    assert data["phrases"] == ["cat", "remote control"]
    assert data["complete"] is True
    assert data["failed"] == []
    for image, expected in zip(data["images"], found, strict=True):
        boxes = image["boxes"]
        assert np.array_equal(np.float32([box["xyxy"] for box in boxes]), expected.xyxy)
        assert np.array_equal(np.float32([box["confidence"] for box in boxes]), expected.confidence)
        assert [box["phrase"] for box in boxes] == expected.data["class_name"].tolist()
    assert [(image["width"], image["height"]) for image in data["images"]] == [(90, 60), (50, 70)]

    dataset = coco.read("detections/detections.coco.json")
    table = csv_table.read("detections/detections.csv")
    for records in (dataset, table):
        assert [image.file_name for image in records.images] == names
        for image, expected in zip(records.images, found, strict=True):
            assert np.allclose([box.xyxy for box in image.boxes], expected.xyxy, atol=1e-4)
            assert [box.label for box in image.boxes] == expected.data["class_name"].tolist()
    scores = [[box.extra["score"] for box in image.boxes] for image in dataset.images]
    assert scores == [[box["confidence"] for box in image["boxes"]] for image in data["images"]]
    assert dataset.categories == ("cat", "remote control")
    with pytest.raises(ValueError, match=r"gdino detect's own JSON; detections\.coco\.json beside it is the COCO file"):
        coco.read("detections/detections.json")

    captured = capsys.readouterr()
    assert unexpected(captured.err) == []
    lines = captured.out.splitlines()
    assert lines[-1] == "8 boxes in 2 files; written to detections"
    assert [line.split(": ")[0] for line in lines[:-1]] == names
    assert sum(int(part.split()[0]) for line in lines[:-1] for part in line.split(": ")[1].split(", ")) == 8
    original, drawn = np.asarray(Image.open("a.png")), np.asarray(Image.open("detections/a.png"))
    assert original.shape == drawn.shape
    assert (original != drawn).any()


def test_nothing_found_is_a_result(work, capsys):
    picture("a.png")
    assert main(["detect", "a.png", "--phrases", "cat", "--box-threshold", "1", "--text-threshold", "1"]) == 0
    assert capsys.readouterr().out == "a.png: nothing found\n0 boxes in 1 file; written to detections\n"
    assert len(coco.read("detections/detections.coco.json").images) == 1
    assert Path("detections/detections.csv").read_text() == ",".join(csv_table.COLUMNS) + "\n"
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("detections/a.png")))


def test_folders_patterns_and_files_each_once(work):
    for name in ("in/b/x.jpg", "in/a/x.jpg", "in/a/y.PNG", "in/.hidden/z.png", "in/.z.png", "other/q.gif"):
        picture(name)
    Path("in/notes.txt").write_text("no image")
    Path("in/a/[1].png").write_bytes(Path("in/a/y.PNG").read_bytes())
    out = work / "detections"

    def names(*inputs):
        found, useless = find_input_files(inputs, out)
        assert useless == []
        return [file.name for file in found]

    everything = ["a/[1].png", "a/x.jpg", "a/y.PNG", "b/x.jpg"]
    assert names("in") == names("in", "in/a/x.jpg", "./in/a") == everything
    assert names("in/*") == [*everything, "notes.txt"] == names("in/**"), "as a shell would read it"
    assert names("in/**/*.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert names("in/a/[1].png") == ["[1].png"]
    assert names("other/q.gif", "in/b/x.jpg") == ["other/q.gif", "in/b/x.jpg"]
    assert names("in/a") == ["[1].png", "x.jpg", "y.PNG"]
    picture("in/results/old.png")
    assert "results/old.png" not in [file.name for file in find_input_files(["in"], work / "in" / "results")[0]]


def test_names_never_collide(work):
    inputs = [
        picture("a/x.jpg"),
        picture("b/x.jpg"),
        picture("b/X.jpg", seed=1),
        picture("b/x.gif"),
        picture("b/x.gif.png"),
    ]
    if len(list(Path("b").iterdir())) < 4:
        pytest.skip("this file system does not tell letter case apart")
    assert detect(*inputs) == 0
    assert files() == TABLES | {"a/x.jpg", "b/x.jpg", "b/X-2.jpg", "b/x.gif.png", "b/x.gif-2.png"}
    assert [image["name"] for image in document()["images"]] == inputs
    assert len(coco.read("detections/detections.coco.json").images) == 5


def test_names_of_every_script_survive(work, capsys):
    names = ["with space.png", "кошка.png", "猫 🐈.png", "é" * 90 + ".png", "-dash.png", "100%.png", "[a].png"]
    if os.name == "posix":
        names += ["a\nb.png", "back\\slash.png", os.fsdecode(b"latin\xe9.png"), "x" * 251 + ".png"]
    for name in names:
        picture(f"in/{name}")
    assert detect("in", phrases="猫 . cat") == 0
    recorded = {image["name"] for image in document()["images"]}
    assert {"with space.png", "кошка.png", "猫 🐈.png", "[a].png"} < recorded
    assert len(recorded) == len(names)
    assert len(files()) == len(names) + 3
    assert {image.file_name for image in coco.read("detections/detections.coco.json").images} == recorded
    assert {image.file_name for image in csv_table.read("detections/detections.csv").images} == recorded
    assert len(capsys.readouterr().out.splitlines()) == len(names) + 1


def test_odd_images(work):
    picture("one.png", (1, 1))
    picture("wide.jpg", (3000, 3))
    picture("grey.png", mode="L")
    picture("alpha.webp", mode="RGBA")
    Image.new("L", (10_000, 9_500)).save("large.png")  # PIL warns of it
    picture("turned.jpg", (90, 60), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detect(".", "--out", "found") == 0
    sizes = {image["name"]: (image["width"], image["height"]) for image in document("found")["images"]}
    assert sizes["turned.jpg"] == (60, 90), "upright, as drawn"
    assert Image.open("found/turned.jpg").size == (60, 90)
    assert sizes["large.png"] == (10_000, 9_500)
    Image.new("RGB", (65_600, 1)).save("long.png")
    shutil.move("long.png", "long.jpg")  # longer than any JPEG
    assert detect("long.jpg") == 0
    assert Image.open("detections/long.jpg").format == "PNG"


def test_unreadable_files_are_named_and_the_rest_goes_on(work, capsys):
    good = picture("good.png")
    Path("bad.jpg").write_bytes(b"no image")
    Path("empty.png").touch()
    Path("cut.png").write_bytes(Path(good).read_bytes()[:500])
    Path("nothing").mkdir()
    assert detect("missing.png", "bad.jpg", "empty.png", good, "cut.png", "nothing", "*.tif", "") == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: '") for line in lines)
    assert {line.split("'")[1] for line in lines} == {
        "missing.png",
        "bad.jpg",
        "empty.png",
        "cut.png",
        "nothing",
        "*.tif",
        "",
    }
    assert len(lines) == len(document()["failed"]) == 7
    assert files() == {*TABLES, good}


def test_none_readable_writes_nothing(work, capsys):
    Path("bad.jpg").write_bytes(b"no image")
    assert detect("missing.png", "bad.jpg") == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 2
    assert captured.out == ""
    assert [path.name for path in work.iterdir()] == ["bad.jpg"]


def test_a_pipe_is_not_waited_for(work, capsys):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo("pipe.png")
    assert detect("pipe.png") == 2
    assert "pipe or a device" in capsys.readouterr().err


def test_results_are_replaced_only_when_asked(work, capsys):
    picture("a.png")
    picture("b.png")
    assert detect("a.png") == 0
    before = Path("detections/detections.json").read_bytes()
    assert detect("b.png") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert Path("detections/detections.json").read_bytes() == before
    assert detect("b.png", "--overwrite") == 0
    assert files() == {*TABLES, "b.png"}
    Path("detections/mine.txt").write_text("not a result")
    capsys.readouterr()
    assert detect("a.png", "--overwrite") == 2
    assert capsys.readouterr().err == (
        "error: 'detections' holds more than results ('mine.txt'); choose another folder with --out\n"
    )
    picture("photographs/holiday.png")
    assert detect("a.png", "--out", "photographs", "--overwrite") == 2
    assert Path("photographs/holiday.png").exists()
    assert detect("a.png", "--out", ".", "--overwrite") == 2
    assert {path.name for path in work.iterdir()} == {"a.png", "b.png", "detections", "photographs"}


def test_phrases_from_a_file_keep_their_dots(work, capsys):
    picture("a.png")
    Path("names.txt").write_text("St. Bernard\n\n  hot dog \r\ncat\n", "utf-8")
    assert main(["detect", "a.png", "--phrases-file", "names.txt", *LOW]) == 0
    assert document()["phrases"] == ["St. Bernard", "hot dog", "cat"]
    assert read_phrases(["cat. dog", "bus"], None) == ["cat", "dog", "bus"]
    assert main(["detect", "a.png", "--phrases-file", "missing.txt"]) == 2
    assert capsys.readouterr().err == "error: there is no file missing.txt\n"


def test_commas_belong_to_phrases_and_a_note_says_so(work, capsys):
    picture("a.png")
    assert detect("a.png", phrases="cat, dog") == 0
    assert document()["phrases"] == ["cat, dog"]
    assert capsys.readouterr().err == 'note: "cat, dog" is one phrase; "." divides phrases, "," does not\n'
    Path("names.txt").write_text("cat, dog", "utf-8")
    assert main(["detect", "a.png", "--phrases-file", "names.txt", "--overwrite"]) == 0
    assert capsys.readouterr().err == "", "a file's line is a phrase, and says so itself"


def test_one_box_in_one_file(work, capsys):
    picture("a.png")
    assert detect("a.png", "--top-k", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 box in 1 file; written to detections"


def test_inputs_that_are_not_there_say_what_they_may_be(work, capsys):
    Path("empty").mkdir()
    assert detect("*.jpg", "emp*", "control", "gone.png") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: '*.jpg': this pattern matches no file"
    assert "holds no image and no film" in lines[1] or "no image and no film in this folder" in lines[1]
    assert '(a word of a phrase? "remote control" takes quotes)' in lines[2]
    assert lines[3] == "error: 'gone.png': no such file; expected an image, a folder, a film or a pattern"


def test_thresholds_that_validation_chose(work, capsys, model):
    picture("a.png")
    Thresholds(0.2, {"cat": 0.3}, {}).save("own.json")
    Thresholds(1.0, {}, {}).save("small.thresholds.json")
    Path("small.pth").touch()
    assert main(["detect", "a.png", "--phrases", "cat . dog", "--thresholds", "own.json"]) == 0
    expected = gd.Detector(model)("a.png", ["cat", "dog"], thresholds=Thresholds.load("own.json"))
    assert len(expected) == len(document()["images"][0]["boxes"])
    assert document()["settings"]["thresholds"]["classes"] == {"cat": 0.3}
    assert capsys.readouterr().err == ""
    saved = ["--model", "small.pth", "--thresholds", "saved", "--overwrite"]
    assert main(["detect", "a.png", "--phrases", "cat . dog", *saved]) == 0
    assert document()["images"][0]["boxes"] == []
    assert capsys.readouterr().err == "note: no phrase has a threshold of its own; all take the default, 1\n"


def found_at(xyxy, names, confidence=0.5):
    return sv.Detections(
        xyxy=np.float32(xyxy),
        confidence=np.full(len(xyxy), confidence, dtype=np.float32),
        class_id=np.arange(len(xyxy)),
        data={"class_name": np.array(names)},
    )


@pytest.mark.parametrize("size", [(40, 30), (640, 480), (3000, 2000), (2000, 12)])
def test_boxes_and_labels_stand_out_whatever_they_lie_on(size):
    width, height = size
    box = [[width * 0.2, height * 0.4, width * 0.8, height * 0.9]]
    for colour in ("black", "white", sv.ColorPalette.DEFAULT.by_idx(0).as_rgb()):
        image = Image.new("RGB", size, colour)
        drawn = draw_detections(image, found_at(box, ["cat"]))
        changed = (np.asarray(drawn) != np.asarray(image)).any(-1)
        assert drawn.size == size
        middle = width // 2
        sides = changed[:, middle].nonzero()[0]
        assert abs(sides[-1] - box[0][3]) <= max(3, min(size) / 100), "the lower side, as thick as the picture takes"
        assert not changed[round(height * 0.65) : round(height * 0.8), middle].any() or height < 30, (
            "the thing stays seen"
        )


def test_text_can_be_read_on_every_colour():
    """At least 4.5 : 1, which WCAG 2 asks of text."""

    def luminance(colour):
        shares = [value / 255 for value in colour.as_rgb()]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for colour in sv.ColorPalette.DEFAULT.colors:
        dark, light = sorted((luminance(colour), luminance(_contrast(colour))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_letters_that_no_font_has_become_numbers(monkeypatch):
    monkeypatch.setattr("gdino_lib.detect.drawing.FONTS", FONTS[:1])
    _fonts.cache_clear()
    image, box = Image.new("RGB", (200, 100)), [[20, 40, 90, 90], [110, 40, 190, 90]]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        drawn = draw_detections(image, found_at(box, ["café ёж", "猫"]))
    _fonts.cache_clear()
    assert [str(one.message) for one in said] == ["no font here has the letters of '猫': its boxes are labelled #1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(drawn, draw_detections(image, found_at(box, ["café ёж", "#1"])))
        assert np.array_equal(drawn, draw_detections(image, found_at(box, ["café\t \u200bёж\x07", "#1"]))), (
            "what nobody sees is left out"
        )


def test_repeated_phrases_and_unknown_ones(work, capsys):
    picture("a.png")
    picture("b.png")
    assert detect("a.png", "b.png", phrases="cat . cat . Cat . 😀") == 0
    assert coco.read("detections/detections.coco.json").categories == ("cat", "Cat", "😀")
    assert capsys.readouterr().err == (
        "warning: phrase 3, '😀', has no word that the model knows: its boxes mean nothing\n"
    ), "once"


@pytest.mark.parametrize("replacing", [False, True])
def test_ctrl_c_keeps_what_was_done_but_never_for_an_older_result(work, capsys, monkeypatch, replacing):
    for name in "abc":
        picture(f"in/{name}.png")
    if replacing:
        assert detect("in/a.png") == 0
        before = Path("detections/detections.json").read_bytes()
    interrupt_at(monkeypatch, 3, ctrl_c)
    capsys.readouterr()
    assert detect("in", "--overwrite") == 130
    err = capsys.readouterr().err
    assert {path.name for path in work.iterdir()} == {"in", "detections"}
    if replacing:
        assert err == "interrupted after 2 of 3 files; detections stays as it was\n"
        assert Path("detections/detections.json").read_bytes() == before
    else:
        assert err == "interrupted after 2 of 3 files; what was done is in detections\n"
        assert files() == TABLES | {"a.png", "b.png"}
        assert document()["complete"] is False
        assert len(coco.read("detections/detections.coco.json").images) == 2


def test_interrupted_at_the_first_file_leaves_nothing(work, capsys, monkeypatch):
    picture("a.png")
    interrupt_at(monkeypatch, 1, ctrl_c)
    assert detect("a.png") == 130
    assert capsys.readouterr().err == "interrupted; nothing half-written is left\n"
    assert [path.name for path in work.iterdir()] == ["a.png"]


def test_an_interrupt_while_a_picture_is_written_leaves_no_part_of_it(work, monkeypatch):
    for name in "abc":
        picture(f"in/{name}.png")
    real = Image.Image.save

    def save_half(self, path, *arguments, **options):
        real(self, path, *arguments, **options)
        if Path(path).name == "b.png":
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save_half)
    assert detect("in") == 130
    assert files() == {*TABLES, "a.png"}


def test_sigterm_keeps_what_was_done(work, monkeypatch):
    for name in "abc":
        picture(f"in/{name}.png")
    interrupt_at(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        detect("in")
    assert end.value.code == 143
    assert files() == {*TABLES, "a.png"}


def test_a_full_disk_leaves_nothing(work, capsys, monkeypatch):
    picture("a.png")
    picture("b.png")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(coco, "write", full)
    assert detect("a.png", "b.png") == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert {path.name for path in work.iterdir()} == {"a.png", "b.png"}


def test_a_reader_who_has_seen_enough_does_not_end_the_work(work, monkeypatch):
    picture("a.png")
    picture("b.png")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert detect("a.png", "b.png") == 0
    assert files() == TABLES | {"a.png", "b.png"}


def test_progress_is_for_terminals(work, capsys, monkeypatch):
    picture("a.png")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert detect("a.png") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("loading nano (drawn pictograms only; for photographs --model tiny) ...\n")
    assert "1/1" in captured.err
    assert captured.out.splitlines()[-1].endswith("written to detections")


def test_a_killed_process_leaves_no_result_and_the_next_one_clears_up(work, model):
    save(model, "small.safetensors")
    for number in range(120):
        picture(f"in/{number:03}.png", (400, 300), number)
    command = [
        sys.executable,
        "-m",
        "gdino_lib.cli.main",
        "detect",
        "in",
        "--phrases",
        "cat",
        "--model",
        "small.safetensors",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *LOW], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not Path(".detections.partial/002.png").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    lines, errors = process.communicate()
    assert "in/000.png: " in lines
    assert unexpected(errors) == [], "no progress bar in a pipe"
    assert Path(".detections.partial").exists()
    assert not Path("detections").exists()
    assert detect("in/11*.png") == 0
    assert not Path(".detections.partial").exists()
    assert len(files()) == 13


def test_a_film_becomes_a_film_and_a_line_a_frame(work, capsys, model):
    cv2 = pytest.importorskip("cv2")
    film("film.avi")
    picture("a.png")
    assert detect("film.avi", "a.png", "--top-k", 3) == 0
    assert files() == TABLES | {"a.png", "film.avi.mp4", "film.avi.mp4.jsonl"}
    (entry,) = document()["films"]
    assert (entry["frames"], entry["fps"], entry["width"], entry["height"]) == (5, 10, 64, 48)
    lines = [json.loads(line) for line in Path("detections/film.avi.mp4.jsonl").read_text("utf-8").splitlines()]
    assert [line["frame"] for line in lines] == list(range(5))
    assert lines[4]["seconds"] == 0.4
    assert sum(entry["counts"].values()) == sum(len(line["boxes"]) for line in lines) == 15
    capture = cv2.VideoCapture("film.avi")
    drawn = cv2.VideoCapture("detections/film.avi.mp4")
    for line in lines:
        frame = capture.read()[1]
        expected = gd.Detector(model)(frame[..., ::-1].copy(), ["cat", "remote control"], 0.1, 0.1, None, 3)
        assert np.array_equal(np.float32([box["xyxy"] for box in line["boxes"]]), expected.xyxy)
        assert drawn.read()[1].shape == frame.shape
    assert not drawn.read()[0]
    assert "film.avi: 5 frames, " in capsys.readouterr().out
    assert [image.file_name for image in coco.read("detections/detections.coco.json").images] == ["a.png"]


def test_odd_and_damaged_films(work, capsys):
    film("odd.mp4", (65, 49), 3, "mp4v")
    film("one.avi", (64, 48), 1)
    Path("bad.mp4").write_bytes(b"no film")
    Path("cut.mp4").write_bytes(Path("odd.mp4").read_bytes()[:200])
    assert detect("bad.mp4", "odd.mp4", "cut.mp4", "one.avi") == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert [entry["frames"] for entry in document()["films"]] == [3, 1]
    assert files() == TABLES | {"odd.mp4", "odd.mp4.jsonl", "one.avi.mp4", "one.avi.mp4.jsonl"}


def test_a_film_of_an_odd_rate_is_written(work):
    """The codec refuses 119.983 frames a second, as a slow-motion film of a telephone has them."""
    film("slow.avi", rate=119.983)
    assert detect("slow.avi") == 0
    assert document()["films"][0]["fps"] == pytest.approx(119.983, abs=1e-3)


def test_a_film_that_cannot_be_written_costs_no_other_file(work, capsys):
    picture("a.png")
    film("thin.avi", (1, 48), 2)
    assert detect("a.png", "thin.avi") == 1
    assert "'thin.avi': OpenCV cannot" in capsys.readouterr().err
    assert files() == {*TABLES, "a.png"}


def test_an_interrupted_film_leaves_no_part_of_it(work, monkeypatch):
    picture("a.png")
    film("film.avi")
    interrupt_at(monkeypatch, 3, ctrl_c)
    assert detect("a.png", "film.avi") == 130
    assert files() == {*TABLES, "a.png"}


def test_films_without_opencv_say_what_to_install(work, capsys, monkeypatch):
    Path("film.mp4").write_bytes(b"")
    picture("a.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert detect("film.mp4", "a.png") == 1
    assert capsys.readouterr().err == "error: 'film.mp4': films need OpenCV: pip install opencv-python-headless\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--phrases", "cat"], "required: IMAGE"),
        (["a.png"], "one of the arguments --phrases --phrases-file is required"),
        (["a.png", "--phrases", " . "], "no phrases; expected some"),
        (["a.png", "--phrases", "a\x07"], "one line of text"),
        (["a.png", "--phrases", "cat " * 300], "has 300 tokens; expected at most 253"),
        (
            ["a.png", "--phrases", "cat", "--box-threshold", "nan"],
            "--box-threshold: expected a number in 0..1, got 'nan'",
        ),
        (["a.png", "--phrases", "cat", "--nms", "two"], "--nms: expected a number in 0..1, got 'two'"),
        (["a.png", "--phrases", "cat", "--top-k", "0"], "--top-k: expected a whole number of at least 1, got '0'"),
        (["a.png", "--phrases", "cat", "--device", "abacus"], "device: expected auto, cpu, cuda, cuda:1 or mps, got"),
        (["a.png", "--phrases", "cat", "--device", "meta"], "device: 'meta' cannot be used here"),
        (["a.png", "--phrases", "cat", "--thresholds", "none.json"], "none.json: no such file, expected thresholds"),
        (["a.png", "--phrases", "cat", "--thresholds", "t", "--box-threshold", "0"], "give one or the other"),
        (["a.png", "--phrases", "cat", "--dtype", "int8"], "--dtype: invalid choice"),
        (["a.png", "--phrases", "cat", "--out", "a.png"], "'a.png' is a file; expected a folder"),
        (["a.png", "--phrases", "cat", "--out", "/"], "name a folder inside it"),
    ],
)
def test_usage_errors_are_one_line(work, capsys, arguments, message):
    picture("a.png")
    assert status(["detect", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert [path.name for path in work.iterdir()] == ["a.png"]


def test_a_model_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture("a.png")
    assert main(["detect", "a.png", "--phrases", "cat", "--model", "missing.pth"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_too_little_memory_on_the_device_costs_one_image(work, capsys, monkeypatch):
    def out_of_memory():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    picture("a.png")
    picture("b.png")
    interrupt_at(monkeypatch, 1, out_of_memory)
    assert detect("a.png", "b.png") == 1
    assert capsys.readouterr().err == "error: 'a.png': the device has too little memory\n"
    assert files() == {*TABLES, "b.png"}


def test_too_little_memory_for_all_leaves_earlier_results(work, monkeypatch):
    def out_of_memory():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    picture("a.png")
    assert detect("a.png") == 0
    before = document()
    interrupt_at(monkeypatch, 1, out_of_memory)
    assert detect("a.png", "--overwrite") == 2
    assert document() == before
    assert not Path(".detections.partial").exists()


def status(arguments):
    """Exit status; argparse leaves by an exception."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


# ---- a thousand inputs ----------------------------------------------------------------------------------------------------

GOOD, BAD = True, False
PROMPTS = [
    (text, GOOD)
    for text in (
        *(
            "cat . dog",
            "cat",
            "CAT.Dog.cat",
            "a/b, c; d?",
            "naïve café",
            "猫 . кошка",
            "😀",
            "\u200b",
            "\u202eright to left",
        ),
        *(
            "[SEP] . [PAD] . [UNK]",
            "'\"$(x)`",
            "'; DROP TABLE",
            "%s {}",
            "x" * 10_000,
            "a" * 101 + " cat",
            "cat\n.\tdog .",
        ),
        " . ".join(f"thing {n}" for n in range(90)),
    )
]
PROMPTS += [
    (text, BAD)
    for text in (
        *("", " ", ".", " . . .", "\n", "a\x00b", "a\x07b", "cat\ndog", "cat\tdog"),
        *("\ud800", "cat . \udcff", "\u2028x\u2028y"),
    )
]
PROMPTS.append(("cat " * 2_500, "late"))  # refused when the model is there, and so after inputs that are missing
NUMBERS = [("0", GOOD), ("1", GOOD), ("0.5", GOOD), ("1e-3", GOOD), (" .2 ", GOOD), ("-0", GOOD), ("\u0660", GOOD)] + [
    (text, BAD)
    for text in ("nan", "inf", "-inf", "-1", "2", "1e400", "1.0000001", "x", "", "0,5", "0x1", "1_", "--", "½")
]
COUNTS = [("1", GOOD), ("3", GOOD), ("1" * 30, GOOD)] + [
    (text, BAD) for text in ("0", "-3", "x", "1.5", "", "nan", "9" * 5_000)
]


def huge_header(side):
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


def odd_images(folder, rng):
    """Files and what is known of them: path -> readable. Damaged ones are judged by `read_image`."""
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    contents = {}
    for form, modes in {
        "PNG": ["RGB", "L", "LA", "RGBA", "P", "1", "I;16"],
        "JPEG": ["RGB", "L", "CMYK"],
        "TIFF": ["RGB", "CMYK", "F", "I;16", "LAB"],
        "GIF": ["P"],
        "BMP": ["RGB"],
        "WEBP": ["RGB", "RGBA"],
        "PPM": ["RGB"],
    }.items():
        for mode in modes:
            file = io.BytesIO()
            whole = Image.new("I;16", (50, 40), 999) if mode == "I;16" else image.convert(mode)
            if mode == "LAB":
                whole = Image.merge("LAB", image.split())
            whole.save(file, form)
            contents[form, mode.replace(";", "")] = file.getvalue()
    whole = list(contents.items())
    for number in range(120):
        (form, _), data = rng.choice(whole)
        damaged = bytearray(data[: rng.randrange(len(data) + 1)] if number % 2 else data)
        if number % 3 == 0:
            for _ in range(rng.randrange(1, 30)):
                damaged and damaged.__setitem__(rng.randrange(len(damaged)), rng.randrange(256))
        contents[form, f"damaged{number}"] = bytes(damaged)
    for number in range(30):
        contents["PNG", f"garbage{number}"] = rng.randbytes(rng.choice([0, 1, 7, 100, 5_000]))
    for side in (20_000, 60_000, 2**31 - 1, 0):
        contents["PNG", f"header{side}"] = huge_header(side)
    for size in ((1, 1), (1, 300), (300, 1), (2, 2)):
        file = io.BytesIO()
        image.resize(size).save(file, "PNG")
        contents["PNG", f"size{size[0]}x{size[1]}"] = file.getvalue()
    extensions = ["png", "jpg", "JPEG", "tiff", "gif", "bmp", "webp", "txt", "", "mp4.png", "jpg.exe"]
    readable = {}
    for number, ((form, name), data) in enumerate(contents.items()):
        extra = rng.choice(["", " with space", "猫", "😀", "[x]", "%d", "'", "\n", "x" * 150, "-"])
        path = folder / f"{form}{name}{extra}{number}.{rng.choice(extensions)}"
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_image(path)
            readable[str(path)] = GOOD
        except ValueError:
            readable[str(path)] = BAD
    assert 40 < sum(readable.values()) < len(readable) - 40
    return readable


def odd_folders(work, out_number):
    """Arguments for --out, and whether something can be put there."""
    fresh = f"out/{out_number}"
    return [
        *[(fresh, GOOD)] * 6, (f"{fresh}/deep/er", GOOD), (f"{fresh} 猫\n", GOOD), (f"out/../out/./{out_number}/", GOOD),
        ("file.txt", BAD), ("file.txt/x", BAD), ("", BAD), ("a\0b", BAD), ("full", BAD), ("x" * 300, BAD), ("x" * 252, BAD),
        (".", BAD), ("/", BAD), ("loop/x", BAD),
    ]  # fmt: skip


def test_a_thousand_odd_inputs(work, capsys):
    rng = random.Random(4)
    readable = odd_images(work / "images", rng)
    missing = [
        "nowhere.png",
        "",
        "a\0b.png",
        "no/*.jpg",
        "empty",
        "x" * 300 + ".png",
        "[",
        "**/none*",
        "images/x\ud800",
    ]
    good, bad = ([path for path, kind in readable.items() if kind is wanted] for wanted in (GOOD, BAD))
    Path("empty").mkdir()
    Path("file.txt").write_text("mine")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    os.symlink("loop", "loop")
    Path("bad.mp4").write_bytes(b"no film")
    before = {path.relative_to(work) for path in work.rglob("*")}
    seen = {0: 0, 1: 0, 2: 0}
    for number in range(1_000):
        fine = number % 2  # half of the runs have odd files only, and options that are fine
        lost = rng.sample(missing, rng.choice([0, 0, 0, 1, 2]))
        unreadable = rng.sample([*bad, "bad.mp4"], rng.choice([0, 0, 1, 2]))
        inputs = lost + unreadable + rng.sample(good, rng.choice([0, 1, 1, 2]) if lost or unreadable else 1)
        rng.shuffle(inputs)

        def choose(options, fine=fine):
            return rng.choice([option for option in options if option[1] is GOOD or not fine])

        prompt, prompt_kind = choose(PROMPTS)
        out, out_kind = choose(odd_folders(work, number))
        arguments = [f"--phrases={prompt}", f"--out={out}"]
        kinds = [prompt_kind is not BAD, out_kind]
        for flag, options, odds in (
            ("box-threshold", NUMBERS, 0.4), ("text-threshold", NUMBERS, 0.2), ("nms", NUMBERS, 0.2), ("top-k", COUNTS, 0.2),
        ):  # fmt: skip
            if rng.random() < odds:
                value, kind = choose(options)
                arguments.append(f"--{flag}={value}")
                kinds.append(kind)
        if number % 5 == 0 and out_kind is not GOOD:
            arguments.append("--overwrite")
        case = f"case {number}: {inputs!r} {arguments!r}"[:600]
        try:
            ended = status(["detect", *arguments, "--", *inputs])
        except Exception as error:
            raise AssertionError(case) from error
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert all(line.startswith(("error: ", "warning: ", "note: ")) for line in lines), (case, lines)
        assert len(lines) == captured.err.count("\n"), (case, lines)

        found = len(inputs) - len(lost)
        if not all(kinds):
            expected, count = 2, 1
        elif prompt_kind == "late" and found:
            expected, count = 2, len(lost) + 1
        else:
            count = len(lost) + len(unreadable)
            expected = 0 if count == 0 else 2 if count == len(inputs) else 1
        assert (ended, len(errors)) == (expected, count), (case, lines)
        seen[ended] += 1
        if ended == 2:
            assert captured.out == "", case
        else:
            assert files(out) > TABLES, case
            images = document(out)["images"]
            assert files(out) == TABLES | {image["drawn"] for image in images}, case
            assert len(images) == len(inputs) - count, case
            assert len(coco.read(Path(out) / "detections.coco.json").images) == len(images), case
            csv_table.read(Path(out) / "detections.csv")
            shutil.rmtree(out)
    shutil.rmtree("out")
    assert {path.relative_to(work) for path in work.rglob("*")} == before, "nothing is left of what failed"
    assert Path("full/mine.txt").read_text() == Path("file.txt").read_text() == "mine"
    assert min(seen.values()) > 100, seen
