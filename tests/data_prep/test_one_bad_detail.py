"""A fault affects only the image, box or field that it is in: the rest is read, the fault is named, the exit status is 1.

Each image of the data set has two boxes. A fault in one image makes a reader leave out the image, its second box, or no box. The
property holds for every list of faults: no fault hides another, and no fault makes a reader leave out more than necessary.
"""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_files import voc_xml

from data_prep.__main__ import main
from data_prep.formats import csv_table

LEFT = {"image": None, "box": 1, "nothing": 2}  # what is left out -> number of boxes of the image that are read


def coco_bbox(bbox):
    return lambda image, box: box.update(bbox=bbox)


def coco_image(**fields):
    return lambda image, box: image.update(fields)


def coco_box(**fields):
    return lambda image, box: box.update(fields)


COCO_FAULTS = {
    "bbox []": ("box", coco_bbox([])),
    "bbox of three": ("box", coco_bbox([1, 2, 3])),
    "bbox with NaN": ("box", coco_bbox([1, 2, float("nan"), 3])),
    "bbox with a huge number": ("box", coco_bbox([1, 2, 10**400, 3])),
    "bbox of texts": ("nothing", coco_bbox(["1", "2", "3.5", "4"])),
    "bbox of words": ("box", coco_bbox(["1", "two", "3", "4"])),
    "polygon without bbox": (
        "box",
        lambda image, box: (box.pop("bbox"), box.update(segmentation=[[1, 2, 3, 4, 5, 6]])),
    ),
    "unknown image": ("box", coco_box(image_id=999)),
    "unknown category": ("box", coco_box(category_id=999)),
    "image id is a list": ("box", coco_box(image_id=[1])),
    "area NaN": ("nothing", coco_box(area=float("inf"))),
    "area a text": ("nothing", coco_box(area="12.5")),
    "area a word": ("nothing", coco_box(area="large")),
    "flag a text": ("nothing", coco_box(iscrowd="0")),
    "id a float": ("nothing", lambda image, box: box.update(id=float(box["id"]))),
    "id null": ("nothing", coco_box(id=None)),
    "id twice": ("nothing", lambda image, box: box.update(id=box["id"] - 1)),
    "image id a text": ("nothing", lambda image, box: box.update(image_id=str(box["image_id"]))),
    "image id a float": ("nothing", lambda image, box: image.update(id=float(image["id"]))),
    "category id a text": ("nothing", lambda image, box: box.update(category_id=str(box["category_id"]))),
    "width a text": ("nothing", coco_image(width="40")),
    "width a float": ("nothing", coco_image(width=40.0)),
    "width 0": ("image", coco_image(width=0)),
    "width a fraction": ("image", coco_image(width=40.5)),
    "no height": ("image", lambda image, box: image.pop("height")),
    "no name": ("image", lambda image, box: image.pop("file_name")),
    "name null": ("image", coco_image(file_name=None)),
    "control character": ("image", coco_image(file_name="a\x1b[31m.jpg")),
    "backslashes": ("nothing", lambda image, box: image.update(file_name="images\\" + image["file_name"])),
    "Windows path": ("nothing", lambda image, box: image.update(file_name="C:\\me\\" + image["file_name"])),
    "absolute path": ("nothing", lambda image, box: image.update(file_name="/home/me/" + image["file_name"])),
    "path out of the folder": ("nothing", lambda image, box: image.update(file_name="../../" + image["file_name"])),
    "LVIS": ("nothing", lambda image, box: image.update(coco_url=f"http://x/val2017/{image.pop('file_name')}")),
    "caption a number": ("nothing", coco_image(caption=5)),
    "unpaired surrogate": ("nothing", coco_box(note=["\ud83d"])),
    "unpaired surrogate in a name": ("nothing", coco_box(**{"\ud83d": 1})),
}


def write_coco(path, faults):
    images, annotations = [], []
    for number in range(len(faults) + 1):
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30})
        for place in (2, 3):
            box = {"id": 10 * number + place, "image_id": number, "category_id": 1, "bbox": [place, 2, 3, 4]}
            annotations.append(box)
        if number:
            faults[number - 1](images[-1], annotations[-1])
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(document))


def odvg_instance(**fields):
    return lambda line: line["detection"]["instances"][1].update(fields)


ODVG_FAULTS = {
    "bbox []": ("box", odvg_instance(bbox=[])),
    "bbox with NaN": ("box", odvg_instance(bbox=[1, 2, float("nan"), 4])),
    "bbox of texts": ("nothing", odvg_instance(bbox=["1", "2", "5", "6"])),
    "another category": ("box", odvg_instance(category="dog")),
    "no category": ("box", lambda line: line["detection"]["instances"][1].pop("category")),
    "label a text": ("nothing", odvg_instance(label="0")),
    "label negative": ("box", odvg_instance(label=-1)),
    "field NaN": ("nothing", odvg_instance(score=float("nan"))),
    "instance a number": ("box", lambda line: line["detection"]["instances"].__setitem__(1, 5)),
    "no instances": ("image", lambda line: line["detection"].pop("instances")),
    "no kind": ("image", lambda line: line.pop("detection")),
    "no name": ("image", lambda line: line.pop("filename")),
    "width a text": ("nothing", lambda line: line.update(width="40")),
    "height missing": ("image", lambda line: line.pop("height")),
    "backslashes": ("nothing", lambda line: line.update(filename="images\\" + line["filename"])),
    "absolute path": ("nothing", lambda line: line.update(filename="/home/me/" + line["filename"])),
    "unpaired surrogate": ("nothing", odvg_instance(note="\ud83d")),
    "unpaired surrogate in a name": ("nothing", odvg_instance(**{"\ud83d": 1})),
    "truncated": ("image", lambda line: line.update(cut=True)),
}


