"""JSON as COCO and ODVG need it: strict when read, deterministic when written, and errors that say where."""

from __future__ import annotations

import codecs
import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: bytes in another encoding, with file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: expected UTF-8, or UTF-16 with a byte order mark; {error.reason}") from None


def parse(text: str, path: Path, line: int | None = None) -> dict[str, Any]:
    """The object that `text` holds.

    Args:
        text: one JSON value; the whole file, or one line of it.
        path: the file, for messages.
        line: the number of the line that `text` is, counted from 1; None when it is the whole file.

    Raises:
        ValueError: no JSON (with line and column), a key twice in one object, NaN or infinity, or a value that is no
            object.
    """
    place = path if line is None else f"{path}:{line}"
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        cut_off = " (is it cut off?)" if error.pos >= len(text.rstrip()) else ""
        position = f"{path}:{line or error.lineno}:{error.colno}"
        raise ValueError(f"{position}: invalid JSON, {error.msg[0].lower()}{error.msg[1:]}{cut_off}") from None
    except RecursionError:
        raise ValueError(f"{place}: JSON nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object {{...}}, got {reprlib.repr(value)}")
    return value


def encode(value: Any) -> bytes:
    """`value` as one line of JSON in UTF-8, keys in their order, other scripts than Latin unescaped, with the line's
    end.

    Raises:
        ValueError: something that JSON cannot hold, NaN and infinity among it.
    """
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"JSON cannot hold this: {error}") from None


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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} stands twice in the object {reprlib.repr(fields)}")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected a finite number, got {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999 is fine JSON
        _refuse_constant(digits)
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
