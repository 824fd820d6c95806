"""The command line of `data_prep`, run as a user runs it, and above all `voc-to-csv`."""

import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from voc_files import VocFolder, voc_xml

from data_prep import __version__
from data_prep.__main__ import main
from data_prep.formats import csv_table


def files(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def run(*arguments, **options):
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)


def voc_to_csv(folder, out, *more, train=1):
    return [
        "voc-to-csv",
        *("--images", str(folder.images), "--annotations", str(folder.annotations)),
        *("--out", str(out), "--train", str(train), *more),
    ]


def assert_one_line(error):
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_voc_to_csv_writes_tables_copies_and_a_report(voc_folder, tmp_path, capsys):
    voc_folder.add("a").add("b b, ж", objects=[('猫, "x"', (0, 0, 41, 10)), ("cat", (3, 3, 3, 9))]).add("c", objects=())
    before = files(voc_folder.images.parent)
    assert main(voc_to_csv(voc_folder, tmp_path / "out", train=2)) == 0
    assert files(voc_folder.images.parent) == before
    rows = []
    for part in ("train", "test"):
        folder = tmp_path / "out" / part
        assert {p.stem for p in (folder / "images").iterdir()} == {p.stem for p in (folder / "labels").iterdir()}
        with (folder / "annotations.csv").open(encoding="utf-8", newline="") as file:
            rows += list(csv.reader(file))[1:]
    assert sorted(rows) == [
        ["", "", "", "", "", "c.jpg", "40", "30"],
        ["cat", "1", "2", "11", "12", "a.jpg", "40", "30"],
        ['猫, "x"', "0", "0", "40", "10", "b b, ж.jpg", "40", "30"],
    ]
    report = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert (report["images"], report["objects"]) == (3, 3)
    assert report["counts"]["box outside"] == report["counts"]["box degenerate"] == 1
    assert {name: part["images"] for name, part in report["parts"].items()} == {"train": 2, "test": 1}
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "audit.txt").read_text("utf-8") in printed


def test_directory_order_changes_no_byte(tmp_path):
    results = []
    for order in (1, -1):
        folder = VocFolder(tmp_path / str(order))
        for number in range(12)[::order]:
            folder.add(f"{number}")
        main(voc_to_csv(folder, tmp_path / f"out{order}", train=7))
        results.append(files(tmp_path / f"out{order}"))
    assert results[0] == results[1]


def test_links_point_to_the_images(voc_folder, tmp_path):
    voc_folder.add("a").add("b")
    assert main(voc_to_csv(voc_folder, tmp_path / "out", "--link")) == 0
    links = list((tmp_path / "out").rglob("images/*"))
    assert len(links) == 2
    assert all(link.is_symlink() and link.resolve().parent == voc_folder.images.resolve() for link in links)


def test_a_broken_file_is_left_out_and_the_exit_status_says_so(voc_folder, tmp_path, capsys):
    voc_folder.add("a").add("b", xml="<annotation>").add("c")
    assert main(voc_to_csv(voc_folder, tmp_path / "out")) == 1
    assert "b.xml" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("b.*"))
    assert main(voc_to_csv(voc_folder, tmp_path / "strict", "--strict")) == 2
    assert_one_line(capsys.readouterr().err)
    assert not (tmp_path / "strict").exists()


def test_an_earlier_result_is_replaced_only_when_asked(voc_folder, tmp_path, capsys):
    voc_folder.add("a").add("b")
    command = voc_to_csv(voc_folder, tmp_path / "out")
    assert main(command) == 0
    first = files(tmp_path / "out")
    assert main(command) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert files(tmp_path / "out") == first
    (tmp_path / "out" / "thesis.txt").touch()
    assert main([*command, "--overwrite"]) == 2
    assert "thesis.txt, which no run wrote" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").exists()


@pytest.mark.parametrize("out", ["voc", "voc/images", "voc/images/out", "."])
def test_an_output_folder_that_overlaps_the_input_is_refused(voc_folder, tmp_path, capsys, out):
    voc_folder.add("a")
    before = files(tmp_path)
    assert main([*voc_to_csv(voc_folder, tmp_path / out), "--overwrite"]) == 2
    assert_one_line(capsys.readouterr().err)
    assert files(tmp_path) == before


@pytest.mark.parametrize("train", [-1, 3])
def test_a_count_that_does_not_fit_is_refused_in_one_line(voc_folder, tmp_path, capsys, train):
    voc_folder.add("a").add("b")
    assert main(voc_to_csv(voc_folder, tmp_path / "out", train=train)) == 2
    assert_one_line(capsys.readouterr().err)


