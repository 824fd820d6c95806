"""Damaged files of a run: the run refuses them in one line that names the file, or reads exactly what was saved."""

import copy
import json
import math
import random
import shutil

import pytest
import torch
from small_runs import SETTINGS, dataset
from training_runs import run

from gdino_lib.training import checkpoints, run_folder
from gdino_lib.training.log import LOG, read_log

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK, ALL = 40, 2000  # seeded variants of a test; the first part is always tried
VARIANTS = [
    pytest.param(number, marks=[] if number == QUICK else pytest.mark.slow) for number in range(QUICK, ALL + 1, QUICK)
]
WRONG = [None, True, -1, -0.5, 0, 10**400, 1e308, "", "7", [], {}, [1], {"a": 1}, math.nan]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole run with an average and a validation, and its data."""
    folder = tmp_path_factory.mktemp("saved")
    data = dataset(folder / "images")
    settings = SETTINGS.__class__(**(SETTINGS.to_dict() | {"ema": 0.5}))
    training = run(folder, settings=settings, data=data)
    training.fit()
    last = checkpoints.steps(folder / "run")[-1]
    state = json.loads((last / checkpoints.STATE).read_text())
    return folder, data, settings, last, state, training


def resumed(saved, folder):
    _, data, settings, *_ = saved
    return run(folder, settings=settings, data=data, resume=True)


def tried(function, *arguments):
    """(the result of the function, None), or (None, the message of its refusal)."""
    try:
        return function(*arguments), None
    except (ValueError, FileNotFoundError) as error:
        return None, str(error)


def copied(saved, folder):
    shutil.copytree(saved[0] / "run", folder / "run")
    return checkpoints.steps(folder / "run")[-1]


def same_state(one, other):
    """Whether two trainers would go on in the same way."""
    progress = [(each.step, each.best, each.waited, each.judged, each.loop.average.updates) for each in (one, other)]
    tensors = [
        [*each.loop.module.state_dict().values(), *each.loop.average.averages.values()]
        + [value for _, entry in sorted(each.loop.optimizer.state_dict()["state"].items()) for value in entry.values()]
        for each in (one, other)
    ]
    return progress[0] == progress[1] and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


def leaves(value, path=()):
    """The path of every value in nested dictionaries and lists, the inner ones first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from leaves(part, (*path, key))
    if path:
        yield path


def damage(value, rng):
    """A copy with one entry missing, of another type or out of range; and the entry's path."""
    result = copy.deepcopy(value)
    path = rng.choice(list(leaves(result)))
    owner = result
    for key in path[:-1]:
        owner = owner[key]
    if rng.random() < 0.3:
        del owner[path[-1]]
    else:
        owner[path[-1]] = rng.choice(WRONG)
    return result, path


def flipped(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 3, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content) if rng.random() < 0.8 else bytes(content[: rng.randrange(len(content))])


@pytest.mark.parametrize("last", VARIANTS)
def test_any_damage_to_a_checkpoint_is_refused_or_harmless(saved, tmp_path, last):
    """In turn: flipped bytes of each file, a changed `state.json`, the same without digests, a changed `training.pt`."""
    folder = copied(saved, tmp_path)
    files = {name: (folder / name).read_bytes() for name in checkpoints.FILES}
    whole = resumed(saved, saved[0])
    names = [f"checkpoints/{folder.name}/{name}" for name in checkpoints.FILES]
    refused = 0
    for number in range(last - QUICK, last):
        rng, kind = random.Random(number), number % 6
        may_differ = kind == 4  # without digests, a number within its range cannot be told from the true one
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if kind < 3:
            name = checkpoints.FILES[kind]
            (folder / name).write_bytes(flipped(files[name], rng))
        elif kind < 5:
            state = dict(saved[4])
            if kind == 4:  # as earlier versions wrote it
                del state[checkpoints.DIGESTS]
            (folder / checkpoints.STATE).write_text(json.dumps(damage(state, rng)[0]))
        else:
            training = torch.load(folder / checkpoints.TRAINING, weights_only=True)
            damaged, path = damage(training, rng)
            torch.save(damaged, folder / checkpoints.TRAINING)
            # a parameter without a gradient so far has no entry, so that without digests none is missed
            may_differ = path[:2] == ("optimizer", "state") and len(path) == 3
            state = {key: value for key, value in saved[4].items() if key != checkpoints.DIGESTS}
            (folder / checkpoints.STATE).write_text(json.dumps(state))
        went_on, said = tried(resumed, saved, tmp_path)
        if said is not None:
            assert "\n" not in said
            assert len(said) < 600
            assert any(said.startswith(str(tmp_path / "run" / name)) for name in names), said
        refused += said is not None
        if went_on and not may_differ:
            assert same_state(went_on, whole), number
    assert refused > QUICK / 2


@pytest.mark.parametrize("last", VARIANTS)
def test_any_damage_to_a_log_is_refused_or_loses_nothing(saved, tmp_path, last):
    text = (saved[0] / "run" / LOG).read_text()
    lines = text.splitlines()
    refused = 0
    for number in range(last - QUICK, last):
        rng = random.Random(number)
        if number % 2:
            content = flipped(text.encode(), rng)
        else:
            entry, _ = damage([json.loads(line) for line in lines], rng)
            content = "".join(json.dumps(each) + "\n" for each in entry).encode()
        (tmp_path / LOG).write_bytes(content)
        entries, said = tried(read_log, tmp_path)
        if said is not None:
            assert said.startswith(str(tmp_path / LOG))
            assert "\n" not in said
        else:  # but for what follows the last line's end, every line is an entry
            assert content.count(b"\n") <= sum(map(len, entries)) <= content.count(b"\n") + 1
        refused += said is not None
    assert refused > QUICK / 4


def test_a_damaged_log_stops_a_run_that_would_rewrite_it(saved, tmp_path):
    copied(saved, tmp_path)
    log = tmp_path / "run" / LOG
    lines = log.read_text().splitlines()
    damaged = "\n".join([lines[0], lines[1][:40], *lines[2:]]) + "\n"
    log.write_text(damaged)
    with pytest.raises(ValueError, match=r"log\.jsonl:2:"):
        resumed(saved, tmp_path).fit()
    assert log.read_text() == damaged


def test_a_run_can_resume_from_the_checkpoint_before_a_damaged_one(saved, tmp_path):
    folder = copied(saved, tmp_path)
    earlier = checkpoints.steps(tmp_path / "run")[0]
    (folder / checkpoints.STATE).write_text("{}")
    with pytest.raises(ValueError, match=f"remove {folder} to resume from {earlier.name}"):
        resumed(saved, tmp_path)
    shutil.rmtree(folder)
    assert resumed(saved, tmp_path).fit().step == saved[5].step


def test_a_run_can_resume_from_a_checkpoint_of_an_earlier_version(saved, tmp_path):
    """Such a checkpoint has neither digests of its files nor a digest of the pictures."""
    folder = copied(saved, tmp_path)
    state = {key: value for key, value in saved[4].items() if key not in (checkpoints.DIGESTS, "pictures")}
    (folder / checkpoints.STATE).write_text(json.dumps(state))
    with pytest.warns(UserWarning, match="it is unknown whether the pictures are still the same"):
        assert same_state(resumed(saved, tmp_path), resumed(saved, saved[0]))


def test_every_entry_that_a_trainer_saves_is_checked(saved):
    assert (
        run_folder.PROGRESS.keys() | {"step", "epoch", "versions", "pictures", checkpoints.DIGESTS} == saved[4].keys()
    )
