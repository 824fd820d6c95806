"""`.pth` files, which are pickles: read without running anything that they hold, and without unpacking a bomb.

`torch.load` with `weights_only` knows tensors and plain values. Training scripts keep more beside them: the command line, paths,
NumPy's numbers. Such types are known here by name, and in place of each stands `_Skipped`, which keeps nothing: neither
the type itself nor its module is needed, and no code of theirs runs.
"""

from __future__ import annotations

import mmap
import pickle
import re
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from gdino_lib.messages import first_line

_ARRAY = b"bytearray\n"  # as a pickle names it
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_ARRAYS = ("_reconstruct", "scalar")
_NUMBERS = (
    *("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
    *("Float16", "Float32", "Float64", "Str"),
)
SKIPPED = (  # what training scripts keep beside the weights
    *("argparse.Namespace", "types.SimpleNamespace"),
    *("datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.timezone"),
    *("builtins.int", "builtins.float", "builtins.bool", "builtins.str", "builtins.list", "builtins.dict"),
    *("builtins.tuple", "builtins.frozenset", "builtins.range", "builtins.slice"),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in _ARRAYS),
    *("numpy.ndarray", "numpy.dtype", *(f"numpy.dtypes.{name}DType" for name in _NUMBERS)),
    *("util.slconfig.SLConfig", "groundingdino.util.slconfig.SLConfig"),
)
MAPPINGS = (  # the same, filled with keys and values
    *("collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode"),
    *("util.slconfig.ConfigDict", "groundingdino.util.slconfig.ConfigDict"),
)


class _Skipped:
    """Stands in place of an object that nobody needs."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _SkippedMapping:
    """Stands in place of a type whose pickle sets keys, which torch lets an `OrderedDict` do."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def _stand_in(name: str, kind: type) -> type:
    """A type of its own that torch takes for the one of that full name."""
    module, _, own = name.rpartition(".")
    return type(own, (kind,), {"__module__": module, "__qualname__": own})


_STAND_INS: list[Any] = [_stand_in(name, _Skipped) for name in SKIPPED] + [
    _stand_in(name, _SkippedMapping) for name in MAPPINGS
]
_ONE_AT_A_TIME = threading.Lock()  # torch keeps the list of known types for the whole process


def read_torch(path: Path) -> Any:
    """What `torch.save` has written, on the CPU; stand-ins for the types of `SKIPPED` and `MAPPINGS`.

    Raises:
        ValueError: damaged, larger when unpacked, or with other things inside; one line, and nothing was executed.
        OSError: not readable.
    """
    _check_size(path)
    try:
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))  # torch's own words advise to open it all the same
        if wanted is None:
            raise ValueError(f"{path} is damaged, or holds more than tensors, and is not opened further") from None
        raise ValueError(
            f"{path} holds more than tensors ({wanted[1]}), which could run code, and is not opened further; "
            "save its state dict alone where it was made"
        ) from None
    except Exception as error:  # damaged bytes make torch fail in a dozen ways
        reason = first_line(error)[:300].split(". ")[0]  # further sentences advise to open it all the same
        raise ValueError(f"{path} is damaged, or no file of tensors: {reason}") from None


def _check_size(path: Path) -> None:
    """Refuse a file that takes far more memory than it has bytes.

    That is an archive with compressed contents, since torch does not compress, or a pickle with a `bytearray`, which
    torch builds of whatever length the file says.

    Raises:
        ValueError: it is one of them.
    """
    packed, unpacked, has_array = path.stat().st_size, 0, False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked <= packed:
                has_array = any(_ARRAY in archive.read(entry) for entry in entries if entry.filename.endswith(".pkl"))
    except Exception:  # the older layout, or damaged in one of many ways, which is for torch to say
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if packed else b""
            has_array = content.find(_ARRAY) >= 0
    if unpacked > packed:
        raise ValueError(
            f"{path} has {packed} bytes and would become {unpacked} when unpacked, which torch.save never writes; "
            "if you trust it, unpack it elsewhere and save its state dict again"
        )
    if has_array:
        raise ValueError(f"{path} holds more than tensors (bytearray), and is not opened further")
