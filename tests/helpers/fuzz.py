"""A seeded fuzz: each input is drawn from its room's name and its number, so that any of them can be run again.

A room is a function (random generator, empty folder) that tries one input, and raises `FaultError` where it finds a fault. Any
other error that comes out of it is a traceback that a user would have seen.
"""

import contextlib
import io
import os
import random
import shutil
import signal
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_prep import findings

KINDS = ("traceback", "hang", "silent loss", "half-written", "not one line")
BEGINNINGS = "error: ", "warning: ", "note: ", "gdino_lib: ", "... and ", *(f"{kind}: " for kind in findings.KINDS)
LIMIT = 60  # seconds that an input may take


class FaultError(Exception):
    """What must not be, by one of `KINDS`."""

    def __init__(self, kind, detail):
        assert kind in KINDS
        super().__init__(detail)
        self.kind = kind


class HangError(BaseException):
    """An input took too long."""


@dataclass(frozen=True)
class Fault:
    room: str
    number: int
    kind: str
    detail: str

    def __str__(self):
        return f"{self.kind}: {self.room} {self.number}: {self.detail[:300]}"


def fuzz(room, attack, numbers, folder):
    """The faults of these inputs."""
    faults = []
    for number in numbers:
        place = folder / f"{room}-{number}"
        place.mkdir(parents=True)
        os.chdir(place)
        fault = attempt(attack, random.Random(f"{room}/{number}"), place)
        os.chdir(folder)
        if fault:
            faults.append(Fault(room, number, *fault))
        shutil.rmtree(place)
    return faults


def attempt(attack, rng, place):
    """(kind, detail) of the fault of one input, or None."""

    def interrupt(*_):
        raise HangError

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(LIMIT)
    try:
        attack(rng, place)
    except FaultError as fault:
        return fault.kind, str(fault)
    except HangError:
        return "hang", f"more than {LIMIT} seconds"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return None


def summary(faults):
    """The counts, and the first faults of each kind."""
    counts = Counter(fault.kind for fault in faults)
    lines = [f"{kind} {counts[kind]}" for kind in KINDS]
    for kind in KINDS:
        lines += [str(fault) for fault in faults if fault.kind == kind][:15]
    return "\n".join(lines)


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str


def run(main, arguments):
    """Run a command, and see that what it says is as it must be, whatever it was given."""
    out, err = io.StringIO(), io.StringIO()
    arguments = [str(argument) for argument in arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    ran = Ran(0 if status is None else status, out.getvalue(), err.getvalue())
    case = f"{arguments!r} -> {ran.status} {ran.err!r}"
    if ran.status not in (0, 1, 2):
        raise FaultError("traceback", case)
    lines = ran.err.split("\n")[:-1]
    refusals = [line for line in lines if line.startswith("error: ")]
    others = [line for line in lines if not line.startswith(BEGINNINGS)]
    silent = ran.status == 2 and not refusals
    unprintable = {sign for sign in ran.out + ran.err if sign != "\n" and not sign.isprintable()}
    if others or silent or unprintable or (ran.err and not ran.err.endswith("\n")):
        raise FaultError("not one line", case)
    return ran


def check_nothing_aside(place):
    """No run leaves what it wrote aside."""
    left = [path for path in place.rglob("*") if path.name.endswith((".partial", ".old"))]
    if left:
        raise FaultError("half-written", f"left behind: {left[0].name}")
