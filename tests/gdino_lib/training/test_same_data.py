"""A run resumes only with the pictures, boxes and names that it began with."""

import os
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from small_runs import SIDE, dataset, shapes
from training_runs import STEPS, run

from data_prep import Dataset
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.joined import JoinedDataset
from gdino_lib.data.records import ImageError, pictures_digest
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.training.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURE = "00003.png"


def one_pixel(folder, records):
    """Change a pixel of a picture, but neither its size in pixels and bytes nor its times."""
    path = folder / "pixels.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    return records


def other_picture(folder, records):
    shutil.copy(folder / "00004.png", folder / PICTURE)
    return records


def swapped_pictures(folder, records):
    (folder / PICTURE).rename(folder / "aside")
    (folder / "00004.png").rename(folder / PICTURE)
    (folder / "aside").rename(folder / "00004.png")
    return records


def changed(records, change):
    images = [change(record) if record.file_name == PICTURE else record for record in records.images]
    return replace(records, images=tuple(images))


def moved_box(_, records):
    return changed(records, lambda r: replace(r, boxes=(replace(r.boxes[0], x2=r.boxes[0].x2 + 1), *r.boxes[1:])))


def other_name(_, records):
    return changed(records, lambda r: replace(r, boxes=(replace(r.boxes[0], label="green star"), *r.boxes[1:])))


def fewer_pictures(_, records):
    return replace(records, images=records.images[:-1])


CHANGES = [one_pixel, other_picture, swapped_pictures, moved_box, other_name, fewer_pictures]


@pytest.fixture
def records(tmp_path):
    """Twelve pictures and one without compression, whose pixels are its bytes."""
    drawn = shapes(tmp_path / "images")
    Image.open(tmp_path / "images" / PICTURE).save(tmp_path / "images" / "pixels.bmp")
    return replace(drawn, images=(*drawn.images, replace(drawn.images[3], file_name="pixels.bmp")))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["training", "validation"])
def test_other_pixels_boxes_or_names_are_refused(tmp_path, records, change, where):
    def begin(records, **options):
        still = shapes(tmp_path / "still")
        learn, judge = (records, still) if where == "training" else (still, records)
        learn_in, judge_in = (tmp_path / name for name in ("images", "still")[:: 1 if where == "training" else -1])
        data = GroundingDataset(learn, learn_in, EvaluationTransform(SIDE, SIDE))
        return run(tmp_path, data=data, validation=Validation(judge, judge_in), **options)

    shutil.rmtree(tmp_path / "still", ignore_errors=True)
    begin(records).fit()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "still")
    assert begin(records, resume=True).step == STEPS  # as it was
    shutil.rmtree(tmp_path / "still")
    words = "have other pixels by now" if change in CHANGES[:3] else f"has other {where} data"
    with pytest.raises(ValueError, match=rf"state\.json: .*{words}; resume with the same"):
        begin(change(tmp_path / "images", records), resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_the_same_files_may_lie_elsewhere(tmp_path, images):
    run(tmp_path, data=images).fit()
    shutil.copytree(images.images, tmp_path / "elsewhere", copy_function=shutil.copyfile)  # other times, too
    moved = GroundingDataset(Dataset(images.records, images.classes), tmp_path / "elsewhere", images.transform)
    assert run(tmp_path, data=moved, resume=True).step == STEPS


def test_a_picture_that_cannot_be_read_is_named(tmp_path, images):
    (images.images / PICTURE).unlink()
    with pytest.raises(ImageError, match=PICTURE):
        pictures_digest(images.records, images.images)


def test_joined_sets_have_the_digests_of_all(tmp_path):
    one, other = dataset(tmp_path / "one"), dataset(tmp_path / "other", 6)
    before = JoinedDataset([one, other]).pictures_digest
    assert JoinedDataset([one, other], [3, 1]).pictures_digest == before
    (tmp_path / "other" / PICTURE).write_bytes((tmp_path / "one" / "00005.png").read_bytes())
    assert JoinedDataset([one, other]).pictures_digest != before


def test_a_digest_follows_the_order_of_the_records(tmp_path):
    data = dataset(tmp_path / "images")
    assert pictures_digest(data.records, data.images) == data.pictures_digest
    assert pictures_digest(data.records[::-1], data.images) != data.pictures_digest
