"""Read the fields of annotation objects with checks, and write them without losing any."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from data_prep.records import Dataset, Number, as_whole_number, base_name, check_file_name, parse_number

Value = TypeVar("Value")
Mend: TypeAlias = Callable[[str, object], None]
"""(message about a value that breaks the rules, the value that it is read as); for a strict reader it raises `ValueError`."""

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
        ValueError: it is missing, or not of `kind`; true and false do not count as integers.
    """
    value = item.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        got = reprlib.repr(value) if name in item else "nothing"
        raise ValueError(f"expected {name!r} to be {_KINDS[kind]}, got {got}")
    return value


def take_whole(item: Mapping[str, Any], name: str, mend: Mend) -> int:
    """The integer of `item` under `name`; 640.0, "640" and "640.0" are read as 640, with a call of `mend`.

    Raises:
        ValueError: it is missing, or not a whole number.
    """
    value = item.get(name)
    number = as_whole_number(value)
    if number is None or (isinstance(value, int) and number == value):
        return take(item, name, int)
    mend(f"expected {name!r} to be an integer, got {reprlib.repr(value)}", number)
    return number


def plain_file_name(name: str, mend: Mend) -> str:
    """A file name inside its folder; "images\\a.jpg" is mended to "images/a.jpg", "/home/me/a.jpg" to "a.jpg".

    Raises:
        ValueError: the path has no file name.
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
        ValueError: it is missing or not a list, or one of its items is not an object.
    """
    values = take(item, name, list)
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"expected {name}[{index}] to be an object, got {reprlib.repr(value)}")
    return values


def four_numbers(value: Any, mend: Mend | None = None) -> list[Number]:
    """Check that `value` is a list of four numbers; with `mend`, numbers may also be texts such as "3.5".

    Raises:
        ValueError: `value` is anything else.
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
    """Refuse repeated values.

    Raises:
        ValueError: a value is repeated; the message names the first five repeated values.
    """
    repeated = [repr(value) for value, times in Counter(values).items() if times > 1]
    if repeated:
        more = ", ..." if len(repeated) > 5 else ""
        raise ValueError(f"expected each {kind} once, got more than once: {', '.join(repeated[:5])}{more}")


def without(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields of `item` except those in `names`."""
    return {name: value for name, value in item.items() if name not in names}


def joined(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a format writes itself, then those of `extra`.

    Raises:
        ValueError: a name is in both, so that one of its two values would be lost.
    """
    for name in extra:
        if name in fields:
            raise ValueError(f"the extra field {name!r} has a name that the format itself uses; rename or drop it")
    return {**fields, **extra}


def lost_categories(dataset: Dataset) -> dict[str, int]:
    """What a format loses of the categories if it stores only the labels of boxes; counted as by `Format.left_out`."""
    counts = dataset.class_counts
    used = sorted(name for name, count in counts.items() if count)
    unused = len(counts) - len(used)
    lost = {"category without boxes": unused} if unused else {}
    in_order = [name for name in dataset.categories if counts[name]]
    return lost | ({"order of the categories": 1} if in_order and in_order != used else {})
