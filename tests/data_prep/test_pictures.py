"""Every file in a folder of images is read or named, and an image is found under all spellings of its name."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_files import voc_xml

from data_prep import pictures
from data_prep.__main__ import main
from data_prep.audit import audit, first_records
from data_prep.formats import coco, csv_table, voc
from data_prep.pictures import IMAGE_SUFFIXES, TEXT_SUFFIXES, Folder, image_path, search_images
from data_prep.records import Box, Dataset, ImageRecord, picture_key

NAMES = ["a.jpg", "b.PNG", "sub/c.jpg", "sub/deep/d.webp", "phone.heic", "raw.DNG", "sub/scan.psd", "notes", "list.txt"]
NAMES += ["a.xml", "sub/.hidden.jpg", "Thumbs.db", "e.jp2", "sub/f.jfif"]


@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_every_file_is_read_or_named_or_a_text_file(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("images")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = search_images(folder)
    named = {finding.file for finding in found.findings}
    for name in names:
        path = Path(name)
        is_read, suffix = name in found.names, path.suffix.lower()
        assert is_read == (suffix in IMAGE_SUFFIXES and not path.name.startswith("."))
        assert (name in named) == (not is_read and suffix not in TEXT_SUFFIXES and not path.name.startswith("."))


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and names that are not UTF-8")
def test_entries_that_are_not_files_are_named(tmp_path, capsys):
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.jpg").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    found = search_images(tmp_path)
    assert {(f.file, f.detail) for f in found.findings} == {
        ("link.jpg", "expected a file, got a dangling link"),
        ("pipe.png", "expected a file, got a pipe or a device"),
        ("folder.jpg", "expected a file, got a folder"),
    }
    csv_table.write(Dataset(), tmp_path / "a.csv")
    command = ["audit", "--data", str(tmp_path / "a.csv"), "--images", str(tmp_path), "--out", str(tmp_path / "report")]
    assert main(command) == 1
    report = json.loads((tmp_path / "report" / "audit.json").read_text())
    assert "caf\\udce9.jpg" in {f["file"] for f in report["findings"] if f["kind"] == "image without file"}
    capsys.readouterr()


def test_gdino_detect_uses_the_same_list_of_suffixes():
    input_files = pytest.importorskip("gdino_lib.apps.input_files")
    assert input_files.IMAGE_SUFFIXES is IMAGE_SUFFIXES


def test_sub_folders_are_read(tmp_path, capsys):
    """CVAT and other tools write sub-folders."""
    images, annotations = tmp_path / "images", tmp_path / "annotations"
    for folder in (images / "day" / "one", images / "night", annotations / "day" / "one"):
        folder.mkdir(parents=True)
    for name in ("day/one/a.jpg", "night/a.jpg", "night/b.jpg"):
        Image.new("RGB", (40, 30)).save(images / name)
    (annotations / "day" / "one" / "a.xml").write_text(voc_xml("day/one/a.jpg"))
    (annotations / "b.xml").write_text(voc_xml("b.jpg"))  # the XML file is in no sub-folder, the image is
    (annotations / "x.xml").write_text(voc_xml("night/a.jpg"))
    (annotations / "a.xml").write_text(voc_xml("a.jpg"))  # two images fit
    sources, findings = voc.read_folder(images, annotations)
    assert {source.name: source.record.file_name for source in sources} == {
        "b.xml": "night/b.jpg", "day/one/a.xml": "day/one/a.jpg", "x.xml": "night/a.jpg",
    }  # fmt: skip
    (ambiguous,) = [finding for finding in findings if finding.action == "skipped"]
    assert (ambiguous.file, ambiguous.kind) == ("a.xml", "file without image")
    command = ["voc-to-csv", "--images", str(images), "--annotations", str(annotations), "--train", "3"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    part = tmp_path / "out" / "train"
    assert (part / "images" / "day" / "one" / "a.jpg").is_file()
    assert (part / "labels" / "day" / "one" / "a.xml").is_file()
    names = {image.file_name for image in csv_table.read(part / "annotations.csv").images}
    assert names == {"day/one/a.jpg", "night/a.jpg", "night/b.jpg"}
    assert main([*command, "--out", str(tmp_path / "out"), "--overwrite"]) == 1, (
        "the result of the first run is replaced"
    )
    capsys.readouterr()


def test_sub_folders_survive_a_round_trip_through_voc(tmp_path):
    dataset = Dataset((ImageRecord("a.jpg", 4, 4), ImageRecord("sub/a.jpg", 4, 4), ImageRecord("sub/x/b.jpg", 4, 4)))
    voc.write(dataset, tmp_path / "voc")
    assert sorted(image.file_name for image in voc.read(tmp_path / "voc").images) == [
        "a.jpg",
        "sub/a.jpg",
        "sub/x/b.jpg",
    ]


@pytest.mark.parametrize(
    ("highest", "is_named"), [(2**10 - 1, True), (2**12 - 1, True), (2**16 - 1, False), (0, False)]
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_of_few_bits_are_named(tmp_path, highest, is_named, suffix):
    values = np.linspace(0, highest, 40 * 30).astype(np.uint16).reshape(30, 40)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    _, report = audit(Dataset((ImageRecord(f"a.{suffix}", 40, 30),)), tmp_path)
    assert [finding.kind for finding in report.findings] == ["image of few bits"] * is_named


# names

SPELLINGS = [
    lambda name: name,
    lambda name: f"./{name}",
    lambda name: name.replace("/", "//"),
    lambda name: name.replace("/", "/./"),
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: unicodedata.normalize("NFD", name),
]
spelled = st.sampled_from(SPELLINGS)
plain = st.sampled_from(["a.jpg", "café.jpg", "sub/über.png", "ﬁ.jpg", "한글/가.jpg"])


@given(plain, spelled, spelled)
def test_all_spellings_of_a_name_have_the_same_key(name, one, other):
    assert picture_key(one(name)) == picture_key(other(name))
    assert picture_key(name.upper(), True) == picture_key(one(name).lower(), True)


@given(plain, plain)
def test_different_names_have_different_keys(one, other):
    assert (picture_key(one) == picture_key(other)) == (one == other)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plain, spelled, spelled, spelled)
def test_an_image_is_found_under_all_spellings_of_its_name(tmp_path_factory, name, stored, first, second):
    folder = tmp_path_factory.mktemp("names")
    path = folder / stored(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)
    assert image_path(folder, first(name)).is_file()
    boxes = (Box("cat", 1, 2, 3, 4),)
    dataset = Dataset((ImageRecord(first(name), 40, 30, boxes), ImageRecord(second(name), 40, 30, boxes)))
    cleaned, report = audit(dataset, folder)
    assert [finding.kind for finding in report.findings] == ["image annotated twice"]
    assert len(cleaned.images) == 1

    csv_table.write(dataset, folder / "a.csv")
    (image,) = csv_table.read(folder / "a.csv").images
    assert len(image.boxes) == 2, "both rows belong to one image"


@given(plain, spelled, spelled)
@settings(max_examples=20, deadline=None)
def test_an_annotation_finds_its_image_under_all_spellings(tmp_path_factory, name, stored, written):
    folder = tmp_path_factory.mktemp("voc")
    image, xml = folder / "images" / stored(name), (folder / "xml" / written(name)).with_suffix(".xml")
    for path in (image, xml):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(image)
    xml.write_text(voc_xml(written(Path(name).name)))
    sources, findings = voc.read_folder(folder / "images", folder / "xml")
    assert ([source.image for source in sources], findings) == ([image], [])


def test_letter_case_is_ignored_if_the_file_system_ignores_it(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "A.JPG")
    dataset = Dataset((ImageRecord("a.jpg", 40, 30), ImageRecord("A.jpg", 40, 30)))
    assert first_records(dataset) == (dataset, []), "on other file systems these are two images"
    assert not search_images(tmp_path).ignores_case() or (tmp_path / "a.jpg").exists()
    monkeypatch.setattr(Folder, "ignores_case", lambda self: True)
    monkeypatch.setattr(pictures, "image_path", lambda folder, name: Path(folder) / "A.JPG")
    monkeypatch.setattr("data_prep.audit.image_path", lambda folder, name: Path(folder) / "A.JPG")
    cleaned, report = audit(dataset, tmp_path)
    assert [finding.kind for finding in report.findings] == ["image annotated twice"]
    assert len(cleaned.images) == 1


def test_the_first_of_two_records_of_one_image_counts_everywhere(tmp_path, capsys):
    """Audit and conversions agree."""
    image = {"file_name": "a.jpg", "width": 40, "height": 30}
    document = {
        "images": [image | {"id": 1}, image | {"id": 2, "file_name": "./a.jpg"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 3, 4]} for n in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    cleaned, report = audit(coco.read(tmp_path / "a.json"))
    assert [f.kind for f in report.findings] == ["image annotated twice"]
    assert [box.x1 for image in cleaned.images for box in image.boxes] == [1]
    assert main(["coco-to-csv", str(tmp_path / "a.json"), str(tmp_path / "a.csv")]) == 1
    assert [box.x1 for image in csv_table.read(tmp_path / "a.csv").images for box in image.boxes] == [1]
    assert main(["coco-to-csv", str(tmp_path / "a.json"), str(tmp_path / "b.csv"), "--strict"]) == 2
    capsys.readouterr()
