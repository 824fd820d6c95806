"""Parts of an evaluation on disk: exact, of one run alone, and nothing else is removed."""

import numpy as np
import pytest

from gdino_lib.evaluation.found_boxes import FoundBoxes
from gdino_lib.evaluation.stored_results import StoredResults

ABOUT = {"model": {"sha256": "a"}, "settings": {"dtype": "float32"}}


def boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random(count).astype(np.float32)
    return FoundBoxes(rng.random((count, 4)).astype(np.float32), scores, rng.integers(0, 9, count))


@pytest.mark.parametrize("counts", [[0], [3], [0, 0], [2, 0, 5], [0, 1, 0]])
def test_a_part_comes_back_bit_for_bit(tmp_path, counts):
    store = StoredResults(tmp_path / "figures.json.parts")
    store.open(ABOUT)
    found = [boxes(count, seed) for seed, count in enumerate(counts)]
    assert not store.has(1, 2)
    store.write(1, 2, found)
    assert store.has(1, 2)
    again = store.read(1, 2, len(counts))
    for one, other in zip(found, again, strict=True):
        for before, after in zip(one, other, strict=True):
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype


def test_the_same_run_goes_on_and_another_is_refused(tmp_path):
    store = StoredResults(tmp_path / "figures.json.parts")
    store.open(ABOUT)
    store.write(0, 0, [boxes(2)])
    store.open(ABOUT)
    assert store.has(0, 0)
    other = ABOUT | {"model": {"sha256": "b"}}
    with pytest.raises(FileExistsError, match="another run, which differs in model; choose another file, or pass"):
        store.open(other)
    assert store.has(0, 0)
    store.open(other, overwrite=True)
    assert not store.has(0, 0)
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_while_it_began(tmp_path):
    store = StoredResults(tmp_path / "figures.json.parts")
    store.folder.mkdir()
    (store.folder / ".about.json.x1.partial").write_text("{")
    store.open(ABOUT)
    store.open(ABOUT)
    assert [path.name for path in store.folder.iterdir()] == ["about.json"]


def test_files_of_others_stay(tmp_path):
    store = StoredResults(tmp_path / "parts")
    store.folder.mkdir()
    (store.folder / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"expected a folder for unfinished results, found thesis\.tex"):
        store.open(ABOUT, overwrite=True)
    assert (store.folder / "thesis.tex").read_text() == "mine"
    file = StoredResults(tmp_path / "file")
    file.folder.write_text("mine")
    with pytest.raises(FileExistsError, match="expected a folder for unfinished results, found a file"):
        file.open(ABOUT, overwrite=True)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"text"])
def test_a_damaged_part_gives_one_line(tmp_path, data):
    store = StoredResults(tmp_path / "parts")
    store.open(ABOUT)
    (store.folder / "0-0.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"0-0\.npz is damaged .* remove it, and run the command again$"):
        store.read(0, 0, 1)
    store.write(0, 0, [boxes(1)])
    with pytest.raises(ValueError, match=r"0-0\.npz: expected results for 2 records, got 1"):
        store.read(0, 0, 2)
    (store.folder / "about.json").write_text("{")
    with pytest.raises(ValueError, match=r"about\.json is not readable as JSON"):
        store.open(ABOUT)
