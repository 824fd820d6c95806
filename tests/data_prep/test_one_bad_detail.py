"""A fault affects only the image, box or field that it is in: the rest is read, the fault is named, the exit status is 1.

Each image of the data set has two boxes. A fault in one image makes a reader leave out the image, its second box, or no box. The
property holds for every list of faults: no fault hides another, and no fault makes a reader leave out more than necessary.
"""

import json
import os

import pytest
from bad_details import FORMATS, write_coco, write_odvg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_files import voc_xml

from data_prep.__main__ import main
from data_prep.formats import csv_table

LEFT = {"image": None, "box": 1, "nothing": 2}  # what is left out -> number of boxes of the image that are read


SETS = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(st.sampled_from(sorted(FORMATS[name][0])), min_size=1, max_size=5))
)
ALL = [(name, [fault]) for name, (faults, _, _) in FORMATS.items() for fault in faults]


def counts(dataset):
    """{number in the name of an image: number of its boxes}."""
    return {image.file_name.rpartition("/")[2].removesuffix(".jpg"): len(image.boxes) for image in dataset.images}


def check(folder, capsys, name, chosen):
    faults, write, file = FORMATS[name]
    write(folder / file, [faults[fault][1] for fault in chosen])
    expected = {"0": 2} | {str(n): LEFT[faults[fault][0]] for n, fault in enumerate(chosen, start=1)}
    expected = {image: boxes for image, boxes in expected.items() if boxes is not None}
    target, suffix = ("coco", "json") if name in ("csv", "voc") else ("csv", "csv")
    command = [f"{name}-to-{target}", str(folder / file)]
    read_back = csv_table.read if target == "csv" else read_coco

    assert main([*command, str(folder / f"out.{suffix}")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if not line.startswith("note: ")]) >= len(chosen)
    assert counts(read_back(folder / f"out.{suffix}")) == expected

    assert main([*command, str(folder / f"strict.{suffix}"), "--strict"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (folder / f"strict.{suffix}").exists()
    return said


def read_coco(path):
    from data_prep.formats import coco

    return coco.read(path)


@pytest.mark.parametrize(("name", "chosen"), ALL, ids=[f"{name}: {chosen[0]}" for name, chosen in ALL])
def test_a_fault_affects_only_the_detail_that_it_is_in(tmp_path, capsys, name, chosen):
    check(tmp_path, capsys, name, chosen)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SETS)
def test_no_fault_hides_another(tmp_path_factory, capsys, chosen):
    check(tmp_path_factory.mktemp("faults"), capsys, *chosen)


def contents(path):
    """{path: bytes} of a file, or of all files of a folder."""
    files = sorted(path.rglob("*.*")) if path.is_dir() else [path]
    return {file: file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("name", FORMATS)
def test_audit_lists_all_faults_at_once(tmp_path, capsys, name):
    faults, write, file = FORMATS[name]
    write(tmp_path / file, [spoil for _, spoil in faults.values()])
    (tmp_path / "images").mkdir()
    for number in range(len(faults) + 1):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / f"{number}.jpg")
    before = contents(tmp_path / file)
    command = ["audit", "--data", str(tmp_path / file), "--images", str(tmp_path / "images")]
    assert main([*command, "--out", str(tmp_path / "report")]) == 1
    found = json.loads((tmp_path / "report" / "audit.json").read_text())["findings"]
    assert len([each for each in found if each["action"] in ("skipped", "mended")]) >= len(faults)
    assert before == contents(tmp_path / file)
    assert "\x1b" not in capsys.readouterr().out


def odd_files(folder):
    """Create entries of a folder that look like annotation files and cannot be read; return their names in findings."""
    (folder / "folder.xml").mkdir()
    (folder / "dangling.xml").symlink_to("nowhere.xml")
    os.mkfifo(folder / "pipe.xml")
    with open(os.fsencode(folder) + b"/caf\xe9.xml", "wb") as file:
        file.write(voc_xml("cafe.jpg").encode())
    return {"folder.xml", "dangling.xml", "pipe.xml", "caf\\udce9.xml"}


@pytest.mark.skipif(os.name != "posix", reason="pipes and names that are not UTF-8")
def test_an_entry_that_is_not_a_file_is_left_out_alone(voc_folder, tmp_path, capsys):
    voc_folder.add("a").add("b")
    names = odd_files(voc_folder.annotations)
    folders = ["--images", str(voc_folder.images), "--annotations", str(voc_folder.annotations)]
    assert main(["voc-to-csv", *folders, "--out", str(tmp_path / "out"), "--train", "2"]) == 1
    found = json.loads((tmp_path / "out" / "audit.json").read_text())["findings"]
    assert {each["file"] for each in found if each["kind"] == "annotation unreadable"} == names
    assert counts(csv_table.read(tmp_path / "out" / "train" / "annotations.csv")) == {"a": 1, "b": 1}
    assert main(["voc-to-csv", *folders, "--out", str(tmp_path / "strict"), "--train", "2", "--strict"]) == 2
    assert main(["voc-to-coco", str(voc_folder.annotations), str(tmp_path / "a.json")]) == 1
    assert counts(read_coco(tmp_path / "a.json")) == {"a": 1, "b": 1}
    capsys.readouterr()


ROOT = {"id": 0, "name": "animals", "supercategory": "none"}
REAL = {"id": 1, "name": "cat", "supercategory": "animals"}


@pytest.mark.parametrize("categories", [[ROOT, REAL], [ROOT | {"name": "cat"}, REAL | {"supercategory": "cat"}]])
def test_a_category_that_only_groups_others_is_not_a_class(tmp_path, capsys, categories):
    write_coco(tmp_path / "a.json", [])
    document = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document | {"categories": categories}))
    assert main(["coco-to-odvg", str(tmp_path / "a.json"), str(tmp_path / "a.jsonl")]) == 1
    assert json.loads((tmp_path / "a_label_map.json").read_text()) == {"0": "cat"}
    assert "detail mended: a.json: " in capsys.readouterr().err
    assert main(["coco-to-odvg", str(tmp_path / "a.json"), str(tmp_path / "b.jsonl"), "--strict"]) == 2


