"""Photographs to train on: absent names, pictures and prompts."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import data_prep
from data_prep import Box, ImageRecord
from data_prep.formats import coco
from gdino_lib.data.loader import EpochOrder
from gdino_lib.nano import pictograms
from gdino_lib.nano.photograph_dataset import PhotographDataset
from gdino_lib.nano.photograph_names import Meaning, Names, read_names
from gdino_lib.nano.photographs import NOWHERE, Absences, held_out_names, keep_aside, read_set, read_sets
from gdino_lib.nano.samples import MixedDataset, PromptSettings
from gdino_lib.prompts import word_pieces

NAMES = Names(
    [
        Meaning("dog", (), ("animal",)),
        Meaning("chihuahua", ("chihuahua dog",), ("dog", "animal")),
        Meaning("cat", (), ("animal",)),
        Meaning("sofa", ("couch",), ("furniture",)),
        Meaning("couch", ("sofa",), ("furniture",)),
        Meaning("car", (), ("vehicle",)),
    ]
)
RED, BLUE = (220, 20, 20), (20, 20, 220)
EVERYWHERE = frozenset({"dog", "cat", "sofa", "car"})


def write_set(folder, pictures):
    """Write a grey picture of 160 x 120 for each list of (name, xyxy); dogs are red boxes, all other things blue ones."""
    (folder / "images").mkdir(parents=True)
    records = []
    for number, boxes in enumerate(pictures):
        image = Image.new("RGB", (160, 120), (128, 128, 128))
        for label, xyxy in boxes:
            image.paste(RED if label == "dog" else BLUE, xyxy)
        image.save(folder / "images" / f"{number}.png")
        records.append(ImageRecord(f"{number}.png", 160, 120, tuple(Box(label, *xyxy) for label, xyxy in boxes)))
    coco.write(data_prep.Dataset(tuple(records), tuple(sorted(EVERYWHERE))), folder / "annotations.json")
    return folder


@pytest.fixture
def photographs(tmp_path):
    dog, car = ("dog", (20, 30, 100, 90)), ("car", (110, 60, 150, 100))
    return read_set(write_set(tmp_path / "mine", [[dog], [dog, car], [car], []]))


def dataset(photographs, **options):
    settings = {"batch_size": 4, "sizes": [(96, 72), (72, 96)], "mosaics": 0.0, "pasted": 0.0, "cut_outs": 0.0}
    return PhotographDataset([photographs], [1.0], NAMES, 64, **settings | options)


# names


def test_related_and_narrower_names_follow_from_the_meanings():
    assert NAMES.related("chihuahua", "dog")
    assert NAMES.related("dog", "chihuahua")
    assert NAMES.related("sofa", "couch")
    assert not NAMES.related("dog", "cat")
    assert NAMES.below("dog") == {"chihuahua"}
    assert NAMES.below("sofa") == {"couch"}


@pytest.mark.parametrize("line", ["dog", ": hound", "dog: hound\ndog: cur"])
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "names.txt").write_text(line)
    with pytest.raises(ValueError, match=r"names.txt, line \d: expected 'name: synonyms < hypernyms'"):
        read_names(tmp_path / "names.txt")


def test_the_embedded_list_of_names_is_consistent():
    names = read_names()
    assert len(names.meanings) > 300
    for name, meaning in names.meanings.items():
        assert name not in meaning.hypernyms
        for synonym in meaning.synonyms:  # if a synonym is itself a name, both are synonyms of each other
            if synonym in names.meanings:
                assert name in names[synonym].synonyms, (name, synonym)


# absent names


@pytest.mark.parametrize(
    ("shown", "absent"),
    [
        ((), {"dog", "chihuahua", "cat", "sofa", "couch", "car"}),
        (("dog",), {"cat", "sofa", "couch", "car"}),  # the dog may be a chihuahua
        (("chihuahua",), {"cat", "sofa", "couch", "car"}),
        (("couch", "cat"), {"dog", "chihuahua", "car"}),
    ],
)
def test_names_are_absent_only_if_the_set_would_have_labelled_them(shown, absent):
    assert set(Absences(NAMES, ()).of(EVERYWHERE, shown)) == absent


def test_in_a_partly_labelled_set_only_names_that_no_photograph_shows_are_absent(tmp_path):
    photographs = read_set(write_set(tmp_path / "tools", [[("dog", (20, 30, 100, 90))]]))
    assert photographs.everywhere == frozenset()
    assert Absences(NAMES).of(photographs.everywhere, {"dog"}) == NOWHERE


def test_names_that_no_photograph_shows_are_pictograms_and_unrelated_to_photographs():
    seen = {thing.name for thing in pictograms.seen()}
    names = read_names()
    assert set(NOWHERE) <= seen
    assert not [name for name in NOWHERE for other in names.meanings if names.related(name, other)]


def test_held_out_names_are_in_no_picture(tmp_path):
    dog, car = ("dog", (20, 30, 100, 90)), ("car", (110, 60, 150, 100))
    write_set(tmp_path / "mine", [[dog], [dog, car], [car]])
    photographs = read_set(tmp_path / "mine", held_out=["car"])
    assert [record.file_name for record in photographs.records] == ["0.png"]
    assert "car" not in photographs.everywhere


def test_twenty_names_are_held_out_and_no_pictogram_shows_them():
    held_out = held_out_names()
    assert len(held_out) == 20
    drawn = {word_pieces(wording) for thing in pictograms.seen() for wording in thing.wordings}
    assert not [name for name in held_out if word_pieces(name) in drawn]
    assert set(held_out) <= set(read_names().meanings)


def test_the_validation_share_is_the_same_in_every_run(photographs):
    rest, aside = keep_aside(photographs, 0.25)
    assert len(aside.records) == 1
    files = [record.file_name for record in (*rest.records, *aside.records)]
    assert sorted(files) == [record.file_name for record in photographs.records]
    assert keep_aside(photographs, 0.25) == (rest, aside)


def test_a_folder_without_sets_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected folders with annotations.json"):
        read_sets(tmp_path)


# pictures


def test_boxes_move_with_the_pixels(photographs):
    data = dataset(photographs)
    for index in range(40):
        picture, _, _ = data.picture(index, (96, 72))
        pixels = np.asarray(picture.image).astype(int)
        red = pixels[..., 0] - pixels[..., 2] > 60  # brightness and contrast vary
        for name, (x1, y1, x2, y2) in picture.boxes:
            if name == "dog" and red.any():
                rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
                assert (
                    np.abs(np.array([x1, y1, x2, y2]) - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).max()
                    < 2.5
                )


def test_cut_outs_have_boxes_where_their_pixels_are(tmp_path):
    photographs = read_set(write_set(tmp_path / "mine", [[("dog", (20, 30, 100, 90))], [], []]))
    data = dataset(photographs, cut_outs=1.0, prompts=PromptSettings(24, unanswered=0.0))
    counts = set()
    for index in range(60):
        picture, _, _ = data.picture(index, (96, 72))
        pixels = np.asarray(picture.image).astype(int)
        red = pixels[..., 0] - pixels[..., 2] > 20
        unboxed = red.copy()
        counts.add(len(picture.boxes))
        for _, (x1, y1, x2, y2) in picture.boxes:
            if pixels.std(axis=2).max() > 5:  # not a picture in grey
                assert red[round(y1) : round(y2), round(x1) : round(x2)].mean() > 0.35
            unboxed[max(int(y1) - 2, 0) : int(y2) + 3, max(int(x1) - 2, 0) : int(x2) + 3] = False
        assert picture.cut or not unboxed.any()  # nothing is pasted without a box
    assert {0, 1, 2} <= counts


def test_samples_are_valid_and_depend_on_index_and_epoch_alone(photographs):
    data = dataset(photographs, mosaics=0.3, pasted=0.5, cut_outs=0.3, things=pictograms.seen()[:40])
    other = dataset(photographs, mosaics=0.3, pasted=0.5, cut_outs=0.3, things=pictograms.seen()[:40])
    for index in range(24):
        sample, again = data[index], other[index]
        assert (sample.pixel_values == again.pixel_values).all()
        assert sample.prompt == again.prompt
        assert len({word_pieces(phrase) for phrase in sample.prompt}) == len(sample.prompt) > 0
        assert (sample.target.phrases < len(sample.prompt)).all()
    other.set_epoch(1)
    assert any((data[index].pixel_values.shape != other[index].pixel_values.shape) or
               (data[index].pixel_values != other[index].pixel_values).any() for index in range(4))  # fmt: skip


def test_absent_names_fit_nothing_in_the_picture(photographs):
    data = dataset(photographs, mosaics=0.5, cut_outs=0.5, prompts=PromptSettings(24, unanswered=0.3))
    for index in range(60):
        picture, prompt, phrases = data.picture(index, (96, 72))
        used = {prompt[number] for number in phrases}
        for phrase in set(prompt) - used:
            if phrases:
                assert not any(word_pieces(phrase) in NAMES.answers(name) for name in picture.shown), (
                    phrase,
                    picture.shown,
                )


def test_unanswered_prompts_have_phrases_and_no_boxes(photographs):
    always = dataset(photographs, prompts=PromptSettings(24, unanswered=1.0))
    assert all(not len(always[index].target.boxes) and always[index].prompt for index in range(12))
    never = dataset(photographs, prompts=PromptSettings(24, unanswered=0.0))
    shown = [never.picture(index, (96, 72)) for index in range(12)]
    assert all(len(phrases) == len(picture.boxes) for picture, _, phrases in shown)


def test_a_view_without_boxes_of_a_partly_labelled_set_still_has_a_prompt(tmp_path):
    photographs = read_set(write_set(tmp_path / "tools", [[("dog", (0, 0, 12, 12))]]))
    data = dataset(photographs, all_names=1.0)
    samples = [data[index] for index in range(40)]
    assert any(not len(sample.target.boxes) for sample in samples)
    assert all(sample.prompt for sample in samples)


def test_a_hypernym_replaces_all_names_that_it_covers(tmp_path):
    boxes = [("dog", (10, 10, 60, 60)), ("cat", (80, 30, 140, 100))]
    mine = read_set(write_set(tmp_path / "mine", [boxes]))
    data = dataset(mine, broader=1.0, prompts=PromptSettings(24, unanswered=0.0), all_names=0.0)
    seen = set()
    for index in range(30):
        picture, prompt, phrases = data.picture(index, (96, 72))
        called = {name: prompt[number] for (name, _), number in zip(picture.boxes, phrases, strict=True)}
        seen |= set(called.values())
        assert "animal" not in called.values() or set(called.values()) == {"animal"}
    assert "animal" in seen


def test_a_mixture_has_one_size_per_batch_and_draws_from_all_parts(photographs):
    first, second = dataset(photographs), dataset(photographs, seed=1)
    mixed = MixedDataset([first, second], [0.5, 0.5], 64, batch_size=4, sizes=[(96, 72), (72, 96)])
    order = list(EpochOrder(mixed))
    for start in range(0, 32, 4):
        assert len({mixed[index].pixel_values.shape for index in order[start : start + 4]}) == 1
    names = {mixed[index].target.name.split("/")[0] for index in range(20)}
    assert names == {"0", "1"}
    mixed.set_epoch(3)
    assert (first.epoch, second.epoch) == (3, 3)
    changed = MixedDataset([first, second], [0.4, 0.6], 64, batch_size=4, sizes=[(96, 72)])
    assert changed.fingerprint != mixed.fingerprint


def test_the_fingerprint_depends_on_records_and_settings(photographs):
    data = dataset(photographs)
    assert data.fingerprint == dataset(photographs).fingerprint
    fewer = replace(photographs, records=photographs.records[:2])
    assert data.fingerprint != dataset(fewer).fingerprint
    assert data.fingerprint != dataset(photographs, broader=0.5).fingerprint
    assert data.fingerprint != dataset(photographs, prompts=PromptSettings(24)).fingerprint


def test_each_set_needs_a_weight(photographs):
    with pytest.raises(
        ValueError, match=r"weights: expected at least one set and one weight for each set, got 1 sets, 2 weights"
    ):
        PhotographDataset([photographs], [1.0, 2.0], NAMES, 4, batch_size=2, sizes=[(64, 64)])


def test_wordings_are_the_names_and_their_synonyms():
    rng = random.Random(0)
    assert {NAMES.choose_wording("chihuahua", rng) for _ in range(40)} == {"chihuahua", "chihuahua dog"}
    assert NAMES.choose_wording("unheard of", rng) == "unheard of"
