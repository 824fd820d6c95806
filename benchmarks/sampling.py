"""Time deformable attention for the book: `python benchmarks/sampling.py --json book/data/sampling.json`.

Chapter 03b draws the figures. They compare the compiled op, by instruction set and number of threads, with the reference; both
backends at the size of the real encoder; and dense attention with sampling as pictures grow. The script needs two cores and an
idle machine, and stops on a busy one. It takes about two minutes.
"""

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from deform_attn import interleaved, tensors
from results import load_of_quiet_machine, report

from gdino_lib.ops import deform_attn, native

COMMAND = "python benchmarks/sampling.py --json book/data/sampling.json"
PICTURE, FULL_SIZE = (384, 512), (800, 1066)
SIDES = (96, 128, 192, 256, 384, 512)
HEADS, CHANNELS = 8, 32
THREADS = (1, 2)
SETS = {
    "AVX512": ("plain", "avx2", "avx512"),
    "AVX2": ("plain", "avx2"),
}  # versions to time, by PyTorch's CPU capability
WORKER = """
import sys, time, torch
import gdino_lib as gd
value, shapes, *others = torch.load(sys.argv[1])
for line in sys.stdin:
    backend, job, threads = line.split(",")
    torch.set_num_threads(int(threads))
    leaves = [t.clone().requires_grad_(job != "forward") for t in (value, *others)]
    start = time.perf_counter()
    out = gd.ms_deform_attn(leaves[0], shapes, *leaves[1:], backend=backend)
    if job != "forward":
        out.sum().backward()
    print(time.perf_counter() - start, flush=True)
"""


class Worker:
    """A process that waits for jobs. Each version has its own, because a process chooses its instruction set only once."""

    def __init__(self, file: Path, **environment: str) -> None:
        command = [sys.executable, "-c", WORKER, str(file)]
        self.process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, *job: object) -> float:
        """Seconds of one job, given as backend, "forward" or "with backward", and number of threads."""
        print(*job, sep=",", file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def inputs(height: int, width: int) -> tuple:
    """The op's inputs in the enhancer, for a picture of this size in pixels."""
    shapes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (8, 16, 32, 64)]
    return tensors(1, shapes, None, HEADS, CHANNELS)


def by_instruction_set(turns: int) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds by version, job and number of threads; the first turn warms up."""
    sets = SETS.get(torch.backends.cpu.get_cpu_capability(), ("plain",))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.pt"
        torch.save(inputs(*PICTURE), file)
        workers = {"reference": ("reference", Worker(file))}
        workers |= {f"native {name}": ("native", Worker(file, GDINO_CPU=name)) for name in sets}
        jobs = [(job, threads) for job in ("forward", "with backward") for threads in THREADS]
        seconds: dict[tuple, list[float]] = {}
        for turn in range(turns + 1):
            for name, (backend, worker) in workers.items():
                for job, threads in jobs:
                    taken = worker.seconds(backend, job, threads)
                    if turn:
                        seconds.setdefault((name, job, threads), []).append(taken)
        for _, worker in workers.values():
            worker.process.communicate()
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for (name, job, threads), values in seconds.items():
        median = round(1e3 * statistics.median(values), 2)
        figures.setdefault(name, {}).setdefault(job, {})[str(threads)] = median
    return figures


def at_full_size(turns: int) -> dict[str, object]:
    """Median milliseconds of a forward pass with one thread, by backend."""
    arguments = inputs(*FULL_SIZE)
    runs = {
        backend: lambda backend=backend: deform_attn.ms_deform_attn(*arguments, backend=backend)
        for backend in ("reference", "native")
    }
    figures = {backend: round(1e3 * seconds, 2) for backend, seconds in interleaved(runs, turns).items()}
    return {"picture": list(FULL_SIZE), "threads": 1, **figures}


def as_pictures_grow(turns: int) -> list[dict[str, float]]:
    """Median milliseconds with one thread, dense and sampled, by the side of a square picture."""
    rows = []
    for side in SIDES:
        arguments = inputs(side, side)
        heads_first = arguments[0].transpose(1, 2).contiguous()  # (B, N, H, C) -> (B, H, N, C)
        seconds = interleaved(
            {
                "dense": lambda x=heads_first: F.scaled_dot_product_attention(x, x, x),
                "sampled": lambda a=arguments: deform_attn.ms_deform_attn(*a, backend="native"),
            },
            turns,
        )
        milliseconds = {name: round(1e3 * taken, 3) for name, taken in seconds.items()}
        rows.append({"side": side, "tokens": heads_first.shape[2], **milliseconds})
    return rows


def about() -> dict[str, object]:
    """The settings of this script that the figures depend on."""
    return {"command": COMMAND, "picture": list(PICTURE)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument(
        "--turns", type=int, default=9, help="turns of each measurement, of which the median counts (default: 9)"
    )
    options = parser.parse_args()
    load = load_of_quiet_machine()
    if not native.load_library("cpu"):
        raise SystemExit(1)
    cpu = torch.backends.cpu.get_cpu_capability()
    torch.set_num_threads(1)
    with torch.no_grad():
        figures = {
            **about(),
            "on": f"{platform.machine()}, {os.cpu_count()} cores, {cpu}, torch {torch.__version__}",
            "load before": round(load, 2),
            "milliseconds": by_instruction_set(options.turns),
            "full size": at_full_size(options.turns),
            "growing pictures": as_pictures_grow(options.turns),
        }
    report(figures, options.json)


if __name__ == "__main__":
    main()
