"""RefCOCO's two files: a record for each expression, and one line for each fault."""

import pickle

import pytest
from made_up_detectors import SQUARES
from published_files import refs, write_refcoco
from refusals import refused

from data_prep.formats import refcoco


def read(folder, split="val"):
    return refcoco.read(folder / "refcoco" / "refs(unc).p", folder / "refcoco" / "instances.json", split)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_files_as_published(tmp_path, protocol):
    write_refcoco(tmp_path)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs(), protocol))
    dataset = read(tmp_path)
    assert len(dataset.images) == 12, "two expressions for each of six objects"
    first, second = dataset.images[:2]
    assert (first.caption, second.caption) == ("the red square", "a red square over there")
    assert first.file_name == second.file_name == "COCO_train2014_000000000001.jpg"
    assert (first.width, first.height) == (100, 80)
    assert [(box.label, box.xyxy) for box in first.boxes] == [("the red square", SQUARES["red square"])]
    assert second.extra == {"ref_id": 0, "sent_id": 1}


def test_only_the_split_that_was_asked_for(tmp_path):
    content = refs()
    for entry in content[2:]:
        entry["split"] = "testA"
    write_refcoco(tmp_path, content=content)
    assert [len(read(tmp_path, split).images) for split in ("val", "testA")] == [4, 8]
    with refused(tmp_path / "refcoco" / "refs(unc).p", "expected a split of testA, val, got 'testB'"):
        read(tmp_path, "testB")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda refs: refs[1].update(ann_id=9), "ref 1: expected 'ann_id' to be one of 6 ids of instances.json, got 9"),
        (lambda refs: refs[1].update(image_id=5), "ref 1: the object 101 is of image 2 there, and of image 5 here"),
        (lambda refs: refs[1].pop("split"), "expected 'split' to be a text, got nothing"),
        (lambda refs: refs[1].update(sentences=refs[0]["sentences"]), "expected each 'sent_id' once, got 0"),
        (lambda refs: refs[1]["sentences"][0].pop("sent"), "expected 'sent' to be a text, got nothing"),
        (lambda refs: refs[1]["sentences"][0].update(sent=" "), "a box needs a label"),
        (lambda refs: refs.append("text"), "expected a list of dictionaries, got list"),
        (lambda refs: refs.append({1, 2}), "expected a pickle of plain values"),
    ],
)
def test_wrong_files_give_one_line(tmp_path, change, words):
    content = refs()
    change(content)
    write_refcoco(tmp_path, content=content)
    with refused(tmp_path / "refcoco" / "refs(unc).p", words):
        read(tmp_path)


@pytest.mark.parametrize("name", ["refs(unc).p", "instances.json"])
def test_missing_files(tmp_path, name):
    write_refcoco(tmp_path)
    (tmp_path / "refcoco" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*refcoco"):
        read(tmp_path)
