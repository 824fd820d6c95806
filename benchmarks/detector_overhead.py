"""Measure what the Detector adds to its model's time and memory: `python benchmarks/detector_overhead.py --json FILE`.

The script answers three questions, with random weights. Does memory stay flat over 200 detections? Is one call with a list of
32 images as fast as 32 calls (in turns, medians)? Which share of a Swin-T detection at 800 x 1066 is spent outside the model's
forward passes?
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results import report, times_in_turns

import gdino_lib as gd

PHRASES = ["cat", "dog", "remote control", "person with an umbrella"]
LOW = {"box_threshold": 0.0, "text_threshold": 0.0}  # keep and label every box, because random weights give low scores


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Smoothed noise, about as hard to resize and to compress as a photograph."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def resident_mb() -> float:
    """Memory of this process in RAM, in MB; the peak if the system does not tell the present value."""
    if Path("/proc/self/statm").exists():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def memory(detector: gd.Detector, detections: int = 200) -> dict[str, Any]:
    """Memory in the course of detections on new images of eight sizes, with ten prompts in turn."""
    sizes = [(640, 480), (480, 640), (800, 600), (500, 500), (1024, 768), (300, 200), (640, 360), (90, 60)]
    resident = {}
    for number in range(1, detections + 1):
        phrases = [*PHRASES, f"thing number {number % 10}"]
        detector(picture(sizes[number % len(sizes)], number), phrases, **LOW, nms_iou=0.8)
        if number in (10, 50, 100, 150, detections):
            resident[str(number)] = round(resident_mb(), 1)
    return {"resident_mb_after": resident, "grown_50_to_last_mb": round(resident[str(detections)] - resident["50"], 1)}


def lists(detector: gd.Detector, repeats: int) -> dict[str, Any]:
    """Times of `detector(32 images)` and of 32 calls, in turns: for images of one shape and of four shapes."""
    result = {}
    for name, sizes in {
        "one_shape": [(640, 480)],
        "four_shapes": [(640, 480), (480, 640), (500, 500), (640, 360)],
    }.items():
        images = [picture(sizes[number % len(sizes)], number) for number in range(32)]
        runs: dict[str, Callable[[], Any]] = {
            "list": lambda images=images: detector(images, PHRASES, **LOW),
            "calls": lambda images=images: [detector(image, PHRASES, **LOW) for image in images],
        }
        seconds = times_in_turns(runs, repeats)
        median = {run: statistics.median(times) for run, times in seconds.items()}
        result[name] = {
            "median_s": {run: round(value, 3) for run, value in median.items()},
            "spread_s": {run: [round(min(times), 3), round(max(times), 3)] for run, times in seconds.items()},
            "list_over_calls": round(median["list"] / median["calls"], 3),
        }
    return result


@contextmanager
def clocked(model: gd.GroundingDINO) -> Any:
    """Measure the seconds of the model's own passes: {"image_backbone": ..., "text_encoder": ..., "ground": ...}."""
    seconds: dict[str, float] = {}
    places = {"image_backbone": (model.image_backbone, "forward"), "text_encoder": (model.text_encoder, "forward")}
    places["ground"] = (model, "ground")
    device = next(model.parameters()).device

    def clock(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = now(device)
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] = seconds.get(name, 0.0) + now(device) - start

        return timed

    for name, (owner, attribute) in places.items():
        setattr(owner, attribute, clock(name, getattr(owner, attribute)))
    try:
        yield seconds
    finally:
        for owner, attribute in places.values():
            delattr(owner, attribute)


def now(device: torch.device) -> float:
    """The time once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def share(detector: gd.Detector, file: Path, repeats: int) -> dict[str, Any]:
    """The share of a detection, from file to labelled boxes, that is spent outside the model. Each prompt is new."""
    detector(file, ["warm up"])
    rows = []
    for turn in range(repeats):
        with clocked(detector.model) as seconds:
            start = now(detector.device)
            detector(file, [*PHRASES, f"turn {turn}"], **LOW, nms_iou=0.8)
            total = now(detector.device) - start
        rows.append({"total": total, "outside": total - sum(seconds.values()), **seconds})
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {
        "median_s": {name: round(value, 4) for name, value in median.items()},
        "outside_percent": round(100 * statistics.median(row["outside"] / row["total"] for row in rows), 2),
        "outside_percent_worst": round(100 * max(row["outside"] / row["total"] for row in rows), 2),
        "repeats": repeats,
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--device", default="cpu", help="device to run on (default: cpu)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each measurement (default: 5)")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    small = gd.Detector(gd.GroundingDINO(gd.GroundingDINOConfig.nano()).to(device))
    result: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
        },
        "memory": {"model": "nano", "detections": 200, **memory(small)},
        "list_of_32": {"model": "nano", "repeats": options.repeats, **lists(small, options.repeats)},
    }
    del small
    tiny = gd.Detector(gd.GroundingDINO(gd.GroundingDINOConfig.tiny()).to(device))
    scene = Path(os.environ.get("TMPDIR", "/tmp")) / f"detector_overhead_{os.getpid()}.jpg"
    try:
        picture((1280, 960), 0).save(scene, quality=92)  # the detector resizes it to 1066 x 800
        result["outside_the_model"] = {"model": "tiny", "size": [800, 1066], **share(tiny, scene, options.repeats)}
    finally:
        scene.unlink(missing_ok=True)
    result["machine"]["load_after"] = os.getloadavg() if hasattr(os, "getloadavg") else None
    report(result, options.json)


if __name__ == "__main__":
    main()
