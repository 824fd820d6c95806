"""The CUDA source, tested without a GPU: nvcc compiles it; g++ compiles its kernels, whose results equal the reference.

g++ compiles them with `cuda_shim`, which runs a kernel on the CPU, thread by thread, in shuffled order. The reference computes
in float64 from the same inputs as the kernel. So in half precision only the final rounding of the output may differ.
"""

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import load_script

from gdino_lib.ops.deform_attn import ms_deform_attn_reference

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "gdino_lib" / "ops" / "csrc"
SHIM = ROOT / "tests" / "cuda_shim"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]  # in the order of the numbers in run.cpp
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}
GENERATIONS = {"ampere": [], "hopper": ["-D__CUDA_ARCH__=900"]}  # atomic additions of one number, and of four
MARGIN = 64  # elements before and behind each tensor, which no kernel may touch
SHAPES = [(7, 9), (4, 5), (1, 3)]

cuda_resources = load_script("benchmarks/cuda_resources")


class Arguments(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ["dtype", "batch", "tokens", "queries", "heads", "channels", "levels", "points"]
        ),
        ("shapes", ctypes.POINTER(ctypes.c_int64)),
        *((name, ctypes.c_void_p) for name in ["value", "locations", "weights", "grad_output"]),
        *((name, ctypes.c_void_p) for name in ["output", "grad_value", "grad_locations", "grad_weights"]),
        ("seed", ctypes.c_uint64),
    ]


class Counts(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ["loads_16_bytes", "other_loads", "atomics", "numbers_added", "shuffles"]
    ]


# --- the shim -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shims(request, tmp_path_factory):
    """{generation: library}; rebuilt when a source changes."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the shim needs g++ on Linux")
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("cuda_shim") if cache else tmp_path_factory.mktemp("cuda_shim")
    texts = sorted([*SHIM.iterdir(), SOURCES / "cuda_kernels.cuh"])

    def build(generation):
        flags = ["-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *GENERATIONS[generation]]
        digest = hashlib.sha256(" ".join(flags).encode() + b"".join(path.read_bytes() for path in texts)).hexdigest()
        library = Path(folder) / f"{generation}-{digest[:16]}.so"
        if not library.exists():
            for old in Path(folder).glob(f"{generation}-*.so"):
                old.unlink()
            aside = library.with_suffix(f".{os.getpid()}")
            command = [compiler, *flags, "-shared", "-fPIC", f"-I{SHIM}", f"-I{SOURCES}", SHIM / "run.cpp", "-o", aside]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            aside.replace(library)
        loaded = ctypes.CDLL(str(library))
        for name in ("run_kernel", "run_order", "run_deadlock"):
            getattr(loaded, name).restype = ctypes.c_char_p
        return loaded

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(GENERATIONS, pool.map(build, GENERATIONS), strict=True))


@pytest.fixture(params=list(GENERATIONS))
def shim(request, shims):
    return shims[request.param]


class Guarded:
    """A contiguous tensor between margins of NaN: a kernel that reads the margins returns NaN, and `check` detects writes."""

    def __init__(self, shape, dtype, content=None, shift=0):
        count = int(np.prod(shape))
        self.whole = torch.full((count + 2 * MARGIN + shift,), float("nan"), dtype=dtype)
        self.inside = self.whole[MARGIN + shift : MARGIN + shift + count].view(shape)
        if content is not None:
            self.inside.copy_(content)
        self.shift = shift

    @property
    def pointer(self):
        return self.whole.data_ptr() + (MARGIN + self.shift) * self.whole.element_size()

    def check(self):
        count = self.inside.numel()
        assert self.whole[: MARGIN + self.shift].isnan().all()
        assert self.whole[MARGIN + self.shift + count :].isnan().all()
        return self.inside


def run(shim, value, shapes, locations, weights, grad_output, seed=0, shift=0):
    """(output, grad_value, grad_locations, grad_weights, counts forward, counts backward) of the kernels.

    Args:
        shift: by how many elements values and gradients are moved from an address that is divisible by 16.
    """
    exact = locations.dtype
    given = [Guarded(t.shape, t.dtype, t, shift) for t in (value, grad_output)]
    given += [Guarded(t.shape, t.dtype, t) for t in (locations, weights)]
    output = Guarded(grad_output.shape, value.dtype)
    grad_value = Guarded(value.shape, exact, torch.zeros((), dtype=exact))  # a kernel adds to it
    grad_locations, grad_weights = Guarded(locations.shape, exact), Guarded(weights.shape, exact)
    batch, tokens, heads, channels = value.shape
    levels, points = weights.shape[3:]
    flat = [side for shape in shapes for side in shape]
    arguments = Arguments(
        DTYPES.index(value.dtype), batch, tokens, weights.shape[1], heads, channels, levels, points,
        (ctypes.c_int64 * len(flat))(*flat), given[0].pointer, given[2].pointer, given[3].pointer, None,
        output.pointer, grad_value.pointer, grad_locations.pointer, grad_weights.pointer, seed,
    )  # fmt: skip
    counts = [Counts(), Counts()]
    assert shim.run_kernel(ctypes.byref(arguments), ctypes.byref(counts[0])) == b""
    arguments.grad_output = given[1].pointer
    assert shim.run_kernel(ctypes.byref(arguments), ctypes.byref(counts[1])) == b""
    for tensor in given:
        tensor.check()
    return [t.check() for t in (output, grad_value, grad_locations, grad_weights)] + counts


def inputs(batch=2, shapes=SHAPES, queries=11, heads=3, channels=8, points=4, dtype=torch.float64, seed=0, reach=0.3):
    """Random tensors; `reach`: how far points lie beyond the borders of a level, as a share of its side."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def random(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    value = (random(batch, sum(h * w for h, w in shapes), heads, channels) * 2 - 1).to(dtype)
    locations = (random(batch, queries, heads, len(shapes), points, 2) * (1 + 2 * reach) - reach).to(exact)
    weights = random(batch, queries, heads, len(shapes), points)
    weights = (weights / weights.sum((-1, -2), keepdim=True)).to(exact)
    grad_output = (random(batch, queries, heads * channels) * 2 - 1).to(dtype)
    return value, shapes, locations, weights, grad_output


