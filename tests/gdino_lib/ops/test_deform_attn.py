"""The compiled op equals the readable reference; if it cannot be built or loaded, the reference runs."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdino_lib.ops import native
from gdino_lib.ops.deform_attn import MultiScaleDeformableAttention, ms_deform_attn, ms_deform_attn_reference

SHAPES = [(7, 9), (4, 5), (1, 3)]


@pytest.fixture(autouse=True, scope="module")
def library():
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    assert native.load_library("cpu"), native.why_not("cpu")  # with a compiler, the build must succeed


def inputs(batch=2, shapes=SHAPES, queries=11, heads=3, channels=8, points=4, dtype=torch.float64, seed=0, reach=0.3):
    """Random tensors; `reach`: how far points lie beyond the borders of a level, as a share of its side."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def random(*size, kind=exact):
        return torch.rand(*size, generator=generator, dtype=torch.float64).to(kind)

    value = (random(batch, sum(h * w for h, w in shapes), heads, channels, kind=torch.float64) * 2 - 1).to(dtype)
    locations = random(batch, queries, heads, len(shapes), points, 2) * (1 + 2 * reach) - reach
    weights = random(batch, queries, heads, len(shapes), points)
    return value, shapes, locations, weights / weights.sum((-1, -2), keepdim=True)


def both(value, shapes, locations, weights, seed=1):
    """[output, gradients of values, locations and weights] of the compiled op, and the same of the reference."""
    results = []
    for backend in ("native", "reference"):
        leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        output = ms_deform_attn(leaves[0], shapes, *leaves[1:], backend=backend)
        generator = torch.Generator().manual_seed(seed)
        output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype))
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    return results


def assert_equal(arguments, tolerance):
    for actual, expected in zip(*both(*arguments), strict=True):
        assert actual.dtype == expected.dtype
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("channels", [1, 2, 8, 12, 24, 32, 40, 64, 128, 256])
def test_equal_for_every_head_width(channels):
    assert_equal(inputs(channels=channels), 1e-12)
    assert_equal(inputs(channels=channels, dtype=torch.float32), 1e-5)


# sums are float32; rounding to the 8 or 11 significant bits of half precision is off by at most half a unit in the last place
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_once(dtype, tolerance):
    assert_equal(inputs(channels=32, dtype=dtype), tolerance)


EDGES = {
    "one point, one level": {"shapes": [(5, 6)], "points": 1},
    "one token": {"shapes": [(1, 1)], "points": 3},
    "no queries": {"queries": 0},
    "no images": {"batch": 0},
    "many points": {"points": 40},
    "far outside": {"reach": 3.0},
    "one head": {"heads": 1},
    "many queries": {"queries": 2500, "batch": 1},
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=EDGES.keys())
def test_edges(changes):
    assert_equal(inputs(**changes), 1e-12)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 17),
    st.integers(1, 5),
    st.integers(0, 999),
)
def test_equal_for_any_shape(shapes, batch, queries, heads, channels, points, seed):
    assert_equal(inputs(batch, shapes, queries, heads, channels, points, seed=seed), 1e-12)


def test_points_on_the_borders_and_on_tokens():
    value, shapes, locations, weights = inputs(shapes=[(4, 4)], queries=81, points=1)
    grid = torch.linspace(-0.25, 1.25, 9, dtype=torch.float64)  # includes centres, edges and borders of tokens
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    locations = torch.stack([x, y], -1).view(1, 81, 1, 1, 1, 2).expand_as(locations).contiguous()
    assert_equal((value, shapes, locations, weights), 1e-12)


def test_points_at_nan_or_infinity_contribute_nothing():
    value, shapes, locations, weights = inputs()
    broken = locations.clone()
    broken[:, :, :, 0] = torch.nan
    broken[:, :, :, 1] = torch.inf
    only = weights.clone()
    only[:, :, :, :2] = 0
    actual = ms_deform_attn(value, shapes, broken, weights, backend="native")
    torch.testing.assert_close(actual, ms_deform_attn_reference(value, shapes, locations, only))


def test_inputs_need_not_be_contiguous():
    value, shapes, locations, weights = inputs(channels=16)
    strided = value.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.stack([weights, weights], -1)[..., 0]
    flipped = locations.flip(1).contiguous().flip(1)
    assert not strided.is_contiguous()
    assert not wide.is_contiguous()
    assert_equal((strided, shapes, flipped, wide), 1e-12)


