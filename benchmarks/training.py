"""Time training steps beside transformers' port, in one run: `python benchmarks/training.py --json FILE`.

A step is a forward pass, the losses and a backward pass. The port computes its own losses, including the auxiliary losses. The
cases are Swin-T at 480 x 640 with batch size 2, and nano at 256 x 256 with batch size 16, in float32 and in bfloat16 (autocast).
All take turns in one process; ratios are ratios of medians. Peak memory is measured in a process of its own for each, without
the memory of the imports.
"""

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from results import report

sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.data.targets import Target
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.training import denoising
from gdino_lib.training.losses import Criterion
from gdino_lib.training.optimization import train_mode

CASES = {"Swin-T": ("tiny", 2, 480, 640), "nano": ("nano", 16, 256, 256)}
PHRASES = ["cat", "remote control", "a person with an umbrella", "dog", "tricycle", "fire hydrant"]
WHO = ("transformers", "gdino_lib", "gdino_lib with denoising")


def peak_mb() -> float:
    """Peak memory of this process in MB (Linux). getrusage would also count the parent's memory from before the exec."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def batch(case: str) -> tuple[torch.Tensor, list[Target]]:
    """Random images, and targets with three boxes each."""
    _, count, height, width = CASES[case]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, height, width, generator=generator)
    targets = []
    for number in range(count):
        boxes = torch.rand(3, 4, generator=generator) * 0.3 + 0.2  # cxcywh well inside
        targets.append(Target(boxes, torch.randint(len(PHRASES), (3,), generator=generator), f"image {number}"))
    return images, targets


def config_of(case: str) -> GroundingDINOConfig:
    """The case's preset, limited to what the port supports: half the heads in text and fusion, official head, no framing."""
    config = getattr(GroundingDINOConfig, CASES[case][0])()
    return config.replace(
        text_heads=config.heads // 2, fusion_heads=config.heads // 2, text_framed=False, scaled_logits=False
    )


def ours(case: str, images: torch.Tensor, targets: list[Target], with_denoising: bool) -> Callable[[], float]:
    """A training step of this library; it takes a dtype and returns the loss."""
    torch.manual_seed(0)
    model, criterion = GroundingDINO(config_of(case)), Criterion()
    train_mode(model)
    noise = partial(denoising.noise_queries, targets=targets, seeds=range(len(targets))) if with_denoising else None

    def step(dtype: torch.dtype) -> float:
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(images, [PHRASES] * len(images), denoising=noise)
        loss = criterion(out, targets)["total"]
        loss.backward()
        return loss.item()

    return step


def port(case: str, images: torch.Tensor, targets: list[Target]) -> Callable[[], float]:
    """A training step of transformers' port at the same sizes; it takes a dtype and returns the loss."""
    from peers import captions
    from transformers import GroundingDinoForObjectDetection, TimmBackboneConfig

    from gdino_lib.weights.layouts import hugging_face_config

    config = config_of(case)
    sizes = hugging_face_config(config if config.backbone == "swin" else config.replace(backbone="swin"))
    if config.backbone != "swin":
        sizes.backbone_config = TimmBackboneConfig(
            backbone=config.backbone, use_pretrained_backbone=False, out_indices=[2, 3, 4], freeze_batch_norm_2d=True
        )
    sizes.auxiliary_loss = True
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(sizes).train()
    texts = captions([PHRASES] * len(images))
    mask = torch.ones(images.shape[0], *images.shape[2:], dtype=torch.long)
    labels = [{"class_labels": target.phrases, "boxes": target.boxes} for target in targets]

    def step(dtype: torch.dtype) -> float:
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(pixel_values=images, pixel_mask=mask, labels=labels, **texts).loss
        loss.backward()
        return loss.item()

    return step


def build(who: str, case: str) -> Callable[[torch.dtype], float]:
    """The training step of one of the models in `WHO`."""
    images, targets = batch(case)
    return port(case, images, targets) if who == WHO[0] else ours(case, images, targets, who == WHO[2])


def memory(who: str, case: str, dtype: str) -> float:
    """Peak memory of two steps in MB, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", who, case, dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each measurement (default: 5)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="cases to time (default: all)")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        who, case, dtype = options.memory_of
        import transformers  # noqa: F401 - all processes import the same

        before = peak_mb()
        step = build(who, case)
        for _ in range(2):
            step(getattr(torch, dtype))
        print(round(peak_mb() - before))
        return

    figures = {"machine": f"{torch.get_num_threads()} threads, torch {torch.__version__}"}
    for case in options.cases:
        steps = {who: build(who, case) for who in WHO}
        for dtype in ("float32", "bfloat16"):
            seconds = {who: [] for who in WHO}
            for turn in range(options.repeats + 1):
                for who, step in steps.items():
                    start = time.perf_counter()
                    step(getattr(torch, dtype))
                    if turn:
                        seconds[who].append(time.perf_counter() - start)
            medians = {who: median(values) for who, values in seconds.items()}
            entry = {f"{who} (images/s)": round(CASES[case][1] / value, 2) for who, value in medians.items()}
            entry["times as fast as transformers"] = round(medians[WHO[0]] / medians[WHO[1]], 2)
            figures[f"{case}, {dtype}"] = entry
        del steps
        gc.collect()
        for dtype in ("float32", "bfloat16"):
            figures[f"{case}, {dtype}"] |= {f"{who} (MB at the peak)": memory(who, case, dtype) for who in WHO}
    report(figures, options.json)


if __name__ == "__main__":
    main()