def reference(value, shapes, locations, weights, grad_output):
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn_reference(leaves[0], shapes, *leaves[1:])
    output.backward(grad_output.double())
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def assert_equal(shim, arguments, seed=0, shift=0):
    dtype = arguments[0].dtype
    results = run(shim, *arguments, seed=seed, shift=shift)
    for place, (actual, expected) in enumerate(zip(results[:4], reference(*arguments), strict=True)):
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        rounding = torch.finfo(dtype).eps / 2 if place == 0 else 0  # half precision: the output is rounded once
        torch.testing.assert_close(actual.double(), expected, rtol=rounding, atol=TOLERANCE[dtype] * scale)
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [8, 24, 32, 40, 64, 128, 256])
def test_equal_for_every_head_width_and_type(shim, channels, dtype):
    small = {"batch": 1, "queries": 7, "heads": 2} if channels > 64 else {}
    assert_equal(shim, inputs(channels=channels, dtype=dtype, **small))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 12, 33, 70])
def test_head_widths_that_are_no_multiple_of_16_bytes(shim, channels, dtype):
    assert_equal(shim, inputs(batch=1, queries=5, heads=2, channels=channels, points=2, dtype=dtype))


@pytest.mark.parametrize("channels", [512, 384])
def test_heads_too_wide_for_one_pass_of_a_warp(shim, channels):
    assert_equal(shim, inputs(batch=1, shapes=[(3, 4)], queries=3, heads=2, channels=channels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_need_not_be_aligned(shim, dtype):
    aligned, shifted = (assert_equal(shim, inputs(channels=8, dtype=dtype), shift=shift) for shift in (0, 1))
    assert aligned[4].loads_16_bytes > 0
    assert shifted[4].loads_16_bytes == 0


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "queries": 1, "heads": 1, "points": 1, "shapes": [(1, 1)]},
        {"shapes": [(5, 8)]},
        {"points": 1},
        {"points": 3, "shapes": [(13, 2), (3, 17), (2, 2), (1, 1), (1, 9)]},  # 15 points: not a multiple of the lanes
        {"points": 8, "shapes": [(6, 6), (3, 3), (2, 1), (1, 1)]},
        {"batch": 3, "queries": 17, "heads": 5},  # 255 rows: the last block is not full
        {"queries": 0},
        {"batch": 0},
        {"points": 0},
        {"shapes": [(4, 4), (0, 7), (2, 2)]},  # a level without tokens
    ],
    ids=str,
)
def test_equal_for_every_shape(shim, sizes):
    if 0 in (sizes.get("queries"), sizes.get("batch"), sizes.get("points")) or (0, 7) in sizes.get("shapes", []):
        value, shapes, locations, weights, grad_output = inputs(channels=32, dtype=torch.float32, **sizes)
        results = run(shim, value, shapes, locations, weights, grad_output)
        if (0, 7) not in shapes:
            assert not any(tensor.any() for tensor in results[:4])
            return
        keep = [0, 2]  # the reference cannot sample an empty level, so it gets the other levels alone
        expected = reference(
            value, [shapes[i] for i in keep], locations[:, :, :, keep], weights[:, :, :, keep], grad_output
        )
        torch.testing.assert_close(results[0].double(), expected[0], rtol=0, atol=1e-5)
        assert not results[2][:, :, :, 1].any()
        assert not results[3][:, :, :, 1].any()
    else:
        assert_equal(shim, inputs(channels=32, dtype=torch.float32, **sizes))
        assert_equal(shim, inputs(channels=8, **sizes))