def write_odvg(path, faults):
    lines = []
    for number in range(len(faults) + 1):
        instances = [{"bbox": [place, 2, 9, 9], "label": 0, "category": "cat"} for place in (2, 3)]
        line = {"filename": f"{number}.jpg", "width": 40, "height": 30, "detection": {"instances": instances}}
        if number:
            faults[number - 1](line)
        lines.append(json.dumps(line)[: -9 if line.get("cut") else None])
    path.write_text("\n".join(lines))


def csv_field(column, text):
    return lambda rows: rows[1].__setitem__(csv_table.COLUMNS.index(column), text)


CSV_FAULTS = {
    "word": ("box", csv_field("bbox_x1", "left")),
    "NaN": ("box", csv_field("bbox_y2", "nan")),
    "infinite number": ("box", csv_field("bbox_y2", "1e400")),
    "no label": ("box", csv_field("label_name", "")),
    "another size": ("box", csv_field("image_width", "41")),
    "fraction of a pixel": ("box", csv_field("image_width", "40.5")),
    "too few fields": ("box", lambda rows: rows[1].pop()),
    "too many fields": ("box", lambda rows: rows[1].append("5")),
    "backslashes": ("nothing", lambda rows: [row.__setitem__(5, "images\\" + row[5]) for row in rows]),
    "absolute path": ("nothing", lambda rows: [row.__setitem__(5, "/home/me/" + row[5]) for row in rows]),
    "no name": ("image", lambda rows: [row.__setitem__(5, "") for row in rows]),
}


def write_csv(path, faults):
    lines = [",".join(csv_table.COLUMNS)]
    for number in range(len(faults) + 1):
        rows = [["cat", str(place), "2", "9", "9", f"{number}.jpg", "40", "30"] for place in (2, 3)]
        if number:
            faults[number - 1](rows)
        lines += [",".join(row) for row in rows]
    path.write_text("\n".join(lines))


def in_xml(old, new, last=True):
    def spoil(xml):
        head, found, tail = xml.rpartition(old) if last else xml.partition(old)
        return f"{head}{new}{tail}" if found else xml

    return spoil


DEEP = "<a>" * 3000 + "</a>" * 3000
VOC_FAULTS = {
    "no bndbox": (
        "box",
        lambda xml: xml[: xml.rindex("<bndbox>")] + "<polygon><x1>1</x1></polygon></object></annotation>",
    ),
    "no label": ("box", in_xml("<name>cat</name>", "")),
    "two labels": ("box", in_xml("<name>cat</name>", "<name>cat</name><name>dog</name>")),
    "word": ("box", in_xml("<xmin>3<", "<xmin>left<")),
    "NaN": ("box", in_xml("<xmin>3<", "<xmin>nan<")),
    "corner twice": ("box", in_xml("<xmin>3<", "<xmin>4</xmin><xmin>3<")),
    "nested 3,000 deep": ("nothing", in_xml("</annotation>", f"{DEEP}</annotation>")),
    "nested in an object": ("nothing", in_xml("</object>", f"{DEEP}</object>")),
    "Windows path": ("nothing", in_xml("<filename>", "<filename>C:\\me\\", last=False)),
    "absolute path": ("nothing", in_xml("<filename>", "<filename>/home/me/", last=False)),
    "path out of the folder": ("nothing", in_xml("<filename>", "<filename>../../", last=False)),
    "another folder": ("nothing", in_xml("<filename>", "<filename>images/", last=False)),
    "invalid JSON": ("nothing", in_xml("</annotation>", '<id data_prep="json">{</id></annotation>')),
    "truncated": ("image", lambda xml: xml[:-30]),
    "another element": ("image", lambda xml: "<html/>"),
    "entities": ("image", lambda xml: '<!DOCTYPE a [<!ENTITY x "y">]>' + xml),
}


def write_voc(path, faults):
    path.mkdir()
    for number in range(len(faults) + 1):
        xml = voc_xml(f"{number}.jpg", objects=[("cat", (place, 2, 9, 9)) for place in (2, 3)])
        (path / f"{number}.xml").write_text(faults[number - 1](xml) if number else xml)


FORMATS = {
    "coco": (COCO_FAULTS, write_coco, "a.json"),
    "odvg": (ODVG_FAULTS, write_odvg, "a.jsonl"),
    "csv": (CSV_FAULTS, write_csv, "a.csv"),
    "voc": (VOC_FAULTS, write_voc, "annotations"),
}
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


@pytest.mark.parametrize("name", FORMATS)
def test_audit_lists_all_faults_at_once(tmp_path, capsys, name):
    faults, write, file = FORMATS[name]
    write(tmp_path / file, [spoil for _, spoil in faults.values()])
    (tmp_path / "images").mkdir()
    for number in range(len(faults) + 1):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / f"{number}.jpg")
    before = (tmp_path / file).read_bytes() if name != "voc" else b""
    command = ["audit", "--data", str(tmp_path / file), "--images", str(tmp_path / "images")]
    assert main([*command, "--out", str(tmp_path / "report")]) == 1
    found = json.loads((tmp_path / "report" / "audit.json").read_text())["findings"]
    assert len([each for each in found if each["action"] in ("skipped", "mended")]) >= len(faults)
    assert before == ((tmp_path / file).read_bytes() if name != "voc" else b"")
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
