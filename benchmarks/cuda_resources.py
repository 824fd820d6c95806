"""List the resources that the CUDA kernels use on each architecture: `python benchmarks/cuda_resources.py --json FILE`.

The script needs nvcc, but no GPU. nvcc's assembler reports the registers, the shared memory and the spills of each kernel;
a spill is a register that is moved to memory.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.atomic import write_json

SOURCES = Path(__file__).parents[1] / "gdino_lib" / "ops" / "csrc"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
BYTES = {"double": 8, "float": 4, "__half": 2, "__nv_bfloat16": 2}
THREADS = 128  # per block, kThreads in the sources
REGISTERS, MOST_WARPS = 65536, {75: 32, 80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}  # of a multiprocessor


def sizes(type_bytes: int, channels: int) -> tuple[int, int]:
    """(kVector, kLanes) of the kernel for a head width, as `choose_sizes` in the sources computes them."""
    vector = 16 // type_bytes
    if channels % vector:
        return 1, 32
    return vector, next((lanes for lanes in (4, 8, 16) if channels // vector <= lanes), 32)


def supported(nvcc: str) -> list[int]:
    """The architectures in `ARCHITECTURES` for which this nvcc can compile."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout
    return [arch for arch in ARCHITECTURES if f"compute_{arch}" in listed.split()]


def translation_unit(widths: Iterable[int]) -> str:
    """CUDA source that instantiates both kernels for all types and these head widths."""
    lines = ['#include "cuda_kernels.cuh"', "namespace gdino {"]
    for name, size in BYTES.items():
        total = "double" if name == "double" else "float"
        for vector, lanes in sorted({sizes(size, width) for width in widths}):
            for kernel, tensors in (("forward_kernel", "Forward"), ("backward_kernel", "Backward")):
                types = f"{name}, {total}"
                lines.append(
                    f"template __global__ void {kernel}<{types}, {vector}, {lanes}>"
                    f"(const Problem, const Levels, const {tensors}<{types}>);"
                )
    return "\n".join([*lines, "}", ""])


def measure(nvcc: str, architectures: Iterable[int], widths: Iterable[int]) -> list[dict]:
    """One row per architecture and kernel."""
    widths = tuple(widths)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.cu"
        source.write_text(translation_unit(widths))
        with ThreadPoolExecutor(2) as pool:
            reports = pool.map(lambda arch: _report(nvcc, arch, source), architectures)
            return [row for report in reports for row in report]


def _report(nvcc: str, arch: int, source: Path) -> list[dict]:
    command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v", "-I", str(SOURCES)]
    target = source.with_suffix(f".{arch}.cubin")
    done = subprocess.run([*command, str(source), "-o", str(target)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc failed for sm_{arch}:\n{done.stderr}")
    rows = []
    for part in done.stderr.split("Compiling entry function '")[1:]:
        kernel, name, vector, lanes = re.match(
            r"\w*?(forward|backward)_kernelI(f|d|6__half|13__nv_bfloat16)[fd]Li(\d+)ELi(\d+)E", part
        ).groups()
        stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part).groups()
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = re.search(r"(\d+) bytes smem", part)
        # the hardware allocates registers to whole warps, in units of 256
        blocks = REGISTERS // (-(-registers * 32 // 256) * 256 * THREADS // 32)
        rows.append(
            {
                "architecture": f"sm_{arch}",
                "kernel": kernel,
                "type": {"f": "float", "d": "double"}.get(name, name.lstrip("0123456789")),
                "vector": int(vector),
                "lanes": int(lanes),
                "registers": registers,
                "shared_bytes": int(shared[1]) if shared else 0,
                "spill_bytes": int(stores) + int(loads),
                "resident_warps": min(blocks * THREADS // 32, MOST_WARPS[arch]),
                "most_warps": MOST_WARPS[arch],
            }
        )
    return sorted(rows, key=lambda row: (row["type"], row["vector"], row["lanes"], row["kernel"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--widths", type=int, nargs="+", default=[32], help="channels per head (default: 32)")
    parser.add_argument("--nvcc", default=shutil.which("nvcc"), help="path of nvcc (default: the nvcc on PATH)")
    options = parser.parse_args()
    if options.nvcc is None:
        raise SystemExit("found no nvcc on PATH; give its path with --nvcc")
    rows = measure(options.nvcc, supported(options.nvcc), options.widths)
    columns = list(rows[0])
    print("  ".join(columns))
    for row in rows:
        print("  ".join(str(row[column]).ljust(len(column)) for column in columns))
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
