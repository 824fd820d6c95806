"""Pickles of lists, dictionaries, texts and numbers, read without running anything that the file holds.

A pickle is a program. Some of its instructions import and call functions, so that a strange file can do anything. `read` goes
through the instructions first, and refuses a file that has any instruction which plain values do not need.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from data_prep.formats.fields import located

PLAIN = frozenset(
    {"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"}
    | {"LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"}
    | {"DICT", "EMPTY_DICT", "SETITEM", "SETITEMS", "TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
    | {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"}
)
"""The instructions of a pickle of plain values, by their names in `pickletools`."""
STORING = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def read(path: Path) -> Any:
    """The value of a pickle, also of one that Python 2 has written; its byte strings are read as UTF-8.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: damaged, or with anything but lists, tuples, dictionaries, texts, numbers, true, false and None; one
            line, and nothing was run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes()
    with located(path):
        _check(data)
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
        except Exception as error:  # damaged bytes make pickle fail in a dozen ways
            raise _damaged(error) from None


def _check(data: bytes) -> None:
    """Refuse instructions that plain values do not need, and places in memory that no plain writer uses."""
    instructions = pickletools.genops(data)
    number = 0
    while True:
        try:
            opcode, argument, _ = next(instructions)
        except StopIteration:
            return
        except Exception as error:
            raise _damaged(error) from None
        if opcode.name not in PLAIN:
            what = f"{opcode.name} {argument}" if isinstance(argument, str) else opcode.name
            raise ValueError(f"expected a pickle of plain values, got the instruction {what[:80]!r}; nothing was run")
        number += 1
        if opcode.name in STORING and not (isinstance(argument, int) and argument <= number):
            raise ValueError(f"expected values numbered in turn, got the number {argument}; nothing was run")


def _damaged(error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"damaged, or no pickle: {reason[:200]}")


class _PlainUnpickler(pickle.Unpickler):
    """Knows no type by name; `_check` has refused the instructions that ask for one."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise ValueError(f"expected plain values, got {module_name}.{global_name}")
