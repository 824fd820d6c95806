"""The fields of annotation objects: checked when read, none lost when written, and errors that say where."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

Value = TypeVar("Value")

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


def four_numbers(value: Any) -> list[int | float]:
    """`value`, when it is a list of four numbers.

    Raises:
        ValueError: it is something else.
    """
    if (
        not isinstance(value, list)
        or len(value) != 4
        or any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in value)
    ):
        raise ValueError(f"expected 'bbox' to be four numbers, got {reprlib.repr(value)}")
    return value


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
