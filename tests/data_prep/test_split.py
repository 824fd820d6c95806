import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.split import split, split_in_three

NAMES = st.sets(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), max_size=30)


@given(NAMES, st.integers(0, 2**40), st.data())
def test_every_name_is_in_exactly_one_part(names, seed, data):
    count = data.draw(st.integers(0, len(names)))
    train, test = split(names, count, seed)
    assert len(train) == count
    assert set(train) | set(test) == names
    assert not set(train) & set(test)
    assert train == sorted(train)
    assert test == sorted(test)


@given(NAMES, st.data())
def test_order_and_repetition_change_nothing(names, data):
    shuffled = data.draw(st.permutations(sorted(names)))
    count = data.draw(st.integers(0, len(names)))
    assert split(shuffled + shuffled[:3], count, seed=5) == split(sorted(names), count, seed=5)


@given(NAMES, st.integers(0, 2**40), st.data())
def test_validation_images_are_taken_from_the_training_part_alone(names, seed, data):
    train = data.draw(st.integers(0, len(names)))
    val = data.draw(st.integers(0, len(names) - train))
    training, validation, test = split_in_three(names, train, val, seed)
    assert (len(training), len(validation)) == (train, val)
    assert sorted(training + validation + test) == sorted(names)
    assert (sorted(training + validation), test) == split(names, train + val, seed)
    assert training == split(names, train, seed)[0]


def test_without_validation_images_the_split_is_that_of_split():
    names = [f"{n}.jpg" for n in range(853)]
    assert split_in_three(names, 600, 0) == (split(names, 600)[0], [], split(names, 600)[1])
    assert split_in_three(names, 500, 100)[2] == split(names, 600)[1]


@pytest.mark.parametrize(("train", "val"), [(-1, 1), (1, -1), (2, 2)])
def test_parts_that_do_not_fit_are_refused(train, val):
    wanted = f"cannot take {train} training and {val} validation images from 3; expected 0 to 3 together"
    with pytest.raises(ValueError, match=wanted):
        split_in_three(["a", "b", "c"], train, val)


def test_another_seed_gives_another_split():
    names = [f"{n}.jpg" for n in range(100)]
    assert split(names, 50, seed=0) != split(names, 50, seed=1)


def test_a_larger_training_part_contains_the_smaller_one():
    names = [f"{n}.jpg" for n in range(100)]
    assert set(split(names, 30)[0]) < set(split(names, 60)[0])


def test_a_name_draws_the_same_lot_however_its_accents_are_stored():
    others = [f"{n}.jpg" for n in range(20)]
    for count in range(21):
        composed, _ = split([*others, "caf\u00e9.jpg"], count)
        decomposed, _ = split([*others, "cafe\u0301.jpg"], count)
        assert ("caf\u00e9.jpg" in composed) == ("cafe\u0301.jpg" in decomposed)


def test_this_split_never_changes():
    names = [f"maksssksksss{n}.jpg" for n in range(10)]
    assert split(names, 3, seed=0)[0] == ["maksssksksss1.jpg", "maksssksksss2.jpg", "maksssksksss7.jpg"]


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_that_does_not_fit_is_refused(count):
    with pytest.raises(ValueError, match=f"cannot take {count} training images from 3; expected 0 to 3"):
        split(["a", "b", "c"], count)