def test_points_on_borders_and_outside(shim):
    # the sides are powers of two, so that locations hit borders and centres of tokens exactly
    height, width = 4, 8
    ys = torch.tensor([-2.0, -1.0, -0.5, 0, 0.25, 2, 3.5, 3.75, 4, 4.5, 5, 1e9]) / height
    xs = torch.tensor([-1e30, -1.0, -0.5, 0, 0.5, 4, 7.25, 7.5, 8, 8.5, 9, 40]) / width
    locations = torch.cartesian_prod(xs, ys).view(1, -1, 1, 1, 1, 2)
    queries = locations.shape[1]
    for dtype in (torch.float64, torch.float32):
        value, shapes, _, weights, grad_output = inputs(1, [(height, width)], queries, 1, 16, 1, dtype=dtype)
        assert_equal(shim, (value, shapes, locations.to(dtype), weights, grad_output))


def test_points_at_nan_or_infinity_contribute_nothing(shim):
    value, shapes, locations, weights, grad_output = inputs(channels=32, dtype=torch.float32)
    bad = locations.clone()
    bad[:, ::3, :, :, 1, 0] = float("nan")
    bad[:, 1::3, :, :, 2, 1] = float("inf")
    bad[:, 2::3, :, :, 3, 0] = -float("inf")
    good = torch.where(bad.isfinite().all(-1, keepdim=True), locations, torch.full_like(locations, -9.0))
    results = run(shim, value, shapes, bad, weights, grad_output)
    expected = reference(value, shapes, good, weights, grad_output)
    for actual, wanted in zip(results[:4], expected, strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=0, atol=1e-5 * max(1, wanted.abs().max().item()))


def test_values_of_other_tokens_are_not_read(shim):
    value, shapes, locations, weights, grad_output = inputs(1, [(6, 6)], 9, 2, 32, dtype=torch.float32)
    locations = locations.abs() % 0.5  # tokens 0 to 3 in both directions
    image = value.view(1, 6, 6, 2, 32)
    image[:, 4:] = image[:, :, 4:] = float("nan")
    for tensor in run(shim, value, shapes, locations, weights, grad_output)[:4]:
        assert tensor.isfinite().all()


def test_only_the_gradient_of_values_depends_on_the_order(shim):
    # four tokens for 60 queries, so that each token is added to many times
    arguments = inputs(batch=1, shapes=[(2, 2)], queries=60, heads=2, channels=32, dtype=torch.float32)
    runs = [assert_equal(shim, arguments, seed=seed) for seed in range(4)]
    for other in runs[1:]:
        for place in (0, 2, 3):
            assert torch.equal(runs[0][place], other[place])
    assert any(not torch.equal(runs[0][1], other[1]) for other in runs[1:])


def test_loads_and_additions_are_counted(shims):
    value, shapes, locations, weights, grad_output = inputs(1, [(8, 8)], 9, 2, 32, dtype=torch.float32)
    locations = locations.abs() % 0.5 + 0.25  # all four corners exist
    points = weights.numel()
    for generation, at_once in (("ampere", 1), ("hopper", 4)):
        *_, forward, backward = run(shims[generation], value, shapes, locations, weights, grad_output)
        assert (forward.loads_16_bytes, forward.atomics) == (points * 4 * 32 // 4, 0)
        assert backward.numbers_added == points * 4 * 32
        assert backward.atomics == points * 4 * 32 // at_once


def test_offsets_beyond_32_bits(shim):
    """Two images of 2**32 values each; of their 32 GiB only the pages that are touched take memory."""
    side, heads, channels = 4096, 8, 32
    size = 2 * side * side * heads * channels * 4
    try:
        maps = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000) for _ in range(2)]
    except OSError:
        pytest.skip("no room for the addresses")
    value, grad_value = (np.frombuffer(m, np.float32).reshape(2, side, side, heads, channels) for m in maps)
    token = side - 3  # its corners: tokens side - 3 and side - 2
    patch = np.random.default_rng(0).standard_normal((2, 2, heads, channels)).astype(np.float32)
    value[1, token : token + 2, token : token + 2] = patch
    # a quarter of a token to the right of and below the first corner
    locations = torch.full((2, 1, heads, 1, 1, 2), (token + 0.75) / side)
    weights = torch.ones(2, 1, heads, 1, 1)
    output, grad_output = torch.zeros(2, 1, heads, channels), torch.ones(2, 1, heads, channels)
    grad_locations, grad_weights = torch.zeros_like(locations), torch.zeros_like(weights)
    arguments = Arguments(
        1, 2, side * side, 1, heads, channels, 1, 1, (ctypes.c_int64 * 2)(side, side), value.ctypes.data,
        locations.data_ptr(), weights.data_ptr(), None, output.data_ptr(), grad_value.ctypes.data,
        grad_locations.data_ptr(), grad_weights.data_ptr(), 0,
    )  # fmt: skip
    assert shim.run_kernel(ctypes.byref(arguments), ctypes.byref(Counts())) == b""
    arguments.grad_output = grad_output.data_ptr()
    assert shim.run_kernel(ctypes.byref(arguments), ctypes.byref(Counts())) == b""
    shares = np.array([[9, 3], [3, 1]], np.float32) / 16
    np.testing.assert_allclose(output[1, 0].numpy(), np.einsum("yx,yxhc->hc", shares, patch), rtol=1e-5, atol=1e-6)
    assert not output[0].any()
    for image in range(2):
        added = grad_value[image, token : token + 2, token : token + 2]
        np.testing.assert_array_equal(added, np.broadcast_to(shares[:, :, None, None], added.shape))


