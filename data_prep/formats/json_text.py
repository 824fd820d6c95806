"""Strict reading of JSON, with the place of each fault, and deterministic writing."""

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
    """Read a text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Args:
        path: the file.
        errors: as for `bytes.decode`; "surrogateescape" replaces bytes that are not UTF-8 by unpaired surrogates.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file has another encoding; the message names the file and the line.
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
"""A surrogate in JSON text. A pair of escaped surrogates is one character; an unpaired surrogate is a fault."""


@dataclass(frozen=True)
class _Unusable:
    """A placeholder for a value that strict JSON refuses.

    Attributes:
        reason: why it is refused.
        is_object: True for an object with a repeated key, False for a number.
    """

    reason: str
    is_object: bool


def parse(text: str, path: Path, line: int | None = None, faults: Faults | None = None) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: the text of the whole file, or of one line.
        path: the file, for messages.
        line: the number of the line, counted from 1; None if `text` is the whole file.
        faults: receives a fault for NaN, infinity, unpaired surrogates and repeated keys. A field with such a value is left
            out; an object with a repeated key becomes None where it is an item of a list.

    Raises:
        ValueError: the text is not JSON (with line and column) or not an object; or there is a fault, and `faults` is None
            or strict.
    """
    value = _parse(text, path, line, faults)
    if not isinstance(value, dict):
        place = path if line is None else f"{path}:{line}"
        raise ValueError(f"{place}: expected an object {{...}}, got {reprlib.repr(value)}")
    return value


def parse_list(text: str, path: Path, faults: Faults | None = None) -> list[Any]:
    """Parse a JSON list that is a whole file; arguments and errors are those of `parse`."""
    value = _parse(text, path, None, faults)
    if not isinstance(value, list):
        raise ValueError(f"{path}: expected a list [...], got {reprlib.repr(value)}")
    return value


def _parse(text: str, path: Path, line: int | None, faults: Faults | None) -> Any:
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
    return value if is_sound else _usable(value, "", note)


def decode(text: str) -> Any:
    """Parse any JSON value, strictly.

    Raises:
        ValueError: the text is not strict JSON.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def encode(value: Any) -> bytes:
    """`value` as one line of JSON in UTF-8 that ends with "\\n"; keys keep their order, non-ASCII characters are not escaped.

    Raises:
        ValueError: JSON cannot represent `value`; NaN and infinity are refused, too.
    """
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"JSON cannot represent this: {error}") from None


def _usable(value: Any, place: str, note: Callable[[str], None]) -> Any:
    """`value` without fields that hold a refused value; in a list, a refused object becomes None.

    Args:
        value: a value that may hold `_Unusable` placeholders.
        place: path of `value` in the document, for messages.
        note: is called with a message for each refused value.
    """
    if isinstance(value, dict):
        kept = {}
        for name, field in value.items():
            where = f"{place}.{name}" if place else name
            if reason := _reason(name) or _reason(field):
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
    """Why a field must be left out, from its name or its value: a refused number or text, or a list with one; else ""."""
    if isinstance(field, list):
        return next((reason for item in field if (reason := "" if _is_object(item) else _reason(item))), "")
    if isinstance(field, str) and re.search("[\ud800-\udfff]", field):
        return "expected Unicode text, got an unpaired surrogate"
    return field.reason if isinstance(field, _Unusable) else ""


def _is_object(item: Any) -> bool:
    return isinstance(item, _Unusable) and item.is_object


def _double_key(pairs: list[tuple[str, Any]]) -> str:
    """A message that names a repeated key; "" if no key is repeated."""
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return ""
    names = [name for name, _ in pairs]
    double = next(name for name in names if names.count(name) > 1)
    return f"the key {double!r} occurs twice in the object {reprlib.repr(fields)}"


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
    if not math.isfinite(number):  # JSON allows 1e999
        _refuse_constant(digits)
    return number


def _mark_infinite(digits: str) -> float | _Unusable:
    number = float(digits)
    return number if math.isfinite(number) else _mark_constant(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
_FORGIVING = json.JSONDecoder(
    object_pairs_hook=_mark_double_key, parse_constant=_mark_constant, parse_float=_mark_infinite
)
