"""The compiled op: its registration with PyTorch, and its library, which is built at first use and cached.

Importing this module compiles nothing and needs no compiler. `load_library` looks in the cache for a library that fits the
installed torch, and builds one if there is none. If the build fails, it prints one line, once, and the readable reference is
used instead.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from gdino_lib.messages import printable
from gdino_lib.ops.forks import lock_for_forks

SOURCES = Path(__file__).parent / "csrc"
FILES = {  # (the file to compile, the file that it includes)
    "cpu": ("deform_attn_cpu.cpp", "cpu_kernels.inc"),
    "cuda": ("deform_attn_cuda.cu", "cuda_kernels.cuh"),
}
OPTIMISE = ["/O2"] if os.name == "nt" else ["-O3", "-fno-math-errno", "-fno-trapping-math"]
OPENMP = {"linux": ("-fopenmp",), "win32": ("/openmp",)}.get(sys.platform, ())  # Apple's compiler has no OpenMP
CUDA_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"

_loading = lock_for_forks()
_loaded: dict[str, bool] = {}
_why_not: dict[str, str] = {}


# --- the op -------------------------------------------------------------------------------------------------------------

torch.library.define(
    "gdino::ms_deform_attn", "(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor"
)
torch.library.define(
    "gdino::ms_deform_attn_backward",
    "(Tensor grad_output, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> (Tensor, Tensor, Tensor)",
)


def ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`gdino_lib.ms_deform_attn` by the compiled op. The library must be loaded; shapes are not checked here."""
    # locations, weights and sums are float32 at least
    exact = torch.float64 if value.dtype == torch.float64 else torch.float32
    flat = [side for shape in spatial_shapes for side in shape]
    # `torch.jit.trace` cannot record sizes as an argument of this op, so they are constants in a trace
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] - documented, not in `torch.jit.__all__`
        flat = [int(side) for side in flat]
    return torch.ops.gdino.ms_deform_attn(value, flat, sampling_locations.to(exact), attention_weights.to(exact))


@torch.library.register_fake("gdino::ms_deform_attn")
def _(value: Tensor, _shapes: list[int], _locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, weights.shape[1], heads * channels)