def test_the_shim_shuffles(shim):
    def order(seed):
        arrays = [(ctypes.c_int64 * 256)() for _ in range(3)]
        assert shim.run_order(ctypes.c_uint64(seed), *arrays) == b""
        return [list(array) for array in arrays]

    begun, waited, hurried = order(1)
    assert sorted(begun) == list(range(256))
    assert begun[:64] != sorted(begun[:64])  # threads within a block
    assert [i // 64 for i in begun[::64]] != sorted(i // 64 for i in begun[::64])  # blocks
    assert begun == order(1)[0]
    assert begun != order(2)[0]
    neighbours = [i ^ 1 for i in range(256)]
    assert waited == neighbours
    assert hurried != neighbours  # a kernel that does not wait reads wrong numbers
    assert -1 in hurried
    assert set(hurried) & set(neighbours)
    assert b"have ended" in shim.run_deadlock()


# --- nvcc ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def nvcc():
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc on PATH")
    return found


def test_no_registers_spill_at_head_width_32(nvcc):
    architectures = cuda_resources.supported(nvcc)
    assert {80, 86, 89, 90} <= set(architectures)
    rows = cuda_resources.measure(nvcc, architectures, [32])
    assert len(rows) == len(architectures) * 2 * 4
    assert [row for row in rows if row["spill_bytes"]] == []
    assert all(row["registers"] <= 128 and row["resident_warps"] >= 16 for row in rows)


def test_cuda_resources_measures_the_kernels_that_are_chosen(shims):
    for size in (2, 4, 8):
        for channels in (1, 4, 8, 12, 16, 24, 32, 33, 40, 64, 96, 128, 256, 512):
            vector, lanes = ctypes.c_int64(), ctypes.c_int64()
            shims["ampere"].sizes(
                ctypes.c_int64(size), ctypes.c_int64(channels), ctypes.byref(vector), ctypes.byref(lanes)
            )
            assert cuda_resources.sizes(size, channels) == (vector.value, lanes.value)


@pytest.mark.slow
def test_the_library_builds_against_torch_and_loads(nvcc, tmp_path):
    """Builds all kernels as `torch.utils.cpp_extension` would, and loads them in a new process; needs no GPU."""
    if torch.version.cuda is None:
        pytest.skip("this torch has no CUDA")
    from torch.utils import cpp_extension

    library = tmp_path / "cuda.so"
    include = [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
    folders = [str(Path(torch.__file__).parent / "lib")]
    command = [
        nvcc, "-std=c++20", "-O3", "-arch=sm_90", "-shared", "-Xcompiler", "-fPIC", "--expt-relaxed-constexpr",
        "-DTORCH_EXTENSION_NAME=cuda", *include, str(SOURCES / "deform_attn_cuda.cu"), "-o", str(library),
        *(f"-L{folder}" for folder in folders), "-lc10", "-lc10_cuda", "-ltorch", "-ltorch_cpu", "-ltorch_cuda",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = (
        f"import torch, gdino_lib.ops.native; torch.ops.load_library({str(library)!r}); "
        "print(*(torch._C._dispatch_has_kernel_for_dispatch_key('gdino::' + name, 'CUDA')"
        " for name in ('ms_deform_attn', 'ms_deform_attn_backward')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
