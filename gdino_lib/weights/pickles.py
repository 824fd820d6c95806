"""Read `.pth` files, which are pickles, without running anything that they hold and without unpacking a bomb.

`torch.load` with `weights_only` reads tensors and plain values. Training scripts store other objects beside them: the
command line, paths, NumPy's numbers. This module knows such types by name and replaces their objects by `_Skipped`, which
keeps nothing. Neither the types nor their modules are imported, and none of their code runs.
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

_ARRAY = b"bytearray\n"  # how a pickle names the type
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
MAPPINGS = (  # such types that hold keys and values
    *("collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode"),
    *("util.slconfig.ConfigDict", "groundingdino.util.slconfig.ConfigDict"),
)


class _Skipped:
    """Replaces an object that loading does not need."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _SkippedMapping:
    """Replaces a type whose pickle sets keys, which torch allows for an `OrderedDict`."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def _stand_in(name: str, kind: type) -> type:
    """A new type that torch takes for the type of that full name."""
    module, _, own = name.rpartition(".")
    return type(own, (kind,), {"__module__": module, "__qualname__": own})


_STAND_INS: list[Any] = [_stand_in(name, _Skipped) for name in SKIPPED] + [
    _stand_in(name, _SkippedMapping) for name in MAPPINGS
]
_ONE_AT_A_TIME = threading.Lock()  # torch keeps the list of known types for the whole process


def read_torch(path: Path) -> Any:
    """Read a file of `torch.save` onto the CPU, with stand-ins for the types of `SKIPPED` and `MAPPINGS`.

    Raises:
        ValueError: the file is damaged, would grow when unpacked, or holds other objects; one line, and nothing was executed.
        OSError: the file cannot be read.
    """
    _check_size(path)
    try:
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))  # torch's own message advises to load the file anyway
        if wanted is None:
            raise ValueError(f"{path} is damaged, or holds more than tensors, and is not opened further") from None
        raise ValueError(
            f"{path} holds more than tensors ({wanted[1]}), which could run code, and is not opened further; "
            "save its state dict alone with the program that wrote the file"
        ) from None
    except Exception as error:  # damaged bytes make torch fail in a dozen ways
        reason = first_line(error)[:300].split(". ")[0]  # torch's further sentences advise to load the file anyway
        raise ValueError(f"{path} is damaged, or no file of tensors: {reason}") from None


def _check_size(path: Path) -> None:
    """Refuse a file that would take far more memory than it has bytes.

    Such a file is an archive with compressed contents, which torch never writes, or a pickle with a `bytearray`, which
    torch allocates at the length that the file states.

    Raises:
        ValueError: the file is such an archive or pickle.
    """
    packed, unpacked, has_array = path.stat().st_size, 0, False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked <= packed:
                has_array = any(_ARRAY in archive.read(entry) for entry in entries if entry.filename.endswith(".pkl"))
    except Exception:  # a file of the older layout, or a damaged one, which torch.load refuses later
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
