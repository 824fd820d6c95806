"""`gdino build-ops`: compile deformable attention ahead of its first use."""

from __future__ import annotations

import argparse

HELP = "compile deformable attention ahead of its first use"
DESCRIPTION = "Compile deformable attention ahead of its first use. An earlier build is replaced."


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    command.add_argument("--cuda", action="store_true", help="compile for CUDA, too; needs nvcc")


def run(options: argparse.Namespace) -> int:
    """Compile for each device. Returns the exit status."""
    import torch

    from gdino_lib.messages import printable
    from gdino_lib.ops import native

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}")
    for device in ("cpu", "cuda") if options.cuda else ("cpu",):
        print(printable(f"{device}: compiler {native.compiler(device) or 'not found'}"), flush=True)
        print(printable(f"{device}: written to {native.build(device)}"), flush=True)
    return 0