def test_boxes_with_an_ambiguous_category_are_left_out(tmp_path):
    write_coco(tmp_path / "a.json", [])
    document = json.loads((tmp_path / "a.json").read_text())
    document["categories"].append({"id": 1, "name": "dog"})
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert main(["coco-to-csv", str(tmp_path / "a.json"), str(tmp_path / "a.csv")]) == 1
    assert counts(csv_table.read(tmp_path / "a.csv")) == {"0": 0}, "cat and dog have the same id"


def test_an_object_with_a_repeated_key_is_left_out_alone(tmp_path, capsys):
    write_coco(tmp_path / "a.json", [])
    text = (tmp_path / "a.json").read_text().replace('{"id": 3,', '{"id": 3, "image_id": 1,')
    (tmp_path / "a.json").write_text(text)
    assert main(["coco-to-csv", str(tmp_path / "a.json"), str(tmp_path / "a.csv")]) == 1
    assert "the key 'image_id' occurs twice" in capsys.readouterr().err
    assert counts(csv_table.read(tmp_path / "a.csv")) == {"0": 1}


def test_a_line_with_a_byte_that_is_not_utf_8_is_left_out_alone(tmp_path, capsys):
    write_odvg(
        tmp_path / "a.jsonl", [lambda line: line.update(filename="caf?.jpg"), lambda line: line.update(note="?")]
    )
    (tmp_path / "a.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes().replace(b"?", b"\xe9"))
    assert main(["odvg-to-csv", str(tmp_path / "a.jsonl"), str(tmp_path / "a.csv")]) == 1
    assert counts(csv_table.read(tmp_path / "a.csv")) == {"0": 2, "2": 2}, (
        "the byte is in a name and in an unused field"
    )
    assert main(["odvg-to-csv", str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv"), "--strict"]) == 2
    assert "a.jsonl:2: expected UTF-8" in capsys.readouterr().err


def test_the_message_about_a_truncated_file_has_line_and_column(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"images": [{"id": NaN},\n{"id": ')
    assert main(["coco-to-csv", str(tmp_path / "a.json"), str(tmp_path / "a.csv")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'a.json'}:2:8: invalid JSON")


def test_findings_number_the_objects_as_the_file_does(voc_folder, tmp_path):
    objects = [("cat", (1, 2, 11, "x")), ("dog", (5, 5, 5, 9))]
    voc_folder.add("a", objects=objects)
    out = tmp_path / "out"
    folders = ["--images", str(voc_folder.images), "--annotations", str(voc_folder.annotations)]
    assert main(["voc-to-csv", *folders, "--out", str(out), "--train", "1"]) == 1
    found = json.loads((out / "audit.json").read_text())["findings"]
    assert [(each["kind"], each["object"]) for each in found] == [("object unreadable", 1), ("box degenerate", 2)]
