"""Odd questions to one detector from several threads at once: each gets the answer that it would get alone."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from fuzz import FaultError
from small_detectors import ALL, assert_same, build, picture

from gdino_lib.detect.text_cache import TextCache

THREADS = 4
WORDS = [
    "cat",
    "dog",
    "remote control",
    "fire hydrant",
    "st. bernard",
    "C++",
    "no. 5",
    "red_circle",
    "😀",
    "\u200b",
    "猫",
]
AROUND = ["{}", "{}.", "{},", '"{}"', " {} ", "{};", "{}\n"]
WRONG = [None, 3, "", [], [""], [" "], ["cat", 3], [["cat"]], {"cat": 1}, ["dog " * 300], b"cat"]


@cache
def detectors():
    """One to share, with little room for phrases, and one to compare with; their weights are the same."""
    shared, alone = (build(language_guided=False) for _ in range(2))  # else the last bit of a phrase may choose a query
    shared.text_cache = TextCache(capacity=60)
    return shared, alone


def attack(rng, place):
    """As many questions as threads."""
    shared, alone = detectors()
    asked = [_question(rng) for _ in range(THREADS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of phrases without known words
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(lambda question: _answer(shared, question), asked))
        for question, answer in zip(asked, answers, strict=True):
            _compare(answer, _answer(alone, question), question)


def _question(rng):
    size = rng.choice([(90, 60), (60, 90), (64, 64), (1, 1), (300, 7)])
    if rng.random() < 0.15:
        return picture(0, size), rng.choice(WRONG)
    phrases = [rng.choice(AROUND).format(rng.choice(WORDS)) for _ in range(rng.randint(1, 5))]
    return picture(rng.randrange(5), size), phrases


def _answer(detector, question):
    try:
        return detector(*question, **ALL)
    except (ValueError, TypeError) as error:
        return str(error)


def _compare(answer, expected, question):
    if isinstance(answer, str) or isinstance(expected, str):
        if answer != expected:
            raise FaultError("silent loss", f"{question[1]!r}: {answer!r} in threads, {expected!r} alone")
        if "\n" in answer:
            raise FaultError("not one line", answer)
        return
    try:
        assert_same(answer, expected)
    except AssertionError as error:
        raise FaultError("silent loss", f"{question[1]!r}: {error}") from None
    if not set(answer.data["class_name"].tolist()) <= set(question[1]):
        raise FaultError("silent loss", f"{question[1]!r}: another label than the caller's")
