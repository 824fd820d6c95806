"""The compiled op on a GPU equals the readable reference. Without a GPU, `test_cuda_source` tests the kernels."""

import statistics

import pytest
import torch

from gdino_lib.ops import native
from gdino_lib.ops.deform_attn import ms_deform_attn, ms_deform_attn_reference

pytestmark = pytest.mark.cuda

SHAPES = [(7, 9), (4, 5), (1, 3)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}


@pytest.fixture(autouse=True, scope="module")
def library():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if native.compiler("cuda") is None:
        pytest.skip("no nvcc")
    assert native.load_library("cuda"), native.why_not("cuda")


def inputs(
    batch=2, shapes=SHAPES, queries=11, heads=3, channels=32, points=4, dtype=torch.float32, device="cuda:0", reach=0.3
):
    """Random tensors; `reach`: how far points lie beyond the borders of a level, as a share of its side."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def random(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    value = random(batch, sum(h * w for h, w in shapes), heads, channels) * 2 - 1
    locations = random(batch, queries, heads, len(shapes), points, 2) * (1 + 2 * reach) - reach
    weights = random(batch, queries, heads, len(shapes), points)
    weights = weights / weights.sum((-1, -2), keepdim=True)
    return value.to(device, dtype), shapes, locations.to(device, exact), weights.to(device, exact)


def gradient_like(output):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def results(function, value, shapes, locations, weights):
    """[output, and the gradients of values, locations and weights]."""
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    output = function(leaves[0], shapes, *leaves[1:])
    output.backward(gradient_like(output))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def compiled(value, shapes, locations, weights):
    return ms_deform_attn(value, shapes, locations, weights, backend="native")


def assert_equal(arguments):
    """The op equals the reference computed in float64, up to the rounding of outputs and of the gradients of values."""
    value, shapes, locations, weights = arguments
    actual = results(compiled, *arguments)
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn_reference(leaves[0], shapes, *leaves[1:])
    output.backward(gradient_like(actual[0]).double())
    expected = [output.detach(), *(leaf.grad for leaf in leaves)]
    for place, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        rounding = torch.finfo(value.dtype).eps / 2 if place < 2 else 0
        torch.testing.assert_close(ours.double(), theirs, rtol=rounding, atol=TOLERANCE[value.dtype] * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 12, 24, 32, 40, 64, 128, 256, 320])
def test_equal_for_every_head_width_and_type(channels, dtype):
    assert_equal(inputs(channels=channels, dtype=dtype))


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "queries": 1, "heads": 1, "points": 1, "shapes": [(1, 1)]},
        {"points": 3, "shapes": [(13, 2), (3, 17), (2, 2), (1, 1), (1, 9)]},
        {"batch": 7, "queries": 900, "heads": 8},
        {"batch": 1, "queries": 1029, "heads": 4, "shapes": [(28, 28), (14, 14), (7, 7)]},
    ],
    ids=str,
)
def test_equal_for_every_shape(sizes):
    assert_equal(inputs(**sizes))
    assert_equal(inputs(dtype=torch.float64, **sizes))


@pytest.mark.parametrize("sizes", [{"queries": 0}, {"batch": 0}])
def test_no_queries_or_no_images(sizes):
    value, shapes, locations, weights = inputs(**sizes)
    output, *gradients = results(compiled, value, shapes, locations, weights)
    assert output.shape == (value.shape[0], weights.shape[1], 96)
    assert not any(gradient.any() for gradient in gradients)


def test_points_at_nan_or_infinity_contribute_nothing():
    value, shapes, locations, weights = inputs()
    bad = locations.clone()
    bad[:, ::2, :, :, 1, 0] = float("nan")
    bad[:, 1::2, :, :, 2, 1] = float("inf")
    good = torch.where(bad.isfinite().all(-1, keepdim=True), locations, torch.full_like(locations, -9.0))
    for actual, expected in zip(
        results(compiled, value, shapes, bad, weights), results(compiled, value, shapes, good, weights), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_tensors_need_not_be_contiguous_or_aligned():
    value, shapes, locations, weights = inputs(channels=8)
    transposed = value.transpose(1, 2).contiguous().transpose(1, 2)
    shifted = torch.cat([value.new_zeros(1), value.flatten()])[1:].view(value.shape)
    strided = torch.stack([locations, locations], dim=-1)[..., 0]
    expanded = weights[:1].expand_as(weights)
    assert shifted.data_ptr() % 16 != 0
    for v, x, w in ((transposed, strided, expanded), (shifted, locations, weights)):
        expected = ms_deform_attn_reference(v, shapes, x, w)
        torch.testing.assert_close(compiled(v, shapes, x, w), expected, rtol=0, atol=1e-5)
        assert_equal((v, shapes, x, w))


@pytest.mark.parametrize("channels", [8, 24, 32, 64, 128])
def test_gradcheck(channels):
    value, shapes, locations, weights = inputs(1, [(3, 4), (2, 2)], 3, 2, channels, 2, torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    # the gradient of the values is summed by atomic additions, so two calls may differ in the last bits
    assert torch.autograd.gradcheck(lambda v, x, w: compiled(v, shapes, x, w), leaves, nondet_tol=1e-12)


def test_opcheck():
    value, shapes, locations, weights = inputs(channels=8, dtype=torch.float64)
    flat = [side for shape in shapes for side in shape]
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(torch.ops.gdino.ms_deform_attn, (leaves[0], flat, *leaves[1:]), rtol=1e-10, atol=1e-10)


def test_repeated_runs_agree():
    """A race would show. All results are bit-equal, but for the values' gradient, whose sums have no fixed order."""
    arguments = inputs(batch=2, shapes=[(16, 16), (4, 4)], queries=700, heads=8)
    first = results(compiled, *arguments)
    for _ in range(50):
        again = results(compiled, *arguments)
        for place in (0, 2, 3):
            assert torch.equal(first[place], again[place])
        torch.testing.assert_close(first[1], again[1], rtol=1e-4, atol=1e-5)


