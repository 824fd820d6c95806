"""Images of records: missing, broken, or of another size."""

import pytest
from PIL import Image
from squares import TRAIN, box, with_images

from data_prep import ImageRecord
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.loader import build_loader
from gdino_lib.data.records import ImageError, open_image


def test_missing_images_are_named_at_once(records, folder, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
    with pytest.raises(
        FileNotFoundError, match=r"4\.png': no such file, expected an image \(and 1 more are missing\)$"
    ):
        GroundingDataset(records, tmp_path, TRAIN)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        GroundingDataset(records, tmp_path / "nowhere", TRAIN)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_named_in_one_line(folder, tmp_path, workers):
    (tmp_path / "a.png").write_bytes((folder / "0.png").read_bytes()[:200])
    dataset = GroundingDataset(with_images([ImageRecord("a.png", 100, 80, (box("cat"), box("dog")))]), tmp_path, TRAIN)
    with pytest.raises(ImageError) as caught:
        list(build_loader(dataset, 1, shuffle=True, workers=workers))
    message = str(caught.value)
    assert message.startswith(f"'{tmp_path / 'a.png'}': expected")
    assert "\n" not in message
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png': no such file"):
        dataset[0]


def test_another_size_than_the_boxes_were_drawn_in(folder, tmp_path):
    with pytest.raises(ImageError, match=r"drawn in 100 x 90 pixels, the upright image has 100 x 80"):
        open_image(ImageRecord("0.png", 100, 90), folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "0.png").save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(ImageRecord("turned.jpg", 80, 100), tmp_path).size == (80, 100)
    with pytest.raises(ImageError, match="the upright image has 80 x 100"):
        open_image(ImageRecord("turned.jpg", 100, 80), tmp_path)
