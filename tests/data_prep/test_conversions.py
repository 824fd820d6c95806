"""The commands `X-to-Y` and `audit`, run as a user runs them."""

import json

import pytest
from command_line import one_line

from data_prep.__main__ import main
from data_prep.formats import csv_table
from data_prep.records import Dataset


def test_every_pair_of_formats_converts(voc_folder, tmp_path):
    voc_folder.add("a", objects=[("cat", (1, 2, 11, 12)), ("dog", (0, 0, 5, 5))])
    paths = {
        "voc": voc_folder.annotations,
        "csv": tmp_path / "a.csv",
        "coco": tmp_path / "a.json",
        "odvg": tmp_path / "a.jsonl",
    }
    assert main(["voc-to-coco", str(paths["voc"]), str(paths["coco"])]) == 0
    assert main(["coco-to-csv", str(paths["coco"]), str(paths["csv"])]) == 0
    assert main(["csv-to-odvg", str(paths["csv"]), str(paths["odvg"])]) == 0
    expected = paths["csv"].read_bytes()
    for source in ("coco", "odvg"):
        assert main([f"{source}-to-csv", str(paths[source]), str(paths["csv"]), "--overwrite"]) == 0
        assert paths["csv"].read_bytes() == expected
        for target in ("voc", "coco", "odvg"):
            if source != target:
                assert main([f"{source}-to-{target}", str(paths[source]), str(tmp_path / f"{source}-{target}")]) == 0


def test_a_label_map_is_replaced_only_when_asked(voc_folder, tmp_path, capsys):
    voc_folder.add("a", objects=[("cat", (1, 2, 11, 12))])
    path = tmp_path / "a_label_map.json"
    path.write_text('{"0": "mine"}')
    command = ["voc-to-odvg", str(voc_folder.annotations), str(tmp_path / "a.jsonl")]
    assert main(command) == 2
    assert f"{path} exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.glob("a*.json*")] == [path.name]
    assert path.read_text() == '{"0": "mine"}'
    assert main([*command, "--overwrite"]) == 0
    assert json.loads(path.read_text()) == {"0": "cat"}


def test_fields_without_a_column_are_named(voc_folder, tmp_path, capsys):
    voc_folder.add("a")
    main(["voc-to-coco", str(voc_folder.annotations), str(tmp_path / "a.json")])
    capsys.readouterr()
    assert main(["coco-to-csv", str(tmp_path / "a.json"), str(tmp_path / "a.csv")]) == 0
    note = capsys.readouterr().err
    assert note.startswith("note: csv has no column for ")
    assert "difficult (1)" in note


@pytest.mark.parametrize("target", ["odvg", "voc"])
def test_fields_of_the_whole_set_are_dropped_with_a_note(tmp_path, capsys, target):
    coco_file = {"info": {"year": 2017}, "images": [], "annotations": [], "categories": [], "licenses": [{"id": 1}]}
    (tmp_path / "a.json").write_text(json.dumps(coco_file))
    assert main([f"coco-to-{target}", str(tmp_path / "a.json"), str(tmp_path / "out")]) == 0
    assert f"note: {target} has no place for info (1), licenses (1)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.csv", "x.CSV", "x.jsonl"])
