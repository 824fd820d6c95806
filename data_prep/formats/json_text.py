"""JSON: strict when read, deterministic when written, and errors that say where."""

from __future__ import annotations

import codecs
import json
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.findings import Faults


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Args:
        path: the file.
        errors: "surrogateescape" puts halves of letters in place of bytes in another encoding.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: bytes in another encoding, with file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16") if is_utf16 else data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: expected UTF-8, or UTF-16 with a byte order mark; {error.reason}") from None


SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""What may be half of a letter: a pair of such escapes is a whole one."""


@dataclass(frozen=True)
class _Unusable:
    """Stands for a value that strict JSON refuses."""

    reason: str
    is_object: bool


def parse(text: str, path: Path, line: int | None = None, faults: Faults | None = None) -> dict[str, Any]:
    """The object that `text` holds.

    Args:
        text: one JSON value; the whole file, or one line of it.
        path: the file, for messages.
        line: the number of the line that `text` is, counted from 1; None when it is the whole file.
        faults: takes NaN, infinities, halves of letters and keys that stand twice; the fields that hold them are left
            out, and so are the elements of a list.

    Raises:
        ValueError: no JSON (with line and column), a key twice in one object, NaN or infinity, or a value that is no
            object.
    """
    place = path if line is None else f"{path}:{line}"

    def note(detail: str) -> None:
        if faults is None or faults.strict:
            raise ValueError(f"{place}: {detail}")
        faults.add("detail unreadable", detail, line)

    try:
        try:
            value = _DECODER.decode(text)
            is_sound = not SURROGATE.search(text)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            if faults is None or faults.strict:
                raise ValueError(f"{place}: {error}") from None
            value, is_sound = _FORGIVING.decode(text), False
    except json.JSONDecodeError as error:
        cut_off = " (is it cut off?)" if error.pos >= len(text.rstrip()) else ""
        position = f"{path}:{line or error.lineno}:{error.colno}"
        raise ValueError(f"{position}: invalid JSON, {error.msg[0].lower()}{error.msg[1:]}{cut_off}") from None
    except RecursionError:
        raise ValueError(f"{place}: JSON nested too deeply") from None
    if not is_sound:
        value = _usable(value, "", note)
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object {{...}}, got {reprlib.repr(value)}")
    return value


def decode(text: str) -> Any:
    """The value that `text` spells in strict JSON.

    Raises:
        ValueError: it spells none.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def encode(value: Any) -> bytes:
    """`value` as one line of JSON in UTF-8, with its line end; keys in their order, all scripts unescaped.

    Raises:
        ValueError: something that JSON cannot hold, NaN and infinity among it.
    """
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"JSON cannot hold this: {error}") from None


def _usable(value: Any, place: str, note: Callable[[str], None]) -> Any:
    """`value` without the fields that hold something unusable; None in place of such an object in a list."""
    if isinstance(value, dict):
        kept = {}
        for name, field in value.items():
            where = f"{place}.{name}" if place else name
            if reason := _reason(field):
                note(f"{where}: {reason}")
            else:
                kept[name] = _usable(field, where, note)
        return kept
    if isinstance(value, list):
        return [_usable(item, f"{place}[{index}]", note) for index, item in enumerate(value)]
    if isinstance(value, _Unusable):
        note(f"{place}: {value.reason}")
        return None
    return value


def _reason(field: Any) -> str:
    """Why a field cannot be used: it is no number or text that JSON can hold, or a list with such a one."""
    if isinstance(field, list):
        return next((reason for item in field if (reason := "" if _is_object(item) else _reason(item))), "")
    if isinstance(field, str) and re.search("[\ud800-\udfff]", field):
        return "half of a letter, which no UTF-8 can hold"
    return field.reason if isinstance(field, _Unusable) else ""


def _is_object(item: Any) -> bool:
    return isinstance(item, _Unusable) and item.is_object


def _double_key(pairs: list[tuple[str, Any]]) -> str:
    """Which key stands twice, in words; "" if none does."""
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return ""
    names = [name for name, _ in pairs]
    double = next(name for name in names if names.count(name) > 1)
    return f"the key {double!r} stands twice in the object {reprlib.repr(fields)}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if reason := _double_key(pairs):
        raise ValueError(reason)
    return dict(pairs)


def _mark_double_key(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unusable:
    reason = _double_key(pairs)
    return _Unusable(reason, is_object=True) if reason else dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected a finite number, got {name}")


def _mark_constant(name: str) -> _Unusable:
    return _Unusable(f"expected a finite number, got {name}", is_object=False)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999 is fine JSON
        _refuse_constant(digits)
    return number


def _mark_infinite(digits: str) -> float | _Unusable:
    number = float(digits)
    return number if math.isfinite(number) else _mark_constant(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
_FORGIVING = json.JSONDecoder(
    object_pairs_hook=_mark_double_key, parse_constant=_mark_constant, parse_float=_mark_infinite
)
