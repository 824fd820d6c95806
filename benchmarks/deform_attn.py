"""Time the compiled deformable attention beside the readable reference: `python benchmarks/deform_attn.py --json FILE`.

All measurements are interleaved in one process (reference, native, reference, native, ...); ratios are ratios of medians.
Each function runs twice in its turn, and only the second run counts. The first run may have to wake sleeping threads, which
are awake when a model calls the op. The same run also measures the machine's limits: a copy for the memory bandwidth, and a
matrix product for the arithmetic.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import report

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.ops import deform_attn, native

PYRAMID = [(100, 134), (50, 67), (25, 34), (13, 17)]  # 800 x 1066 pixels
CASES = {  # batch, levels, queries (None: one per token), heads, channels
    "encoder": (1, PYRAMID, None, 8, 32),
    "decoder": (1, PYRAMID, 900, 8, 32),
    "nano": (16, [(28, 28), (14, 14), (7, 7)], None, 4, 32),
}
POINTS = 4


def tensors(
    batch: int, shapes: list[tuple[int, int]], queries: int | None, heads: int, channels: int
) -> tuple[torch.Tensor, list[tuple[int, int]], torch.Tensor, torch.Tensor]:
    """Inputs like those in the model: an image token samples around its own position, a query inside its box."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in shapes)
    sizes = torch.tensor([[width, height] for height, width in shapes], dtype=torch.float32)[:, None]
    value = torch.randn(batch, tokens, heads, channels, generator=generator)
    if queries is None:
        grids = [
            torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"))
            for h, w in shapes
        ]
        centres = torch.cat([grid.flatten(1).T.flip(1) for grid in grids])[None, :, None, None, None]
        spread = torch.randn(batch, tokens, heads, len(shapes), POINTS, 2, generator=generator) * 3
        locations = centres + spread / sizes
    else:
        locations = torch.rand(batch, queries, 1, 1, 1, 2, generator=generator)
        locations = locations + torch.randn(batch, queries, heads, len(shapes), POINTS, 2, generator=generator) * 0.05
    weights = torch.rand(*locations.shape[:-1], generator=generator)
    return value, shapes, locations, weights / weights.sum((-1, -2), keepdim=True)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function. They take turns and run twice in each turn; the first turn and first runs warm up."""
    seconds = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def time_case(case: str, repeats: int) -> dict[str, float]:
    """Milliseconds and ratios of one case."""
    value, shapes, locations, weights = tensors(*CASES[case])
    half = value.bfloat16()
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    gradient = torch.randn(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    def step(backend: str) -> None:
        for leaf in leaves:
            leaf.grad = None
        deform_attn.ms_deform_attn(leaves[0], shapes, *leaves[1:], backend=backend).backward(gradient)

    def threads(count: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(count)
            deform_attn.ms_deform_attn(value, shapes, locations, weights, backend="native")
            torch.set_num_threads(cores)

        return run

    cores = torch.get_num_threads()
    median = interleaved(
        {
            "reference": lambda: deform_attn.ms_deform_attn(value, shapes, locations, weights, backend="reference"),
            "native": lambda: deform_attn.ms_deform_attn(value, shapes, locations, weights, backend="native"),
            "native, bfloat16": lambda: deform_attn.ms_deform_attn(half, shapes, locations, weights, backend="native"),
            "native, one thread": threads(1),
            "native, two threads": threads(2),
            "reference, step": lambda: step("reference"),
            "native, step": lambda: step("native"),
        },
        repeats,
    )
    samples = locations[..., 0].numel()
    channels = value.shape[-1]
    return {f"{name} (ms)": round(1e3 * seconds, 3) for name, seconds in median.items()} | {
        "forward, times as fast": round(median["reference"] / median["native"], 2),
        "forward and backward, times as fast": round(median["reference, step"] / median["native, step"], 2),
        "two threads over one": round(median["native, one thread"] / median["native, two threads"], 2),
        "bfloat16 over float32": round(median["native"] / median["native, bfloat16"], 2),
        # each sample reads four corners, mostly from the cache; each corner value is multiplied and added
        "corner reads (GB/s)": round(samples * 4 * channels * 4 / median["native"] / 1e9, 1),
        "arithmetic (GFLOP/s)": round(samples * 4 * channels * 2 / median["native"] / 1e9, 1),
        "tensors, each once (GB/s)": round(
            4 * (value.numel() + locations.numel() + weights.numel() + gradient.numel()) / median["native"] / 1e9, 1
        ),
    }


def machine_limits() -> dict[str, float]:
    """Limits of this machine, measured with PyTorch's copy and matrix product."""
    large = torch.randn(64 * 2**20)
    target = torch.empty_like(large)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    small = torch.randn(64 * 2**10)
    cached = torch.empty_like(small)

    def many_small() -> None:
        for _ in range(200):
            cached.copy_(small)

    seconds = interleaved({"copy": lambda: target.copy_(large), "cache": many_small, "product": lambda: a @ b}, 5)
    return {
        "memory, read and write (GB/s)": round(2 * 4 * large.numel() / seconds["copy"] / 1e9, 1),
        "cache, read and write (GB/s)": round(200 * 2 * 4 * small.numel() / seconds["cache"] / 1e9, 1),
        "float32 matrix product (GFLOP/s)": round(2 * 2048**3 / seconds["product"] / 1e9, 1),
    }


def time_model(repeats: int) -> dict[str, float]:
    """Swin-T: seconds of a forward pass at 800 x 1066 and of a training step at 480 x 640, with each backend of the op."""
    model = GroundingDINO(GroundingDINOConfig.tiny())
    image, small = torch.randn(1, 3, 800, 1066), torch.randn(1, 3, 480, 640)
    prompt = [["cat", "remote control"]]
    result = {}

    def using(backend: str, run: Callable[[], None]) -> Callable[[], None]:
        def wrapped() -> None:
            os.environ["GDINO_OPS"] = backend
            run()

        return wrapped

    def forward() -> None:
        with torch.inference_mode():
            model.eval()(image, prompt)

    def step() -> None:
        model.train().zero_grad()
        out = model(small, prompt)
        stages = [out, *out.layers, out.proposals]
        sum(stage.boxes.sum() + stage.logits[stage.logits.isfinite()].square().mean() for stage in stages).backward()

    for name, run in (("forward", forward), ("training step", step)):
        median = interleaved({backend: using(backend, run) for backend in ("reference", "native")}, repeats)
        result |= {f"{name}, {backend} (s)": round(seconds, 3) for backend, seconds in median.items()}
        result[f"{name}, times as fast"] = round(median["reference"] / median["native"], 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each measurement (default: 9)")
    parser.add_argument("--model", action="store_true", help="also time the whole Swin-T model (takes minutes)")
    options = parser.parse_args()
    if not native.load_library("cpu"):
        raise SystemExit(1)
    figures = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "limits": machine_limits(),
        **{case: time_case(case, options.repeats) for case in CASES},
    }
    if options.model:
        figures["Swin-T"] = time_model(max(1, options.repeats // 3))
    report(figures, options.json)


if __name__ == "__main__":
    main()