def test_an_output_name_with_the_suffix_of_another_format_is_refused(voc_folder, tmp_path, capsys, name):
    voc_folder.add("a")
    assert main(["voc-to-coco", str(voc_folder.annotations), str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == f"error: cannot write {tmp_path / name}: voc-to-coco writes a .json file\n"
    assert not (tmp_path / name).exists()


def test_the_names_of_all_written_files_are_printed(voc_folder, tmp_path, capsys):
    voc_folder.add("a")
    assert main(["voc-to-odvg", str(voc_folder.annotations), str(tmp_path / "a.jsonl")]) == 0
    names = f"{tmp_path / 'a.jsonl'} and {tmp_path / 'a_label_map.json'}"
    assert capsys.readouterr().out == f"1 image, 1 box written to {names}\n"
    assert main(["odvg-to-coco", str(tmp_path / "a.jsonl"), str(tmp_path / "a.json")]) == 0
    assert capsys.readouterr().out == f"1 image, 1 box written to {tmp_path / 'a.json'}\n"


def test_an_output_file_is_kept_unless_asked(voc_folder, tmp_path, capsys):
    voc_folder.add("a")
    (tmp_path / "a.json").write_text("mine")
    assert main(["voc-to-coco", str(voc_folder.annotations), str(tmp_path / "a.json")]) == 2
    one_line(capsys)
    assert (tmp_path / "a.json").read_text() == "mine"


def test_a_folder_of_annotations_is_replaced_only_when_asked_and_when_it_holds_nothing_else(
    voc_folder, tmp_path, capsys
):
    voc_folder.add("a")
    main(["voc-to-coco", str(voc_folder.annotations), str(tmp_path / "a.json")])
    command = ["coco-to-voc", str(tmp_path / "a.json"), str(tmp_path / "out")]
    assert [main(command), main(command), main([*command, "--overwrite"])] == [0, 2, 0]
    (tmp_path / "out" / "thesis.txt").touch()
    capsys.readouterr()
    assert main([*command, "--overwrite"]) == 2
    assert "thesis.txt, which no run wrote" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").exists()


@pytest.mark.parametrize("kind", ["voc", "csv", "coco", "odvg"])
def test_audit_reads_every_format(voc_folder, tmp_path, capsys, kind):
    voc_folder.add("a", objects=[("cat", (1, 2, 41, 12))])
    data = {
        "voc": voc_folder.annotations,
        "csv": tmp_path / "a.csv",
        "coco": tmp_path / "a.json",
        "odvg": tmp_path / "a.jsonl",
    }
    main(["voc-to-coco", str(voc_folder.annotations), str(data["coco"])])
    main(["coco-to-csv", str(data["coco"]), str(data["csv"])])
    main(["coco-to-odvg", str(data["coco"]), str(data["odvg"])])
    command = [
        "audit",
        "--data",
        str(data[kind]),
        "--images",
        str(voc_folder.images),
        "--out",
        str(tmp_path / "report"),
    ]
    before = data[kind].read_bytes() if data[kind].is_file() else b""
    capsys.readouterr()
    assert main(command) == 0
    assert "the data set is unchanged" in capsys.readouterr().out
    assert before == (data[kind].read_bytes() if data[kind].is_file() else b"")
    assert json.loads((tmp_path / "report" / "audit.json").read_text())["counts"]["box outside"] == 1
    (voc_folder.images / "a.jpg").unlink()
    (voc_folder.images / "b.jpg").write_bytes(b"")
    assert main([*command, "--overwrite"]) == 1


@pytest.mark.parametrize("there", ["audit.json", "audit.txt"])
def test_a_report_is_replaced_only_when_asked(tmp_path, capsys, there):
    csv_table.write(Dataset(), tmp_path / "a.csv")
    (tmp_path / there).write_text("mine")
    command = ["audit", "--data", str(tmp_path / "a.csv"), "--out", str(tmp_path)]
    assert main(command) == 2
    error = one_line(capsys)
    assert f"{there} exists" in error
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", there}
    assert (tmp_path / there).read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "audit.json", "audit.txt"}


def test_an_odvg_file_may_have_the_suffix_odvg(voc_folder, tmp_path, capsys):
    voc_folder.add("a")
    assert main(["voc-to-odvg", str(voc_folder.annotations), str(tmp_path / "a.odvg")]) == 0
    assert main(["audit", "--data", str(tmp_path / "a.odvg"), "--out", str(tmp_path / "report")]) == 0
    assert main(["voc-to-coco", str(voc_folder.annotations), str(tmp_path / "b.odvg")]) == 2
    assert "b.odvg: voc-to-coco writes a .json file" in capsys.readouterr().err


def test_audit_refuses_unknown_suffixes_and_missing_options(tmp_path, capsys):
    assert main(["audit", "--data", str(tmp_path / "a.txt"), "--out", str(tmp_path)]) == 2
    one_line(capsys)
    assert main(["audit", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "--images DIR is needed" in capsys.readouterr().err