def test_nothing_to_convert_is_an_error(voc_folder, tmp_path, capsys):
    assert main(voc_to_csv(voc_folder, tmp_path / "out")) == 2
    assert "nothing to convert" in capsys.readouterr().err
    voc_folder.write("a", voc_xml())
    assert main(voc_to_csv(voc_folder, tmp_path / "out")) == 2
    assert "could be used: a.xml: there is no image a.*, and none with the name" in capsys.readouterr().err


def test_a_path_out_of_the_folder_reaches_no_file(voc_folder, tmp_path, capsys):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    voc_folder.add("a")
    for number, name in enumerate(["../../secret.jpg", "/etc/passwd", str(tmp_path / "secret.jpg"), "..\\secret.jpg"]):
        voc_folder.write(f"escape{number}", voc_xml(name))
    assert main(voc_to_csv(voc_folder, tmp_path / "out")) == 1
    assert {p.name for p in (tmp_path / "out").rglob("*.jpg")} == {"a.jpg"}


def test_an_error_in_a_process_is_one_line_without_a_traceback(tmp_path):
    result = run(
        "voc-to-csv", "--images", tmp_path / "no", "--annotations", tmp_path, "--out", tmp_path / "o", "--train", 1
    )
    assert result.returncode == 2
    assert_one_line(result.stderr)


def test_a_full_disk_leaves_nothing(tmp_path, small_disk):
    folder = VocFolder(tmp_path / "voc")
    for number in range(40):
        folder.add(f"{number}", size=(200, 200))
    result = run(*voc_to_csv(folder, small_disk / "out"))
    assert result.returncode == 2
    assert_one_line(result.stderr)
    assert "No space left" in result.stderr
    assert list(small_disk.iterdir()) == []
    (small_disk / "kept.csv").write_text("old")
    table = tmp_path / "big.csv"
    header = "label_name,bbox_x1,bbox_y1,bbox_x2,bbox_y2,image_name,image_width,image_height\n"
    table.write_text(header + "".join(f"cat,0,0,{n},5,{n}.jpg,{n + 1},10\n" for n in range(1, 2000)))
    result = run("csv-to-coco", table, small_disk / "kept.csv", "--overwrite")
    assert result.returncode == 2
    assert_one_line(result.stderr)
    assert [(p.name, p.read_text()) for p in small_disk.iterdir()] == [("kept.csv", "old")]


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    folder = VocFolder(tmp_path_factory.mktemp("large"))
    folder.add("0", size=(300, 300))
    picture = (folder.images / "0.jpg").read_bytes()
    for number in range(1, 400):
        (folder.images / f"{number}.jpg").write_bytes(picture)
        folder.write(f"{number}", voc_xml(f"{number}.jpg", size=(300, 300)))
    return folder


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_at_any_moment_leaves_all_or_nothing(large_folder, tmp_path, how):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_prep", *voc_to_csv(large_folder, out, train=200)]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    duration = time.monotonic() - start
    whole = files(out)
    shutil.rmtree(out)

    def kill_after(seconds):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        process.send_signal(how)
        _, error = process.communicate()
        assert not out.exists() or files(out) == whole
        if how != signal.SIGKILL and process.returncode > 0:  # the signal came after Python had started
            assert "Traceback" not in error
            assert set(tmp_path.iterdir()) <= {out}  # complete, if the signal came after the last rename
        shutil.rmtree(out, ignore_errors=True)
        return process.returncode

    statuses = [kill_after(duration * n / 10) for n in random.Random(how).sample(range(3, 11), 4)]
    if how != signal.SIGKILL:
        caught = {signal.SIGTERM: 143, signal.SIGINT: 130}[how]
        early, late = 0.0, duration  # bisect for a moment in between, in case the first run was slow
        while caught not in statuses and len(statuses) < 20:
            middle = (early + late) / 2
            statuses.append(kill_after(middle))
            early, late = (early, middle) if statuses[-1] == 0 else (middle, late)
        assert set(statuses) <= {0, caught, -how}
        assert caught in statuses
    subprocess.run(command, check=True, capture_output=True)
    assert files(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_no_run_wrote_is_never_replaced(voc_folder, tmp_path, capsys):
    """Not even a folder that looks like a result."""
    voc_folder.add("a").add("b")
    for part in ("train", "test"):
        (tmp_path / "out" / part / "images").mkdir(parents=True)
        (tmp_path / "out" / part / "images" / "mine.png").touch()
    assert main([*voc_to_csv(voc_folder, tmp_path / "out"), "--overwrite"]) == 2
    assert "which no run wrote" in capsys.readouterr().err
    assert len(list((tmp_path / "out").rglob("mine.png"))) == 2


def test_images_without_boxes_are_counted_and_have_a_row(voc_folder, tmp_path):
    voc_folder.add("a").add("b", objects=()).add("c", objects=[("cat", (3, 3, 3, 9))])
    assert main(voc_to_csv(voc_folder, tmp_path / "out", train=3)) == 0
    parts = json.loads((tmp_path / "out" / "audit.json").read_text())["parts"]
    assert [parts[name]["without boxes"] for name in ("train", "test")] == [2, 0]
    table = csv_table.read(tmp_path / "out" / "train" / "annotations.csv")
    assert [(image.file_name, len(image.boxes)) for image in table.images] == [("a.jpg", 1), ("b.jpg", 0), ("c.jpg", 0)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["voc-to-cvs"], "unknown command voc-to-cvs; did you mean voc-to-csv"),
        (["zzz"], "unknown command zzz; expected one of voc-to-csv, audit, sample, "),
        ([], "the following arguments are required: COMMAND; "),
        (["voc-to-csv", "--image", "a"], "unknown option --image; did you mean --images; "),
        (
            ["csv-to-coco", "a.csv"],
            "the following arguments are required: OUTPUT; see python -m data_prep csv-to-coco --help",
        ),
        (
            ["voc-to-csv", "--images", "a", "--annotations", "b", "--out", "c", "--train", "0.7"],
            "argument --train: expected a number of images, such as 14, got '0.7'; ",
        ),
    ],
)
def test_usage_errors_are_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert error.startswith(f"error: {said}")
    assert re.search(r"; see python -m data_prep.* --help\n$", error)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"data_prep {__version__}\n")


