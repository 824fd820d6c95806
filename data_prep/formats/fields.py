"""The fields of annotation objects: checked when read, none lost when written, and errors that say where."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from data_prep.records import Dataset, Number, as_whole_number, base_name, check_file_name, parse_number

Value = TypeVar("Value")
Mend: TypeAlias = Callable[[str, object], None]
"""Takes what is wrong with a value, and what it is read as; a strict reader raises `ValueError` there."""

_KINDS = {dict: "an object", list: "a list", str: "a text", int: "an integer"}


@contextmanager
def located(place: object) -> Iterator[None]:
    """Put `place` before the message of a `ValueError` raised in the block: "set.json: annotation 17: ..."."""
    try:
        yield
    except (ValueError, OverflowError) as error:  # OverflowError: an integer too long to be a coordinate
        raise ValueError(f"{place}: {error}") from None


def take(item: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    """The value of `item` under `name`.

    Raises:
        ValueError: it is missing, or not of `kind`; true and false are no integers.
    """
    value = item.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        got = reprlib.repr(value) if name in item else "nothing"
        raise ValueError(f"expected {name!r} to be {_KINDS[kind]}, got {got}")
    return value


def take_whole(item: Mapping[str, Any], name: str, mend: Mend) -> int:
    """The integer of `item` under `name`; 640.0, "640" and "640.0" are mended.

    Raises:
        ValueError: it is missing, or no integer.
    """
    value = item.get(name)
    number = as_whole_number(value)
    if number is None or (isinstance(value, int) and number == value):
        return take(item, name, int)
    mend(f"expected {name!r} to be an integer, got {reprlib.repr(value)}", number)
    return number


def plain_file_name(name: str, mend: Mend) -> str:
    """A file name that stays in its folder: "images\\a.jpg" is mended to "images/a.jpg", "/home/me/a.jpg" to "a.jpg".

    Raises:
        ValueError: no file name is left.
    """
    try:
        return check_file_name(name)
    except ValueError as error:
        plain = name.replace("\\", "/") if isinstance(name, str) else ""
        if plain.startswith("/") or plain[1:2] == ":" or ".." in plain.split("/"):
            plain = base_name(plain)
        if not plain.strip():
            raise
        plain = check_file_name(plain)
        mend(str(error), plain)
        return plain


def take_objects(item: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects of `item` under `name`.

    Raises:
        ValueError: it is missing, no list, or has an element that is no object.
    """
    values = take(item, name, list)
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"expected {name}[{index}] to be an object, got {reprlib.repr(value)}")
    return values


def four_numbers(value: Any, mend: Mend | None = None) -> list[Number]:
    """`value`, when it is a list of four numbers; texts that spell numbers are mended, if `mend` is given.

    Raises:
        ValueError: it is something else.
    """
    problem = f"expected 'bbox' to be four numbers, got {reprlib.repr(value)}"
    if not isinstance(value, list) or len(value) != 4 or any(isinstance(number, bool) for number in value):
        raise ValueError(problem)
    if all(isinstance(number, (int, float)) for number in value):
        return value
    if mend is None or not all(isinstance(number, (int, float, str)) for number in value):
        raise ValueError(problem)
    try:
        numbers = [parse_number(number) if isinstance(number, str) else number for number in value]
    except ValueError:
        raise ValueError(problem) from None
    mend(problem, numbers)
    return numbers


def check_unique(values: Iterable[str | int], kind: str) -> None:
    """Refuse a value that comes twice.

    Raises:
        ValueError: names the doubles, the first five if there are more.
    """
    doubles = [repr(value) for value, times in Counter(values).items() if times > 1]
    if doubles:
        more = ", ..." if len(doubles) > 5 else ""
        raise ValueError(f"expected each {kind} once, got more than once: {', '.join(doubles[:5])}{more}")


def without(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields of `item` but those in `names`."""
    return {name: value for name, value in item.items() if name not in names}


def joined(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a format writes itself, then those of `extra`.

    Raises:
        ValueError: a name is in both; one of the two values would be lost.
    """
    for name in extra:
        if name in fields:
            raise ValueError(f"the extra field {name!r} has a name that the format itself uses; rename or drop it")
    return {**fields, **extra}


def lost_categories(dataset: Dataset) -> dict[str, int]:
    """What is lost of the categories, as `Format.left_out` tells it, where only the labels of boxes name them."""
    used = sorted(name for name, count in dataset.class_counts.items() if count)
    unused = len(dataset.class_counts) - len(used)
    lost = {"category without boxes": unused} if unused else {}
    in_order = [name for name in dataset.categories if name in set(used)]
    return lost | ({"order of the categories": 1} if in_order and in_order != used else {})