def test_the_gradient_of_the_output_need_not_be_contiguous():
    value, shapes, locations, weights = inputs()
    value.requires_grad_()
    ms_deform_attn(value, shapes, locations, weights, backend="native").sum().backward()  # `sum` expands one number
    expected = torch.autograd.grad(ms_deform_attn_reference(value, shapes, locations, weights).sum(), value)[0]
    torch.testing.assert_close(value.grad, expected)


def test_the_number_of_threads_changes_no_bit():
    arguments = inputs(queries=600, channels=32, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(both(*arguments)[0])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("isa", ["plain", "avx2"])
def test_other_instruction_sets_give_the_same_results(isa):
    code = """if True:
        import test_deform_attn, torch
        from gdino_lib.ops import native
        assert native.load_library("cpu")
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-8)):
            for channels in (3, 8, 32, 72):
                test_deform_attn.assert_equal(test_deform_attn.inputs(channels=channels, dtype=dtype), tolerance)
    """
    environment = os.environ | {"GDINO_CPU": isa, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("channels", [8, 24, 32, 64, 128])
def test_gradcheck(channels):
    value, shapes, locations, weights = inputs(1, [(3, 4), (2, 2)], 2, 1, channels, 2, reach=0.1)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, shapes, x, w, backend="native"), leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    value, shapes, locations, weights = inputs(dtype=dtype)
    flat = [side for shape in shapes for side in shape]
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(torch.ops.gdino.ms_deform_attn.default, (leaves[0], flat, *leaves[1:]), rtol=1e-2, atol=1e-2)


def test_compile_and_export_see_one_node():
    value, shapes, locations, weights = inputs(dtype=torch.float32)

    class Op(torch.nn.Module):
        def forward(self, value, locations, weights):
            return ms_deform_attn(value, shapes, locations, weights, backend="native") + 1

    expected = Op()(value, locations, weights)
    compiled = torch.compile(Op(), fullgraph=True, backend="aot_eager")(value, locations, weights)
    assert torch.equal(compiled, expected)
    program = torch.export.export(Op(), (value, locations, weights))
    assert sum("gdino.ms_deform_attn" in str(node.target) for node in program.graph.nodes) == 1
    assert torch.equal(program.module()(value, locations, weights), expected)


def test_second_derivatives_and_vmap_are_refused():
    value, shapes, locations, weights = inputs()
    value.requires_grad_()
    output = ms_deform_attn(value, shapes, locations, weights, backend="native")
    (gradient,) = torch.autograd.grad((output**2).sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()
    with pytest.raises(NotImplementedError, match="does not support vmap"):
        torch.vmap(lambda v: ms_deform_attn(v, shapes, locations, weights, backend="native"))(value[None])


def test_the_module_runs_under_autocast():
    module = MultiScaleDeformableAttention(32, heads=4, levels=3, points=2)
    tokens = sum(h * w for h, w in SHAPES)
    query, memory = torch.randn(2, 5, 32), torch.randn(2, tokens, 32)
    reference, mask = torch.rand(2, 5, 3, 4), torch.ones(2, tokens, dtype=torch.bool)
    exact = module(query, reference, memory, SHAPES, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = module(query, reference, memory, SHAPES, mask)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, x, w: (v[0], s, x, w), r"value: expected \[B, N, H, C\]"),
        (lambda v, s, x, w: (v, [(7, 9)], x, w), r"value: expected 63 tokens for the levels \[\(7, 9\)\], got 86"),
        (lambda v, s, x, w: (v, s, x[..., :1], w), "sampling_locations"),
        (lambda v, s, x, w: (v, s, x, w[:1]), "attention_weights"),
    ],
)
def test_shapes_that_do_not_fit_and_unknown_backends_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*change(*inputs()), backend="native")
    with pytest.raises(ValueError, match="expected one of auto, native, reference, got 'cuda'"):
        ms_deform_attn(*inputs(), backend="cuda")


def test_the_source_compiles_for_arm(tmp_path):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no cross compiler: install g++-aarch64-linux-gnu")
    from torch.utils import cpp_extension

    paths = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
    command = [compiler, "-std=c++20", "-fsyntax-only", *(f"-isystem{path}" for path in paths)]
    subprocess.run([*command, str(native.SOURCES / native.FILES["cpu"][0])], check=True)


# --- the library: cached, built, or not available -------------------------------------------------------------------------

USE = """if True:
    import torch
    from gdino_lib.ops.deform_attn import ms_deform_attn
    from gdino_lib.ops import native
    for _ in range(3):
        ms_deform_attn(torch.zeros(1, 4, 1, 8), [(2, 2)], torch.zeros(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
    print("native" if native._loaded.get("cpu") else "reference")
"""


