"""The drawn data set: its layout, its seed, and its planted faults."""

import hashlib
import xml.etree.ElementTree as ElementTree  # the standard parser is safe for files that the test itself writes
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from data_prep.findings import KINDS
from data_prep.formats import voc
from data_prep.sample import cartoon_faces

PLANTED = {
    "annotation unreadable", "file without image", "image without file", "file name differs", "size mismatch",
    "box outside", "box degenerate", "box duplicated",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cartoon") / "faces"
    return folder, cartoon_faces.write(folder, seed=0)


def annotations(folder: Path) -> dict[str, ElementTree.Element]:
    parsed = {}
    for path in sorted((folder / "annotations").iterdir()):
        try:
            parsed[path.name] = ElementTree.fromstring(path.read_bytes())
        except ElementTree.ParseError:
            parsed[path.name] = None
    return parsed


def boxes(root: ElementTree.Element) -> list[tuple]:
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        (item.findtext("name"), *(int(item.findtext(f"bndbox/{corner}")) for corner in corners))
        for item in root.iter("object")
    ]


def test_has_the_face_mask_layout(drawn):
    folder, _ = drawn
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "images"]
    root = annotations(folder)["cartoon00.xml"]
    assert [child.tag for child in root][:4] == ["folder", "filename", "size", "segmented"]
    assert [child.tag for child in root.find("object")] == [
        "name", "pose", "truncated", "occluded", "difficult", "bndbox",
    ]  # fmt: skip
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert 300 <= image.width <= 500
        assert path.stat().st_size < 100_000


def test_same_seed_same_bytes_another_seed_other_people(drawn, tmp_path):
    folder, faults = drawn
    assert cartoon_faces.write(tmp_path / "again", seed=0) == faults
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes(), path
    cartoon_faces.write(tmp_path / "other", seed=1)
    first = (folder / "annotations" / "cartoon00.xml").read_bytes()
    assert first != (tmp_path / "other" / "annotations" / "cartoon00.xml").read_bytes()


def test_the_annotations_of_a_seed_never_change(drawn):
    """The book prints numbers of these files. (Pixels depend on the version of Pillow, annotations do not.)"""
    folder, _ = drawn
    digest = hashlib.sha256()
    for path in sorted((folder / "annotations").iterdir()):
        digest.update(path.read_bytes())
    assert digest.hexdigest() == "16b546413ade05ea21534e4bf4cf125cbb13f7e60cf92c84d47fa2f42f1b8fc9"


@pytest.mark.parametrize("seed", range(6))
def test_every_seed_has_every_class_and_every_fault(seed, monkeypatch, tmp_path):
    monkeypatch.setattr(cartoon_faces, "_draw_scene", lambda scene, rng: Image.new("RGB", (scene.width, scene.height)))
    faults = cartoon_faces.write(tmp_path / "faces", seed=seed)
    assert {fault.kind for fault in faults} == PLANTED <= set(KINDS)
    roots = [root for root in annotations(tmp_path / "faces").values() if root is not None]
    counts = Counter(box[0] for root in roots for box in boxes(root))
    assert sorted(counts) == sorted(cartoon_faces.CLASSES)
    assert counts["with_mask"] > counts["without_mask"] > counts["mask_weared_incorrect"] >= 2


def test_the_files_have_the_reported_faults_and_no_others(drawn):
    folder, faults = drawn
    images = {path.stem for path in (folder / "images").iterdir()}
    found = [("image without file", f"{stem}.jpg", None) for stem in images]
    for name, root in annotations(folder).items():
        stem = name.removesuffix(".xml")
        if ("image without file", f"{stem}.jpg", None) in found:
            found.remove(("image without file", f"{stem}.jpg", None))
        if root is None:
            found.append(("annotation unreadable", name, None))
            continue
        if stem not in images:
            found.append(("file without image", name, None))
            continue
        if root.findtext("filename") != f"{stem}.jpg":
            found.append(("file name differs", name, None))
        size = int(root.findtext("size/width")), int(root.findtext("size/height"))
        with Image.open(folder / "images" / f"{stem}.jpg") as image:
            if image.size != size:
                found.append(("size mismatch", name, None))  # the boxes are in the frame of the stated size
        seen = set()
        for number, (_, x1, y1, x2, y2) in enumerate(boxes(root), start=1):
            if min(x1, y1) < 0 or x2 > size[0] or y2 > size[1]:
                found.append(("box outside", name, number))
            if x2 <= x1 or y2 <= y1:
                found.append(("box degenerate", name, number))
            if (x1, y1, x2, y2) in seen:
                found.append(("box duplicated", name, number))
            seen.add((x1, y1, x2, y2))
    assert sorted(found, key=str) == sorted((tuple(fault) for fault in faults), key=str)


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError):
        cartoon_faces.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_boxes_of_the_shrunk_picture_are_scaled(drawn):
    folder, faults = drawn
    (file,) = [fault.file for fault in faults if fault.kind == "size mismatch"]
    sources, _ = voc.read_folder(folder / "images", folder / "annotations")
    (record,) = [source.record for source in sources if source.name == file]
    given = voc.read_file(folder / "annotations" / file)
    assert (given.width, given.height) == (2 * record.width, 2 * record.height)
    assert [box.xyxy for box in given.boxes] == [tuple(2 * value for value in box.xyxy) for box in record.boxes]
    assert all(box.is_inside(record.width, record.height) for box in record.boxes)