def test_a_validation_part_does_not_change_the_test_part(voc_folder, tmp_path):
    for number in range(9):
        voc_folder.add(f"{number}")
    assert main(voc_to_csv(voc_folder, tmp_path / "two", train=6)) == 0
    assert main(voc_to_csv(voc_folder, tmp_path / "three", "--val", "2", train=4)) == 0
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        ".data_prep.json", "audit.json", "audit.txt", "train", "test",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "three").iterdir()} == {
        ".data_prep.json", "audit.json", "audit.txt", "train", "val", "test",
    }  # fmt: skip
    two, three = (
        {
            part.name: {image.file_name for image in csv_table.read(part / "annotations.csv").images}
            for part in (tmp_path / out).iterdir()
            if part.is_dir()
        }
        for out in ("two", "three")
    )
    assert three["test"] == two["test"]
    assert (len(three["train"]), len(three["val"])) == (4, 2)
    assert three["train"] | three["val"] == two["train"]
    assert {path.name for path in (tmp_path / "three" / "val" / "images").iterdir()} == three["val"]
    assert len(list((tmp_path / "three" / "val" / "labels").iterdir())) == 2
    parts = json.loads((tmp_path / "three" / "audit.json").read_text())["parts"]
    assert {name: part["images"] for name, part in parts.items()} == {"train": 4, "val": 2, "test": 3}


def test_the_readme_commands_work_on_the_sample(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "faces"]) == 0
    command = ["voc-to-csv", "--images", "faces/images", "--annotations", "faces/annotations", "--out", "faces-csv"]
    assert main([*command, "--train", "14", "--seed", "0"]) == 1  # planted faults: two files are left out
    table = "faces-csv/train/annotations.csv"
    assert main(["audit", "--data", table, "--images", "faces-csv/train/images", "--out", "report"]) == 0
    assert main(["csv-to-coco", table, "train.json"]) == 0
    assert main(["csv-to-odvg", table, "train.jsonl"]) == 0


def test_data_prep_needs_no_torch():
    """None of its modules imports torch."""
    code = """if True:
        import importlib, pkgutil, sys, data_prep
        names = [module.name for module in pkgutil.walk_packages(data_prep.__path__, "data_prep.")]
        for name in names:
            importlib.import_module(name)
        assert len(names) > 10
        assert not {"torch", "gdino_lib", "matplotlib"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_face_mask_set(face_mask_dir, tmp_path):
    command = ["voc-to-csv", "--images", face_mask_dir / "images", "--annotations", face_mask_dir / "annotations"]
    start = time.monotonic()
    result = run(*command, "--out", tmp_path / "out", "--train", 600, "--seed", 0)
    assert result.returncode == 0
    assert time.monotonic() - start < 20  # 1.5 s on an idle machine with two cores
    report = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert (report["images"], report["objects"]) == (853, 4072)
    assert {kind: n for kind, n in report["counts"].items() if n} == {"box outside": 12}
    train, test = ({p.name for p in (tmp_path / "out" / part / "images").iterdir()} for part in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (600, 253, 0)