def use(cache, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", USE],
        env=os.environ | {"GDINO_CACHE": str(cache), "GDINO_OPS": "auto"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_a_compiler_one_line_is_printed_and_the_reference_runs(tmp_path):
    output, error = use(tmp_path, CXX="no-such-compiler", PATH=str(tmp_path)).communicate()
    assert output == "reference\n"
    assert error == "gdino_lib: no compiler (no-such-compiler) for deformable attention; the slower reference is used\n"


def test_a_failed_build_prints_one_line_with_the_log_and_is_not_repeated(tmp_path):
    compiler = tmp_path / "broken-c++"
    # it prints its version like a working compiler, but compiles nothing
    compiler.write_text(
        "#!/bin/sh\ncase $1 in -*ver*|-v) exec c++ \"$@\";; esac\necho 'error: out of luck' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    output, error = use(tmp_path / "cache", CXX=str(compiler)).communicate()
    assert output == "reference\n"
    line = error.splitlines()[-1]
    assert "did not compile" in line
    log = line.split("the log is ")[1].split(";")[0]
    with open(log) as file:
        assert "out of luck" in file.read()
    assert error.count("\n") <= 2  # "compiling ..." and "did not compile ..."
    output, error = use(tmp_path / "cache", CXX=str(compiler)).communicate()
    assert output == "reference\n"
    assert "an earlier build failed" in error
    assert error.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="the test needs POSIX permissions")
def test_a_folder_for_temporary_files_that_others_can_write_is_never_used(tmp_path):
    folder = tmp_path / f"gdino_lib-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "file").touch()
    output, error = use(tmp_path / "file" / "cache", TMPDIR=str(tmp_path)).communicate()
    assert output == "reference\n"
    assert error.startswith("gdino_lib: no place for the compiled op: ")
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_gdino_ops_can_ask_for_the_reference(tmp_path):
    output, error = use(tmp_path, GDINO_OPS="reference").communicate()
    assert (output, error) == ("reference\n", "")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_build_once_and_an_unwritable_cache_is_replaced_by_a_temporary_folder(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    processes = [use(tmp_path / "file" / "cache", TMPDIR=str(tmp_path / "tmp")) for _ in range(2)]
    results = [process.communicate() for process in processes]
    assert [output for output, _ in results] == ["native\n"] * 2
    assert sum("compiling deformable attention for cpu, once" in error for _, error in results) == 1
    assert sum(error.count("\n") for _, error in results) == 1
    libraries = [path for path in (tmp_path / "tmp").rglob("cpu*") if path.suffix in (".so", ".pyd")]
    assert len(libraries) == 1
    assert not list((tmp_path / "tmp").rglob("build-*"))
    libraries[0].write_bytes(b"no library")
    output, error = use(tmp_path / "file" / "cache", TMPDIR=str(tmp_path / "tmp")).communicate()
    assert output == "reference\n"
    assert "cannot load" in error
    assert error.count("\n") == 1


def test_native_without_a_library_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setitem(native._loaded, "cpu", False)
    monkeypatch.setitem(native._why_not, "cpu", "no compiler (c++) for deformable attention")
    with pytest.raises(OSError, match=r"ms_deform_attn: no compiler \(c\+\+\)"):
        ms_deform_attn(*inputs(), backend="native")


def test_an_unknown_backend_is_refused_with_the_place_that_names_it(monkeypatch):
    arguments = torch.zeros(1, 4, 1, 2), [(2, 2)], torch.zeros(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="backend of ms_deform_attn: expected one of auto, native, reference, got 'c'"):
        ms_deform_attn(*arguments, backend="c")
    monkeypatch.setenv("GDINO_OPS", "refrence")
    with pytest.raises(
        ValueError, match="GDINO_OPS in the environment: expected one of auto, native, reference, got 're"
    ):
        ms_deform_attn(*arguments)
    monkeypatch.setenv("GDINO_OPS", "")
    assert ms_deform_attn(*arguments).shape == (1, 1, 2)


def test_the_argument_backend_beats_gdino_ops(monkeypatch):
    monkeypatch.setitem(native._loaded, "cpu", False)
    monkeypatch.setenv("GDINO_OPS", "native")
    with pytest.raises(OSError, match="ms_deform_attn"):
        ms_deform_attn(*inputs())
    assert torch.equal(ms_deform_attn(*inputs(), backend="reference"), ms_deform_attn_reference(*inputs()))
