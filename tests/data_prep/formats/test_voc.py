import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from voc_files import voc_xml

from data_prep import Box, Dataset, ImageRecord
from data_prep.formats import voc

BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


def read_text(tmp_path, xml):
    (tmp_path / "a.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    return voc.read_file(tmp_path / "a.xml")


def test_all_contents_of_a_file_are_read(tmp_path):
    assert read_text(tmp_path, voc_xml()) == ImageRecord(
        "a.jpg",
        40,
        30,
        (Box("cat", 1, 2, 11, 12, extra={"pose": "Left", "difficult": "1"}),),
        extra={"folder": "images", "size": {"depth": "3"}, "segmented": "0"},
    )


def test_no_objects_is_an_image_without_boxes(tmp_path):
    assert read_text(tmp_path, voc_xml(objects=())).boxes == ()


def test_integers_stay_integers_and_fractions_fractions(tmp_path):
    (box,) = read_text(tmp_path, voc_xml(objects=[("cat", ("1", "2.0", "3.25", "+4"))])).boxes
    assert [repr(value) for value in box.xyxy] == ["1", "2.0", "3.25", "4"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings(tmp_path, encoding, newline):
    declared = encoding.removesuffix("-sig")
    xml = voc_xml(
        "été, «1».jpg", objects=[("ça va", (1, 2, 3, 4))], declaration=f'<?xml version="1.0" encoding="{declared}"?>'
    )
    record = read_text(tmp_path, xml.replace("><", f">{newline}<").encode(encoding))
    assert (record.file_name, record.boxes[0].label) == ("été, «1».jpg", "ça va")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not readable as XML"),
        (voc_xml()[:-40], "not readable as XML"),
        ("<html/>", "expected <annotation> as the outermost element, got <html>"),
        (BOMB + voc_xml("&y;"), "document types and entities are refused"),
        (EXTERNAL + voc_xml("&x;"), "document types and entities are refused"),
        ('<?xml version="1.0" encoding="klingon"?>' + voc_xml(), "not readable as XML"),
        ("<a>" * 100_000, "not readable as XML"),
        (voc_xml("../../etc/passwd"), "leaves its folder"),
        (voc_xml("/etc/passwd"), "leaves its folder"),
        (voc_xml("..\\a.jpg"), "leaves its folder"),
        (voc_xml(size=("wide", 3)), "expected a number, got 'wide'"),
        (voc_xml(size=(0, 0)), "no <size> with a width and a height"),
        (voc_xml().replace("xmax", "xmost"), "object 1: <bndbox> has no <xmax>"),
        (
            voc_xml(objects=[("cat", (1, 2, 3, 4)), ("cat", (1, "two", 3, 4))]),
            "object 2: <ymin>: expected a number, got 'two'",
        ),
        (voc_xml(objects=[("cat", (1, 2, "nan", 4))]), "object 1: <xmax>: expected a number, got 'nan'"),
        (voc_xml(objects=[("cat", (1, 2, "1e300", 4))]), "object 1: x2 of a box must be a number of pixels below"),
        (voc_xml(objects=[(" ", (1, 2, 3, 4))]), "object 1: a box needs a label"),
        (voc_xml().replace("<name>cat</name>", ""), "object 1: expected a <name> and a <bndbox>"),
        (voc_xml().replace("<name>cat</name>", "<name>cat</name><name>dog</name>"), "<name> occurs more than once"),
        (voc_xml().replace("<object>", "<size/><object>"), "<size> occurs more than once"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, xml, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_text(tmp_path, xml)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "a.xml"))
    assert "\n" not in str(error.value)


def test_fields_other_than_boxes_survive_a_round_trip(tmp_path):
    xml = voc_xml().replace("<annotation>", '<annotation verified="yes">')
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    xml = xml.replace(
        "</bndbox></object>", f"<angle>0.5</angle></bndbox>{part}{part}<note lang='en'>shy</note></object>"
    )
    first = read_text(tmp_path, xml)
    assert first.extra["@verified"] == "yes"
    assert first.boxes[0].extra["part"] == [{"name": "head", "bndbox": {"xmin": "1"}}] * 2
    assert first.boxes[0].extra["note"] == {"@lang": "en", "#text": "shy"}
    voc.write(Dataset((first,)), tmp_path / "out")
    assert voc.read_file(tmp_path / "out" / "a.xml") == first


LABELS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co", "Zl", "Zp"]), min_size=1, max_size=9)
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.tuples(LABELS.map(str.strip).filter(bool), NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=4))
def test_round_trip(tmp_path_factory, boxes):
    record = ImageRecord("a b.jpg", 7, 9, tuple(Box(*box) for box in boxes), extra={"folder": "images"})
    folder = tmp_path_factory.mktemp("voc") / "out"
    voc.write(Dataset((record,)), folder)
    (back,) = voc.read(folder).images
    assert back == record


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset((ImageRecord("a.jpg", 1, 1), ImageRecord("a.png", 1, 1))), "one image a stem"),
        (Dataset((ImageRecord("a.jpg", 1, 1, caption="a cat"),)), "cannot hold the caption"),
        (Dataset(extra={"licenses": []}), "no place for data about the whole set: licenses"),
    ],
)
def test_data_that_voc_cannot_hold_are_refused(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message):
        voc.write(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("where", "extra", "message"),
    [
        ("image", {"filename": "b.jpg"}, "'filename' has a name that the format itself uses"),
        ("image", {"size": 12345}, "'size' has a name that the format itself uses"),
        ("image", {"size": {"width": 3}}, "'width' has a name that the format itself uses"),
        ("image", {"object": "x"}, "'object' has a name that the format itself uses"),
        ("box", {"name": "sedan"}, "'name' has a name that the format itself uses"),
        ("box", {"bndbox": [1, 2]}, "'bndbox' has a name that the format itself uses"),
        ("box", {"type of vehicle": "van"}, "'type of vehicle' has a name that XML cannot hold"),
        ("box", {"@a b": "van"}, "'@a b' has a name that XML cannot hold"),
        ("box", {"@a": 5}, "'@a' has a value that XML cannot hold there"),
        ("label", "cat\ufffe", r"cannot hold the character '\\ufffe'"),
    ],
)
def test_fields_that_could_not_be_read_again_are_refused(tmp_path, where, extra, message):
    box = Box(extra if where == "label" else "cat", 0, 0, 1, 1, extra=extra if where == "box" else {})
    record = ImageRecord("a.jpg", 4, 4, (box,), extra=extra if where == "image" else {})
    with pytest.raises(ValueError, match=f"image 'a.jpg': .*{message}"):
        voc.write(Dataset((record,)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_both_readers_read_the_same_files(voc_folder):
    voc_folder.add("a")
    voc_folder.write("._a", b"macOS")
    (voc_folder.images / "B.jpg").write_bytes((voc_folder.images / "a.jpg").read_bytes())
    (voc_folder.annotations / "B.XML").write_text(voc_xml("B.jpg"))
    sources, _ = voc.read_folder(voc_folder.images, voc_folder.annotations)
    assert [source.record.file_name for source in sources] == ["B.jpg", "a.jpg"]
    assert [record.file_name for record in voc.read(voc_folder.annotations).images] == ["B.jpg", "a.jpg"]


def test_a_size_that_is_not_a_number_is_left_out_alone(voc_folder):
    voc_folder.add("a").add("b", xml=voc_xml("b.jpg").replace("<width>40<", "<width>1e400<"))
    sources, findings = findings_of(voc_folder)
    assert len(sources) == 2, "the size is taken from the pixels"
    assert findings == [("detail unreadable", "b.xml", "skipped"), ("size mismatch", "b.xml", "corrected")]


def findings_of(folder, **options):
    sources, findings = voc.read_folder(folder.images, folder.annotations, **options)
    return sources, [(finding.kind, finding.file, finding.action) for finding in findings]


def test_a_folder_without_faults(voc_folder):
    voc_folder.add("b").add("a", suffix=".PNG")
    sources, findings = findings_of(voc_folder)
    assert [source.image.name for source in sources] == ["a.PNG", "b.jpg"]
    assert findings == []


def test_an_annotation_belongs_to_the_image_with_its_stem(voc_folder):
    voc_folder.add("a", filename="b.jpg").add("b", filename="b.jpg")
    sources, findings = findings_of(voc_folder)
    assert [(source.annotation.name, source.record.file_name) for source in sources] == [
        ("a.xml", "a.jpg"),
        ("b.xml", "b.jpg"),
    ]
    assert findings == [("file name differs", "a.xml", "kept")]


def test_without_such_an_image_it_belongs_to_the_image_that_it_names(voc_folder):
    voc_folder.add("photo", xml=voc_xml("photo.jpg"))
    os.rename(voc_folder.annotations / "photo.xml", voc_folder.annotations / "0001.xml")
    sources, findings = findings_of(voc_folder)
    assert [source.image.name for source in sources] == ["photo.jpg"]
    assert findings == []


def test_if_two_images_share_the_stem_it_belongs_to_the_image_that_it_names(voc_folder):
    voc_folder.add("a", suffix=".png").add("a", suffix=".jpg", filename="a.png")
    sources, findings = findings_of(voc_folder)
    assert [source.image.name for source in sources] == ["a.png"]
    assert findings == [("image without file", "a.jpg", "left out")]


def test_no_image_gets_two_annotations(voc_folder):
    voc_folder.add("a")
    voc_folder.write("copy", voc_xml("a.jpg"))
    sources, findings = findings_of(voc_folder)
    assert [source.annotation.name for source in sources] == ["a.xml"]
    assert findings == [("image annotated twice", "copy.xml", "skipped")]


def test_the_size_is_taken_from_the_pixels(voc_folder):
    voc_folder.add("a", xml=voc_xml(size=(400, 300))).add("b", xml=voc_xml("b.jpg", size=(0, 0)))
    sources, findings = voc.read_folder(voc_folder.images, voc_folder.annotations)
    assert [(source.record.width, source.record.height) for source in sources] == [(40, 30), (40, 30)]
    assert [finding.detail for finding in findings] == [
        "the annotation states 400 x 300, a.jpg has 40 x 30 pixels; 1 box scaled",
        "the annotation states no size, b.jpg has 40 x 30 pixels",
    ]


def test_each_broken_file_is_named_and_the_others_are_read(voc_folder):
    voc_folder.add("good").add("truncated", xml=voc_xml()[:50]).add("lonely")
    voc_folder.write("orphan", voc_xml("orphan.jpg"))
    voc_folder.write("escape", voc_xml("../good.jpg"))
    voc_folder.write("folder", voc_xml("sub/good.jpg"))
    (voc_folder.annotations / "lonely.xml").unlink()
    voc_folder.add("noise")
    (voc_folder.images / "noise.jpg").write_bytes((voc_folder.images / "good.jpg").read_bytes()[:300])
    sources, findings = findings_of(voc_folder)
    assert [source.annotation.name for source in sources] == ["good.xml"]
    assert sorted(findings) == [
        ("annotation unreadable", "truncated.xml", "skipped"),
        ("file without image", "orphan.xml", "skipped"),
        ("image annotated twice", "escape.xml", "skipped"),
        ("image annotated twice", "folder.xml", "skipped"),
        ("image unreadable", "noise.xml", "skipped"),
        ("image without file", "lonely.jpg", "left out"),
        ("image without file", "truncated.jpg", "left out"),
    ]
    _, findings = voc.read_folder(voc_folder.images, voc_folder.annotations)
    assert {f.file: f.detail for f in findings if f.kind == "image without file"} == {
        "lonely.jpg": "no .xml file describes it",
        "truncated.jpg": "its truncated.xml cannot be used",
    }


@pytest.mark.parametrize("fault", ["xml", "pixels", "missing"])
def test_strict_stops_at_the_first_broken_file(voc_folder, fault):
    voc_folder.add("a").add("b")
    if fault == "xml":
        voc_folder.write("b", "<annotation>")
    elif fault == "pixels":
        (voc_folder.images / "b.jpg").write_bytes(b"no picture")
    else:
        (voc_folder.images / "b.jpg").unlink()
    with pytest.raises(ValueError, match=r"b\.(xml|jpg)"):
        voc.read_folder(voc_folder.images, voc_folder.annotations, strict=True)


def test_nothing_to_read_is_an_error(voc_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.xml file in"):
        voc.read_folder(voc_folder.images, voc_folder.annotations)
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        voc.read_folder(tmp_path / "nowhere", voc_folder.annotations)
    with pytest.raises(FileNotFoundError, match="no folder of annotations"):
        voc.read_folder(voc_folder.images, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no folder of annotations"):
        voc.read(tmp_path / "nowhere")
