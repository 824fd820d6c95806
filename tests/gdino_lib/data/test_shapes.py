"""Drawn shapes: pictures to train on, which replace only earlier pictures."""

import pytest
from PIL import Image

from data_prep.atomic import MANIFEST, read_manifest
from gdino_lib.data.shapes import COLOURS, draw_shapes


def test_every_record_describes_its_picture(tmp_path):
    records = draw_shapes(tmp_path / "shapes", 5, size=64)
    names = {record.file_name for record in records.images}
    assert names == {f"{number:05d}.png" for number in range(5)}
    assert read_manifest(tmp_path / "shapes") == {path.name for path in (tmp_path / "shapes").iterdir()}
    assert read_manifest(tmp_path / "shapes") == {*names, MANIFEST}
    for record in records.images:
        image = Image.open(tmp_path / "shapes" / record.file_name)
        assert image.size == (record.width, record.height) == (64, 64)
        for box in record.boxes:
            inside = ((box.x1 + box.x2) // 2, (box.y1 + box.y2) // 2)
            assert image.getpixel(inside) == COLOURS[box.label.split()[0]]


def test_overwrite_replaces_earlier_pictures(tmp_path):
    draw_shapes(tmp_path, 3)
    with pytest.raises(FileExistsError, match="not empty"):
        draw_shapes(tmp_path, 2)
    draw_shapes(tmp_path, 2, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"00000.png", "00001.png", MANIFEST}


def test_overwrite_keeps_a_picture_that_only_has_the_name_of_a_drawn_one(tmp_path):
    for folder in ("new", "drawn"):
        (tmp_path / folder).mkdir()
        if folder == "drawn":
            draw_shapes(tmp_path / folder, 2)
        mine = tmp_path / folder / "00007.png"
        mine.write_bytes(b"mine")
        before = {path: path.read_bytes() for path in mine.parent.iterdir()}
        with pytest.raises(FileExistsError, match=r"00007\.png, which no run wrote"):
            draw_shapes(mine.parent, 2, overwrite=True)
        assert {path: path.read_bytes() for path in mine.parent.iterdir()} == before
