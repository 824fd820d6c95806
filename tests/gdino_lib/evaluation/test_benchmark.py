"""`run_benchmark`: every data set from its files to its figures; interrupted, continued, and shared by two processes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_detectors import COLOURS, RECORDS, BlindDetector, draw
from published_files import write_coco, write_coco_set, write_flickr, write_lvis, write_refcoco
from rich.console import Console
from understanding import Understanding

import data_prep
import gdino_lib as gd
from data_prep.formats import coco
from gdino_lib.evaluation import benchmark
from gdino_lib.evaluation.benchmark import run_benchmark
from gdino_lib.evaluation.published_sets import SETS, Choice

HELPERS = Path(__file__).parents[2] / "helpers"


def write_folder(root):
    for name in ("one", "two", "three"):
        write_coco_set(root / name)


WRITERS = {
    "coco": write_coco,
    "lvis": write_lvis,
    "folder": write_folder,
    "refcoco": write_refcoco,
    "flickr30k": write_flickr,
}


class Blind(BlindDetector, Understanding):
    """Finds nothing."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Measure with a stand-in detector; gives the content of the JSON file, and what was printed."""
    (tmp_path / "weights.safetensors").write_bytes(b"weights")

    def measure(name, detector, file="figures.json", overwrite=False, **more):
        root = tmp_path / name
        if not root.exists():
            root.mkdir()
            WRITERS[name](root)
        monkeypatch.setattr(gd.Detector, "from_pretrained", lambda model, device, dtype: detector)
        choice = Choice(name, root, SETS[name].splits[0], **more)
        console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        weights = tmp_path / "weights.safetensors"
        run_benchmark(choice, weights, tmp_path / file, command="gdino eval", overwrite=overwrite, console=console)
        return json.loads((tmp_path / file).read_text("utf-8")), console.export_text()

    return measure


def headline(name, figures):
    if name == "folder":
        return figures["mean_ap"]
    if name == "flickr30k":
        return figures["any_box"]["recall"]["all"]["1"]
    return figures["accuracy" if name == "refcoco" else "ap"]


@pytest.mark.parametrize("name", WRITERS)
def test_perfect_boxes_give_1_and_none_give_0(run, tmp_path, name):
    document, printed = run(name, Understanding())
    assert headline(name, document["figures"]) == pytest.approx(1)
    assert "1.000" in printed
    document, _ = run(name, Blind(), "blind.json")
    assert headline(name, document["figures"]) == 0
    document, _ = run(name, Understanding(shift=25), "beside.json")
    assert headline(name, document["figures"]) == 0
    left = {"figures.json", "blind.json", "beside.json", "weights.safetensors", name}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_what_the_json_says(run, tmp_path):
    document, _ = run("coco", Understanding())
    assert document["command"] == "gdino eval"
    assert document["model"] == {
        "name": str(tmp_path / "weights.safetensors"),
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert document["dataset"]["name"] == "coco"
    assert document["dataset"]["split"] == "val2017"
    expected = {"prompts": "names", "names_per_prompt": None, "dtype": "float32", "device": "cpu"}
    assert expected.items() <= document["settings"].items()
    assert document["versions"]["gdino_lib"] == gd.__version__
    assert document["versions"].keys() >= {"python", "torch", "numpy"}
    assert document["machine"]["processes"] == 1
    assert document["date"].endswith("+00:00")
    figures = document["figures"]
    assert (figures["images"], figures["objects"]) == (5, 6)
    assert [entry["name"] for entry in figures["classes"]] == list(COLOURS)


def test_the_figures_of_lvis(run):
    """The first picture is annotated for red alone, so that a green square found there counts for nothing."""

    class Inventive(Understanding):
        def find(self, image, phrases):
            found = super().find(image, phrases)
            is_first = len(found) == 1 and found.data["class_name"][0] == "red square"
            if is_first:
                found = type(found).merge([found, found])
                found.class_id = np.array([phrases.index("red square"), phrases.index("green square")])
                found.data["class_name"] = np.array(["red square", "green square"])
            return found

    figures, printed = run("lvis", Inventive())
    figures = figures["figures"]
    assert [figures[name] for name in ("ap", "ap_rare", "ap_common", "ap_frequent")] == [pytest.approx(1)] * 4
    assert "ap_rare" in printed


def test_the_mean_and_the_median_over_sets(run, tmp_path):
    write_folder(tmp_path / "folder")
    draw([replace(record, boxes=()) for record in RECORDS], tmp_path / "folder" / "two" / "valid")
    document, printed = run("folder", Understanding())
    figures = document["figures"]
    assert {name: own["ap"] for name, own in figures["sets"].items()} == {"one": 1, "two": 0, "three": 1}
    assert (figures["mean_ap"], figures["median_ap"]) == (pytest.approx(2 / 3), 1)
    assert "median" in printed


def test_several_prompts_give_the_same_figures(run):
    whole, _ = run("coco", Understanding(shift=2))
    parts, _ = run("coco", Understanding(shift=2), "parts.json", names_per_prompt=1)
    assert whole["figures"] == parts["figures"]
    assert 0.3 < whole["figures"]["ap"] < 1


def test_what_exists_stays(run, tmp_path):
    run("coco", Understanding())
    before = (tmp_path / "figures.json").read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        run("coco", Blind())
    assert (tmp_path / "figures.json").read_bytes() == before
    document, _ = run("coco", Blind(), overwrite=True)
    assert document["figures"]["ap"] == 0
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        run("coco", Blind(), "none/figures.json")


class Interrupted(Understanding):
    """Stops at its second part."""

    def find(self, image, phrases):
        self.images += 1
        if self.images > 2:
            raise KeyboardInterrupt
        return super().find(image, phrases)


def test_an_interrupted_run_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PART", 2)
    whole, _ = run("coco", Understanding(shift=2), "whole.json")
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; the same command continues from .*figures\.json\.parts"):
        run("coco", Interrupted(shift=2))
    assert sorted(path.name for path in (tmp_path / "figures.json.parts").iterdir()) == ["0-0.npz", "about.json"]
    assert not (tmp_path / "figures.json").exists()
    counting = Interrupted(shift=2)
    counting.images = -99
    again, _ = run("coco", counting)
    assert counting.images == -99 + 3, "two of five images were found before"
    assert again["figures"] == whole["figures"]
    assert not (tmp_path / "figures.json.parts").exists()


def test_stored_parts_of_other_data_or_weights_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PART", 2)
    with pytest.raises(KeyboardInterrupt):
        run("coco", Interrupted())
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"others")
    with pytest.raises(FileExistsError, match="unfinished results of another run, which differs in model"):
        run("coco", Understanding())
    weights.write_bytes(b"weights")
    with pytest.raises(FileExistsError, match="which differs in settings"):
        run("coco", Understanding(), names_per_prompt=2)
    picture = next((tmp_path / "coco" / "val2017").iterdir())
    data = picture.read_bytes()
    picture.write_bytes(data + b"\0")
    with pytest.raises(FileExistsError, match="which differs in dataset"):
        run("coco", Understanding())
    picture.write_bytes(data)
    document, _ = run("coco", Understanding())
    assert document["figures"]["ap"] == pytest.approx(1)