def test_deterministic_mode_refuses_the_backward_pass_only():
    value, shapes, locations, weights = inputs()
    torch.use_deterministic_algorithms(True)
    try:
        output = compiled(value.requires_grad_(), shapes, locations, weights)
        with pytest.raises(RuntimeError, match="deterministic"):
            output.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_current_stream_is_used():
    value, shapes, locations, weights = inputs(batch=4, queries=2000, heads=8)
    expected = compiled(value, shapes, locations, weights)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # all further work on this stream waits
        late = torch.empty_like(value).copy_(value)
        output = compiled(late, shapes, locations, weights)
        done = stream.record_event()
    assert not done.query()
    stream.synchronize()
    assert torch.equal(output, expected)


def test_a_cuda_graph_can_capture_the_op():
    value, shapes, locations, weights = inputs()
    compiled(value, shapes, locations, weights)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compiled(value, shapes, locations, weights)
    value.mul_(2)
    graph.replay()
    torch.testing.assert_close(output, compiled(value, shapes, locations, weights), rtol=0, atol=0)


def test_the_op_runs_on_the_device_of_its_tensors():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    with torch.cuda.device(0):
        assert_equal(inputs(device="cuda:1"))


def test_more_than_32_levels_are_refused():
    shapes = [(1, 1)] * 33
    with pytest.raises(RuntimeError, match="32 levels"):
        compiled(*inputs(shapes=shapes, channels=8))


def test_a_dtype_without_a_kernel_is_refused():
    value, shapes, locations, weights = inputs(channels=8)
    flat = [side for shape in shapes for side in shape]
    with pytest.raises(RuntimeError, match="no kernel"):
        torch.ops.gdino.ms_deform_attn(value.to(torch.int32), flat, locations, weights)


def test_torch_compile_sees_one_node():
    value, shapes, locations, weights = inputs()
    function = torch.compile(lambda v, x, w: compiled(v * 2, shapes, x, w) + 1, fullgraph=True)
    torch.testing.assert_close(function(value, locations, weights), compiled(value * 2, shapes, locations, weights) + 1)


def test_autocast_keeps_locations_in_float32():
    value, shapes, locations, weights = inputs()
    with torch.autocast("cuda", torch.bfloat16):
        output = compiled(value.bfloat16(), shapes, locations, weights)
    torch.testing.assert_close(output, ms_deform_attn_reference(value.bfloat16(), shapes, locations, weights))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_faster_than_the_reference(dtype):
    pyramid = [(100, 134), (50, 67), (25, 34), (13, 17)]
    value, shapes, locations, weights = inputs(1, pyramid, 17_821, 8, 32, 4, dtype, reach=0.0)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    gradient = gradient_like(ms_deform_attn_reference(value.detach(), shapes, locations.detach(), weights.detach()))

    def milliseconds(function):
        times = []
        for _ in range(12):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            torch.autograd.grad(function(value, shapes, locations, weights), leaves, gradient)
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        return statistics.median(times[2:])

    assert milliseconds(compiled) * 2 < milliseconds(ms_deform_attn_reference)
