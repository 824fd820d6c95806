"""`gdino eval --dataset`: options, one line for what is wrong, and the figures of a real model by two processes."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from command_line import one_line
from published_files import write_coco, write_coco_set, write_flickr, write_lvis, write_refcoco
from understanding import Understanding

import gdino_lib as gd
from gdino_lib.cli import eval_dataset
from gdino_lib.cli.main import main
from gdino_lib.evaluation.published_sets import PROMPTS, SETS


@pytest.fixture
def perfect(tmp_path, monkeypatch):
    """The path of a model that finds every square."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(gd.Detector, "from_pretrained", lambda name, device, dtype: Understanding())
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model.safetensors"


def run(*arguments, status=0):
    assert main(["eval", *map(str, arguments)]) == status


def test_the_names_are_those_of_the_library():
    assert tuple(SETS) == eval_dataset.NAMES
    assert PROMPTS == eval_dataset.PROMPTS


def test_figures(perfect, tmp_path, capsys):
    write_coco(tmp_path / "my coco")
    options = ["--dataset", "coco", "--root", tmp_path / "my coco", "--model", perfect, "--json", tmp_path / "a.json"]
    run(*options, "--device", "cpu", "--names-per-prompt", 2)
    printed = capsys.readouterr().out
    assert "ap50" in printed
    assert "1.000" in printed
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert document["figures"]["ap"] == pytest.approx(1)
    words = shlex.split(document["command"])
    assert words[:4] == ["gdino", "eval", "--dataset", "coco"]
    assert words[words.index("--root") + 1] == str(tmp_path / "my coco")
    assert words[words.index("--names-per-prompt") + 1] == "2"
    assert words[words.index("--device") + 1] == "cpu"
    assert "--split" not in words
    run(*words[2:], "--overwrite")  # the command can be repeated
    again = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert again["figures"] == document["figures"]


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("lvis", write_lvis, "ap_rare"),
        ("refcoco", write_refcoco, "accuracy"),
        ("flickr30k", write_flickr, "merged boxes"),
        ("folder", lambda root: write_coco_set(root / "squares"), "squares"),
    ],
)
def test_the_tables(perfect, tmp_path, capsys, name, write, words):
    write(tmp_path / name)
    run("--dataset", name, "--root", tmp_path / name, "--model", perfect, "--json", tmp_path / "a.json")
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "coco", "--json", "a.json"], "--dataset needs --root DIR, the folder of the data set"),
        (["--dataset", "coco", "--root", "."], "--dataset needs --json FILE, which will have the figures"),
        (["--dataset", "coco", "--root", ".", "--json", "a.json", "--compare", "b"], "--compare goes with --data, not"),
        (["--dataset", "coco", "--root", ".", "--json", "a.json", "--thresholds-out"], "--thresholds-out goes with"),
        (["--data", "a.csv"], "a.csv does not name the folder of its images; --images DIR is needed, too"),
        (["--data", "a.csv", "--images", ".", "--root", "."], "--root goes with --dataset, not with --data"),
        (["--data", "a.csv", "--images", ".", "--names-per-prompt", "3"], "--names-per-prompt goes with --dataset"),
        (
            ["--dataset", "coco", "--root", "none", "--json", "a.json"],
            "none: no such folder, expected the data set coco",
        ),
        (
            ["--dataset", "coco", "--root", ".", "--json", "a.json", "--split", "x"],
            "split: coco has val2017, train2017",
        ),
        (["--dataset", "coco", "--root", ".", "--json", "no/a.json"], "the folder no does not exist"),
    ],
)
def test_one_line_for_what_is_wrong(perfect, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    run(*options, "--model", perfect, status=2)
    assert words in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one of the arguments --data --dataset is required"),
        (["--dataset", "voc"], "invalid choice: 'voc'"),
        (["--dataset", "coco", "--data", "a.csv"], "not allowed with argument"),
        (["--dataset", "coco", "--names-per-prompt", "0"], "expected a whole number of at least 1"),
    ],
)
def test_the_parser_says_so_too(capsys, options, words):
    with pytest.raises(SystemExit):
        main(["eval", "--model", "nano", *options])
    assert words in one_line(capsys)


def test_a_wrong_file_gives_one_line(perfect, tmp_path, capsys):
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    options = ["--dataset", "coco", "--root", tmp_path, "--model", perfect, "--json", tmp_path / "a.json"]
    file.write_text("{")
    run(*options, status=2)
    assert "instances_val2017.json" in one_line(capsys)
    file.unlink()
    run(*options, status=2)
    assert "there is no file" in one_line(capsys)
    write_coco(tmp_path)
    (tmp_path / "val2017" / "000000000003.jpg").unlink()
    run(*options, status=2)
    assert "000000000003.jpg': no such file, expected an image" in one_line(capsys)
    (tmp_path / "val2017" / "000000000003.jpg").write_bytes(b"no image")
    run(*options, status=2)
    assert "000000000003.jpg" in one_line(capsys)
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("name", "package", "line"),
    [
        ("coco", "accelerate", "accelerate not installed; pip install 'gdino_lib[train]'"),
        ("lvis", "faster_coco_eval", "faster_coco_eval not installed; pip install 'gdino_lib[train]'"),
    ],
)
def test_a_package_that_is_missing(perfect, tmp_path, capsys, monkeypatch, name, package, line):
    monkeypatch.setattr("gdino_lib.cli.options.find_spec", lambda module: None if module == package else module)
    run("--dataset", name, "--root", tmp_path, "--model", perfect, "--json", tmp_path / "a.json", status=2)
    assert one_line(capsys) == f"error: {line}\n"


@pytest.mark.slow
def test_accelerate_launch_gives_the_figures_of_one_process(tmp_path):
    """The embedded model on sets of squares and on one of sentences, alone and by two processes that share the images."""
    for name in "abcd":
        write_coco_set(tmp_path / "folder" / name)
    write_flickr(tmp_path / "flickr30k")
    # --multi_gpu: accelerate starts several processes on a CPU through MPI only; --device cpu then keeps them there
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "-m", "gdino_lib"]
    documents = {}
    for name in ("folder", "flickr30k"):
        for count, program in ((1, ["-m", "gdino_lib"]), (2, launch)):
            target = tmp_path / f"{name}-{count}.json"
            options = ["eval", "--dataset", name, "--root", tmp_path / name, "--json", target, "--device", "cpu"]
            command = [sys.executable, *program, *map(str, options), "--model", "nano"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            documents[name, count] = json.loads(target.read_text("utf-8"))
            assert documents[name, count]["machine"]["processes"] == count
        assert documents[name, 1]["figures"] == documents[name, 2]["figures"]
    assert 0.5 < documents["folder", 2]["figures"]["mean_ap"] < 1
    assert 0.5 < documents["flickr30k", 2]["figures"]["any_box"]["recall"]["all"]["1"] < 1
