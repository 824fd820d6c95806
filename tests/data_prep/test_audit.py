import json

import pytest
from PIL import ExifTags, Image

from data_prep import Box, Dataset, ImageRecord
from data_prep.audit import KINDS, Finding, audit, repair, report


def record(*corners, labels="cat"):
    return ImageRecord("a.jpg", 40, 30, tuple(Box(labels, *box) for box in corners))


def test_a_record_without_faults_is_unchanged():
    sound = record((0, 0, 40, 30), (1, 1, 2, 2))
    assert repair(sound) == (sound, [])
    assert repair(record()) == (record(), [])


@pytest.mark.parametrize(
    ("box", "kinds", "action", "left"),
    [
        ((-3, 5, 10, 10), ["box outside"], "clipped", [(0, 5, 10, 10)]),
        ((30, 20, 41, 31), ["box outside"], "clipped", [(30, 20, 40, 30)]),
        ((50, 5, 60, 10), ["box outside"], "dropped", []),
        ((5, 5, 5, 10), ["box degenerate"], "dropped", []),
    ],
)
def test_boxes_outside_are_clipped_and_empty_boxes_dropped(box, kinds, action, left):
    fixed, findings = repair(record((1, 1, 2, 2), box), "a.xml")
    assert [b.xyxy for b in fixed.boxes] == [(1, 1, 2, 2), *left]
    assert [(f.kind, f.file, f.object, f.action) for f in findings] == [(kind, "a.xml", 2, action) for kind in kinds]


@pytest.mark.parametrize(
    ("box", "findings", "left"),
    [
        ((9, 5, 3, 10), [("corners swapped", "swapped")], [(3, 5, 9, 10)]),
        ((9, 10, 3, 5), [("corners swapped", "swapped")], [(3, 5, 9, 10)]),
        ((50, 5, 35, 10), [("box outside", "clipped"), ("corners swapped", "swapped")], [(35, 5, 40, 10)]),
        ((50, 5, 45, 10), [("box outside", "dropped"), ("corners swapped", "swapped")], []),
        ((9, 5, 3, 5), [("corners swapped", "swapped"), ("box degenerate", "dropped")], []),
    ],
)
def test_swapped_corners_are_swapped_and_reported(box, findings, left):
    fixed, found = repair(record(box))
    assert [(finding.kind, finding.action) for finding in found] == findings
    assert [b.xyxy for b in fixed.boxes] == left


def test_a_duplicated_box_is_reported_and_kept():
    boxes = (Box("cat", 1, 1, 5, 5), Box("dog", 2, 2, 5, 5), Box("cat", 1, 1, 5, 5), Box("dog", 1, 1, 5, 5))
    fixed, findings = repair(ImageRecord("a.jpg", 40, 30, boxes))
    assert fixed.boxes == boxes
    assert [(f.object, f.action) for f in findings] == [(3, "kept"), (4, "kept")]
    assert findings[0].detail.endswith("same as object 1")
    assert findings[1].detail.endswith("same as object 1, as cat there")


def test_the_image_files_of_any_data_set_are_checked(tmp_path):
    for name in ("a.jpg", "b.jpg", "extra.png", "sub/c.jpg", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    records = [ImageRecord(name, 40, 30) for name in ("a.jpg", "b.jpg", "gone.jpg")] + [
        ImageRecord("sub/c.jpg", 30, 40)
    ]
    cleaned, result = audit(Dataset(tuple(records)), tmp_path)
    assert [r.file_name for r in cleaned.images] == ["a.jpg", "sub/c.jpg"]
    assert (cleaned.images[1].width, cleaned.images[1].height) == (40, 30)
    assert [(f.kind, f.file) for f in result.findings] == [
        ("image unreadable", "b.jpg"),
        ("file without image", "gone.jpg"),
        ("image without file", "extra.png"),
        ("size mismatch", "sub/c.jpg"),
    ]
    assert [finding.action for finding in result.findings] == ["skipped", "skipped", "left out", "corrected"]
    assert result.has_skipped


@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (6, (30, 40)), (8, (30, 40))])
def test_sizes_are_those_of_the_upright_image(tmp_path, orientation, size):
    """Boxes are in the same frame: those of a photograph that is stored rotated are neither clipped nor dropped."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    box = Box("cat", size[0] - 9, size[1] - 8, size[0], size[1])
    cleaned, result = audit(Dataset((ImageRecord("a.jpg", *size, (box,)),), ("cat",)), tmp_path)
    assert result.findings == ()
    assert cleaned.images[0].boxes == (box,)


def test_the_records_alone_can_be_audited():
    cleaned, result = audit(Dataset((record((0, 0, 50, 5), (3, 3, 3, 3)),), ("cat", "dog")))
    assert result.objects == 2
    assert not result.has_skipped
    assert result.parts == {"all": {"images": 1, "without boxes": 0, "boxes": 1, "classes": {"cat": 1, "dog": 0}}}
    assert cleaned.categories == ("cat", "dog")


def test_json_and_text_have_the_same_findings(tmp_path):
    finding = Finding("box outside", "ж [b]1[/b].xml", 3, "cat (0, 0, 50, 5) in 40 x 30", "clipped")
    result = report([record((0, 0, 50, 5))], {"train": Dataset((record((0, 0, 40, 5)),)), "test": Dataset()}, [finding])
    result.write(tmp_path)
    data = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert data["findings"] == [
        {"kind": "box outside", "file": "ж [b]1[/b].xml", "object": 3, "detail": finding.detail, "action": "clipped"}
    ]
    assert data["counts"] == {kind: int(kind == "box outside") for kind in KINDS}
    assert data["parts"]["train"]["classes"] == {"cat": 1}
    text = (tmp_path / "audit.txt").read_text("utf-8")
    for part in ("1 image, 1 object read", "ж [b]1[/b].xml", "clipped", *KINDS):
        assert part in text


def test_the_text_is_the_same_inside_a_notebook(monkeypatch):
    result = report([record()], {"all": Dataset()}, [])
    plain = result.to_text()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert result.to_text() == plain


def test_only_the_printed_list_is_cut():
    findings = [Finding("box outside", f"{n}.xml", 1, "far out", "clipped") for n in range(5)]
    result = report([], {"all": Dataset()}, findings)
    assert "... and 3 more" in result.to_text(limit=2)
    assert "4.xml" in result.to_text()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind of finding 'odd'"):
        Finding("odd", "a.xml", None, "")
