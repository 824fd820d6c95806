"""CVAT: images and videos, shapes and faults."""

import pytest
from refusals import refused

from data_prep.formats import cvat
from data_prep.records import Box, Dataset, ImageRecord

LABELS = "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>"
BOX = '<box label="cat" occluded="0" source="manual" xtl="1" ytl="2.5" xbr="11" ybr="12" z_order="0"/>'


def write(folder, inside, name="a.xml"):
    (folder / name).write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{inside}</annotations>')
    return folder / name


def image(*shapes, name="a.jpg", more=""):
    return f'<image id="0" name="{name}" width="40" height="30"{more}>{"".join(shapes)}</image>'


@pytest.mark.parametrize(
    ("shape", "box", "extra"),
    [
        (BOX, (1, 2.5, 11, 12), {}),
        (
            '<polygon label="cat" points="1.5,2;11,3;4,12" occluded="1" z_order="2" group_id="3" source="auto"/>',
            (1.5, 2, 11, 12),
            {"segmentation": [[1.5, 2, 11, 3, 4, 12]], "occluded": 1, "z_order": 2, "group_id": 3, "source": "auto"},
        ),
        ('<ellipse label="cat" cx="10" cy="10" rx="5" ry="2.5"/>', (5, 7.5, 15, 12.5), {}),
        ('<mask label="cat" left="3" top="4" width="5" height="6" rle="1,2"/>', (3, 4, 8, 10), {}),
        (
            '<box label="cat" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90.0"/>',
            (13, 7, 17, 17),
            {"segmentation": [[17, 7, 17, 17, 13, 17, 13, 7]]},
        ),
        (
            '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4"><attribute name="age">old </attribute></box>',
            (1, 2, 3, 4),
            {"attributes": {"age": "old"}},
        ),
    ],
)
def test_each_shape_has_the_box_around_it(tmp_path, shape, box, extra):
    dataset = cvat.read(write(tmp_path, LABELS + image(shape, more=' subset="train"')))
    assert dataset.images == (ImageRecord("a.jpg", 40, 30, (Box("cat", *box, extra),), extra={"subset": "train"}),)
    assert dataset.categories == ("dog", "cat")
    cvat.write(dataset, tmp_path / "again.xml")
    assert cvat.read(tmp_path / "again.xml") == dataset


def test_the_tracks_of_a_video_are_the_boxes_of_its_frames(tmp_path):
    def at(frame, outside=0):
        return f'<box frame="{frame}" outside="{outside}" keyframe="1" occluded="0" xtl="{frame}" ytl="2" xbr="30" ybr="9"/>'

    meta = "<meta><task><original_size><width>64</width><height>48</height></original_size></task></meta>"
    tracks = f'<track id="0" label="cat">{at(2)}{at(0)}{at(3, 1)}</track><track id="1" label="dog">{at(2)}</track>'
    dataset = cvat.read(write(tmp_path, meta + tracks))
    assert [(r.file_name, r.width, r.height, [(b.label, b.x1, b.extra) for b in r.boxes]) for r in dataset.images] == [
        ("frame_000000.PNG", 64, 48, [("cat", 0, {"track_id": 0})]),
        ("frame_000002.PNG", 64, 48, [("cat", 2, {"track_id": 0}), ("dog", 2, {"track_id": 1})]),
        ("frame_000003.PNG", 64, 48, []),
    ]


SHAPES = {
    '<polyline label="cat" points="1,2;3,4"/>': "expected one of box, polygon, ellipse, mask, got <polyline>, which has no box",
    '<tag label="cat"/>': "got <tag>, which has no box",
    "<thing/>": "got <thing>, which is unknown",
    '<box label="cat" xtl="1" ytl="2" xbr="3"/>': "expected <box> to have xtl, ytl, xbr, ybr, got no 'ybr'",
    '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="nan"/>': "expected a number, got 'nan'",
    '<box xtl="1" ytl="2" xbr="3" ybr="4"/>': "a box needs a label of one line of text, got ''",
    '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" z_order="1.5"/>': "expected 'z_order' to be an integer, got '1.5'",
    '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" rotation="1e309"/>': "expected a number, got '1e309'",
    '<polygon label="cat" points="1,2;3,4"/>': "expected at least three points of a polygon, got 2",
    '<polygon label="cat" points="1,2;3;4,5"/>': "expected points as x,y;x,y;..., got '3'",
    '<polygon label="cat"/>': "got ''",
}


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_a_shape_with_a_fault_is_left_out_alone(tmp_path, number):
    shape, words = list(SHAPES.items())[number]
    path = write(tmp_path, image(BOX, shape, BOX))
    with refused(f"{path}: image 1, shape 2", words):
        cvat.read(path)
    found = []
    assert len(cvat.read(path, found).images[0].boxes) == 2
    assert [finding.kind for finding in found] == ["object unreadable"]


def test_other_faults_are_named_in_one_line(tmp_path):
    for inside, words in {
        '<image id="0" name="a.jpg" width="40"/>': "image 1: expected <image> to have height, got no 'height'",
        '<image id="0" width="40" height="30"/>': "image 1: a file name of one line of text is needed, got ''",
        '<image name="../a.jpg" width="40" height="30"/>': "image 1: the file name '../a.jpg' leaves its folder",
        '<track id="0" label="cat"/>': "expected <original_size> with the size of the video, got none",
        "<image": "not readable as XML",
    }.items():
        path = write(tmp_path, inside)
        with refused(path, words):
            cvat.read(path)


def test_entities_and_other_xml_are_refused(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>')
    with pytest.raises(ValueError, match="document types and entities are refused"):
        cvat.read(path)
    path.write_text("<annotation/>")
    with pytest.raises(ValueError, match="expected <annotations> as the outermost element, got <annotation>"):
        cvat.read(path)


def test_fields_without_a_place_are_counted(tmp_path):
    extra = {"occluded": True, "z_order": 2, "score": 0.5, "attributes": {"a": 1}, "segmentation": [[1, 2]]}
    image = ImageRecord("a.jpg", 9, 9, (Box("cat", 1, 2, 3, 4, extra),), "a cat", {"id": 7})
    dataset = Dataset((image,), extra={"info": 1})
    assert cvat.left_out(dataset) == {
        "info": 1, "id": 1, "caption": 1, "occluded": 1, "score": 1, "attributes": 1, "segmentation": 1,
    }  # fmt: skip
    cvat.write(dataset, tmp_path / "a.xml")
    assert cvat.read(tmp_path / "a.xml").images[0].boxes == (Box("cat", 1, 2, 3, 4, {"z_order": 2}),)
    with pytest.raises(ValueError, match="XML cannot hold the character"):
        cvat.write(Dataset((ImageRecord("a\ufffe.jpg", 1, 1),)), tmp_path / "b.xml")
    assert not (tmp_path / "b.xml").exists()