@torch.library.register_fake("gdino::ms_deform_attn_backward")
def _(
    _grad_output: Tensor, value: Tensor, _shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return locations.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _keep_inputs(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG001 - PyTorch passes it by name
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    op = torch.ops.gdino.ms_deform_attn_backward
    grad_value, grad_locations, grad_weights = op(grad_output.contiguous(), value, ctx.shapes, locations, weights)
    return grad_value.to(value.dtype), None, grad_locations, grad_weights


def _refuse_second_derivative(*_: Any) -> None:
    raise NotImplementedError("ms_deform_attn has no second derivative; backend='reference' has one")


def _refuse_vmap(*_: Any) -> None:
    raise NotImplementedError("ms_deform_attn does not support vmap; use its batch dimension, or backend='reference'")


torch.library.register_autograd("gdino::ms_deform_attn", _backward, setup_context=_keep_inputs)
torch.library.register_autograd("gdino::ms_deform_attn_backward", _refuse_second_derivative)
torch.library.register_vmap("gdino::ms_deform_attn", _refuse_vmap)


# --- the library --------------------------------------------------------------------------------------------------------


def load_library(device: str) -> bool:
    """Load the library for tensors on "cpu" or "cuda"; build it if it does not exist.

    Returns:
        Whether the op can be used. If not, the first call prints one line on standard error, which says why.
    """
    if device not in _loaded:
        with _loading:  # of several threads one builds, and the others wait
            if device not in _loaded:
                try:
                    _load_or_build(device)
                    _loaded[device] = True
                except OSError as error:  # `_load_or_build` reports each failure as an OSError of one line
                    _why_not[device] = str(error)
                    _loaded[device] = False
                    print(printable(f"gdino_lib: {error}; the slower reference is used"), file=sys.stderr)
    return _loaded[device]


def why_not(device: str) -> str:
    """Why `load_library` returned False."""
    return _why_not.get(device, f"there is no compiled op for tensors on {device}")


def build(device: str) -> Path:
    """Build the library even if the cache holds one; the command `gdino build-ops` does this.

    The old library stays in place until the new one is built.

    Returns:
        The path of the library.

    Raises:
        OSError: no compiler, or the build failed; the message is one line and names the log.
    """
    folder = cache_folder(device)
    with FileLock(folder / f"{device}.lock"):
        failure_log(device).unlink(missing_ok=True)
        return _build(device)


def library_path(device: str) -> Path:
    """The path of the library for this torch, these sources and this machine; the library may not exist yet."""
    return cache_folder(device) / f"{device}{'.pyd' if os.name == 'nt' else '.so'}"


def failure_log(device: str) -> Path:
    """The path of the log of a failed build; exists only if the last build failed."""
    return cache_folder(device) / f"{device}-failed.log"


def cache_folder(device: str) -> Path:
    """The cache folder for this torch, its ABI, its CUDA, this machine and these sources; it is made if it is missing.

    It lies in GDINO_CACHE, or in the user's cache folder if GDINO_CACHE is not set. If that place is not writable, the cache
    folder lies in the folder for temporary files.

    Raises:
        OSError: none of these places is writable.
    """
    digest = hashlib.sha256()
    for name in FILES[device]:
        digest.update((SOURCES / name).read_bytes())
    digest.update(" ".join([*OPTIMISE, *OPENMP]).encode())
    abi = int(torch.compiled_with_cxx11_abi())
    key = f"torch{torch.__version__}-abi{abi}-cuda{torch.version.cuda}-{platform.system()}-{platform.machine()}"
    name = f"{key}-{digest.hexdigest()[:16]}".lower()
    parents = [parent for parent in (_user_cache(), _temporary_cache()) if parent is not None]
    for parent in parents:
        folder = parent / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError(f"no place for the compiled op: {' and '.join(map(str, parents))} cannot be written")


def compiler(device: str) -> str | None:
    """Path of the compiler that would be used: the C++ compiler (CXX, else c++), or nvcc."""
    if device == "cuda":
        home = _cpp_extension().CUDA_HOME
        return shutil.which("nvcc") or (home and shutil.which("nvcc", path=str(Path(home) / "bin")))
    return shutil.which(os.environ.get("CXX", "cl" if os.name == "nt" else "c++"))


def _load_or_build(device: str) -> None:
    if device not in FILES or not (SOURCES / FILES[device][0]).is_file():
        raise OSError(f"there is no compiled op for tensors on {device}")
    path = library_path(device)
    if not path.is_file():
        with FileLock(cache_folder(device) / f"{device}.lock"):  # one process builds, the others wait
            if failure_log(device).is_file():
                raise OSError(
                    f"an earlier build failed, its log is {failure_log(device)}; run `gdino build-ops` to try again"
                )
            if not path.is_file():
                _build(device)
                return  # the build has loaded the library
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot load {path}: {str(error).splitlines()[0]}") from None


def _build(device: str) -> Path:
    """Compile in a temporary folder, load the library, and move it to its final path."""
    tool = compiler(device)
    if tool is None:
        name = "nvcc" if device == "cuda" else os.environ.get("CXX", "c++")
        raise OSError(f"no compiler ({name}) for deformable attention")
    path = library_path(device)
    start = time.perf_counter()
    print(f"gdino_lib: compiling deformable attention for {device}, once ...", end="", file=sys.stderr, flush=True)
    aside = Path(tempfile.mkdtemp(prefix="build-", dir=path.parent))
    name = f"gdino_ops_{device}"
    try:
        with _build_environment(device):
            _cpp_extension().load(
                name,
                [str(SOURCES / FILES[device][0])],
                extra_cflags=[*OPTIMISE, *OPENMP],
                extra_cuda_cflags=["-O3", "--expt-relaxed-constexpr"],  # torch's headers need the second
                extra_ldflags=list(OPENMP) if os.name != "nt" else [],  # a copy, because `load` appends to it
                build_directory=str(aside),
                is_python_module=False,
            )
        os.replace(next(aside.glob(f"{name}*.so")) if os.name != "nt" else next(aside.glob(f"{name}*.pyd")), path)
    except Exception as error:  # compiler, ninja, linker and loader raise different errors
        print(file=sys.stderr)
        log = failure_log(device)
        log.write_text(f"{tool}\n\n{error}\n", encoding="utf-8")
        signs = ("error", "cannot find")
        lines = [line.strip() for line in str(error).splitlines() if any(sign in line.lower() for sign in signs)]
        reason = next((line for line in lines if not line.startswith("Error building extension")), str(error)[:80])
        raise OSError(f"deformable attention did not compile: {reason[:200]}; the log is {log}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f" {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return path


def _cpp_extension() -> Any:
    # it would warn of a missing CUDA even when the CPU op is built
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    return cpp_extension


@contextmanager
def _build_environment(device: str) -> Iterator[None]:
    """Add what `cpp_extension` needs and does not find in the environment; afterwards, undo all changes."""
    added = {}
    if shutil.which("ninja") is None:  # it is not on PATH when the virtual environment is not activated
        import ninja

        added["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])
    if device == "cuda" and not torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        added["TORCH_CUDA_ARCH_LIST"] = CUDA_ARCHITECTURES  # without a GPU, torch cannot tell which to build for
    extension = _cpp_extension()
    libraries = extension.TORCH_LIB_PATH
    extension.TORCH_LIB_PATH = shlex.quote(libraries)  # the path goes to a shell and may contain spaces
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        extension.TORCH_LIB_PATH = libraries
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _user_cache() -> Path:
    if "GDINO_CACHE" in os.environ:
        return Path(os.environ["GDINO_CACHE"])
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "gdino_lib"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gdino_lib"


def _temporary_cache() -> Path | None:
    """A folder that only this user can write to, because its libraries are run as code; None if others can write to it."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"gdino_lib-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if os.name != "nt" and (status.st_uid != user or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022):
            return None
    except OSError:
        return None
    return folder
