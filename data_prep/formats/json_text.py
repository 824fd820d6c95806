"""JSON: strict when read, deterministic when written, and errors that say where."""

from __future__ import annotations

import codecs
import json
import math
import reprlib
from pathlib import Path
from typing import Any


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
    """`value` as one line of JSON in UTF-8, with its line end; keys in their order, all scripts unescaped.

    Raises:
        ValueError: something that JSON cannot hold, NaN and infinity among it.
    """
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise ValueError(f"JSON cannot hold this: {error}") from None


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
