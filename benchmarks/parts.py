"""Time each part of the model for the book: `python benchmarks/parts.py --json book/data/parts.json`.

Chapter 07 draws the figures: the seconds of each part of nano and of Swin-T in one forward pass, with readable and with compiled
deformable sampling. The script needs an idle machine, and stops on a busy one. It takes about two minutes.
"""

import argparse
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from results import load_of_quiet_machine, report
from torch import nn

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.ops import native
from gdino_lib.ops.deform_attn import MultiScaleDeformableAttention

COMMAND = "python benchmarks/parts.py --json book/data/parts.json"
PROMPTS = [["snail", "hot pepper"]]
MODELS = {  # preset, and (height, width) of the prepared picture in pixels
    "nano": (GroundingDINOConfig.nano, (256, 341)),
    "Swin-T": (GroundingDINOConfig.tiny, (800, 1066)),
}


def stopwatch(key: str, sign: int, spent: Counter) -> tuple[Callable[..., None], Callable[..., None]]:
    """Two forward hooks; the seconds between them are added to spent[key] (sign 1) or subtracted from it (sign -1)."""
    begun = []

    def start(*_: object) -> None:
        begun.append(time.perf_counter())

    def stop(*_: object) -> None:
        spent[key] += sign * (time.perf_counter() - begun.pop())

    return start, stop


def watch(model: nn.Module, spent: Counter) -> Iterator[Any]:
    """Add hooks to each part. Sampling is the time of the deformable layers without that of their four linear layers."""
    parts = [name for name, _ in model.named_children()]
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0]
        is_part = (
            name in parts or parent == "contrastive_heads"
        )  # contrastive_heads is a list without a forward pass of its own
        keys = [(name.split(".")[0], 1)] if is_part else []
        if isinstance(module, MultiScaleDeformableAttention):
            keys = [("sampling", 1)]
        elif isinstance(model.get_submodule(parent), MultiScaleDeformableAttention):
            keys = [("sampling", -1)]
        for key, sign in keys:
            start, stop = stopwatch(key, sign, spent)
            yield module.register_forward_pre_hook(start)
            yield module.register_forward_hook(stop)


def seconds_by_part(model: nn.Module, pixel_values: torch.Tensor, runs: int) -> dict[str, float]:
    """Seconds of each part and of sampling, in the fastest of the runs; an additional run warms up."""
    results = []
    for _ in range(runs + 1):
        spent: Counter = Counter()
        hooks = list(watch(model, spent))
        start = time.perf_counter()
        model(pixel_values, PROMPTS)
        results.append((time.perf_counter() - start, spent))
        for hook in hooks:
            hook.remove()
    _, fastest = min(results[1:], key=lambda result: result[0])
    return {name: round(taken, 5) for name, taken in fastest.items()}


def about() -> dict[str, object]:
    """The settings of this script that the figures depend on."""
    return {"command": COMMAND, "prompts": PROMPTS, "pixels": {name: list(size) for name, (_, size) in MODELS.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--runs", type=int, default=9, help="forward passes, of which the fastest counts (default: 9)")
    options = parser.parse_args()
    load = load_of_quiet_machine()
    if not native.load_library("cpu"):
        raise SystemExit(1)
    figures = {
        **about(),
        "on": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "load before": round(load, 2),
        "seconds": {},
    }
    with torch.inference_mode():
        for name, (preset, size) in MODELS.items():
            model = GroundingDINO(preset()).eval()
            pixel_values = torch.randn(1, 3, *size)
            for backend in ("reference", "native"):
                os.environ["GDINO_OPS"] = backend
                figures["seconds"].setdefault(name, {})[backend] = seconds_by_part(model, pixel_values, options.runs)
    report(figures, options.json)


if __name__ == "__main__":
    main()