def test_a_second_run_into_the_same_file_is_refused(run, tmp_path):
    from data_prep.atomic import only_writer

    with (
        only_writer(tmp_path / "figures.json"),
        pytest.raises(BlockingIOError, match="another run is writing there"),
    ):
        run("coco", Understanding())


def test_a_device_by_name_is_for_one_process(monkeypatch):
    class Two:
        num_processes = 2

    monkeypatch.setattr("accelerate.PartialState", lambda **_: Two())
    with pytest.raises(ValueError, match="for several processes expected auto or cpu, got 'cuda:0'"):
        benchmark._processes("cuda:0")


SCRIPT = """
import sys
sys.path.insert(0, {helpers!r})
from pathlib import Path
from understanding import Understanding
import gdino_lib as gd
from gdino_lib.evaluation import benchmark
from gdino_lib.evaluation.published_sets import Choice

name, seconds = sys.argv[1], float(sys.argv[2])
here = Path({here!r})
benchmark.PART = 3
gd.Detector.from_pretrained = lambda model, device, dtype: Understanding(shift=2, seconds=seconds)
choice = Choice("folder", here / "sets", "valid")
benchmark.run_benchmark(choice, here / "weights.safetensors", here / name, device="cpu")
"""


def many_pictures(folder, count):
    """A COCO set of that many pictures, of several kinds."""
    records = [replace(RECORDS[n % 5], file_name=f"{n:03d}.png") for n in range(count)]
    (folder / "valid").mkdir(parents=True)
    draw(records, folder / "valid")
    dataset = data_prep.Dataset(tuple(records), tuple(COLOURS))
    coco.write(dataset, folder / "valid" / "annotations_without_background.json")


@pytest.fixture
def script(tmp_path):
    for name, count in (("one", 20), ("two", 10)):
        many_pictures(tmp_path / "sets" / name, count)
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    path = tmp_path / "measure.py"
    path.write_text(SCRIPT.format(helpers=str(HELPERS), here=str(tmp_path)))
    return path


def start(command, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_killed_and_shared_runs_give_the_figures_of_one(script, tmp_path):
    finish(start([sys.executable, script, "whole.json", 0]))
    whole = json.loads((tmp_path / "whole.json").read_text("utf-8"))
    assert 0.3 < whole["figures"]["mean_ap"] < 1

    killed = start([sys.executable, script, "killed.json", 0.1])
    folder, deadline = tmp_path / "killed.json.parts", time.monotonic() + 60
    while len(list(folder.glob("*.npz"))) < 3 and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    stored = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert 3 <= len(stored) < 11, "of 7 + 4 parts"

    # two processes continue what one began
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", script]
    finish(start([*launch, "killed.json", 0]))
    assert not folder.exists()
    finish(start([*launch, "two.json", 0]))
    for name in ("killed.json", "two.json"):
        document = json.loads((tmp_path / name).read_text("utf-8"))
        assert document["figures"] == whole["figures"], name
        assert document["dataset"] == whole["dataset"]
        assert document["machine"]["processes"] == 2
