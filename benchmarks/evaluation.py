"""Time `gdino eval --dataset` beside a plain loop of calls: `python benchmarks/evaluation.py --json FILE`.

Both look for the same 80 classes in the same pictures, with the same loaded model, in turns. The loop calls the detector with the
path of each picture and does nothing else. `gdino eval` also reads the annotations and the pictures' bytes, stores what was found
and computes the average precision; the seconds of these steps are measured as well. Pictures and boxes are made up.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from results import load_of_quiet_machine, report
from rich.console import Console

import gdino_lib as gd
from gdino_lib.evaluation import benchmark, tasks
from gdino_lib.evaluation.class_prompts import EVERY_PAIR
from gdino_lib.evaluation.published_sets import Choice
from gdino_lib.evaluation.stored_results import StoredResults

CLASSES = [f"{colour} {thing}" for colour in ("red", "blue", "old", "big") for thing in [
    *("cat", "dog", "bus", "car", "cup", "pen", "hat", "box", "key", "jar"),
    *("tree", "boat", "bird", "shoe", "lamp", "door", "book", "fork", "cake", "sofa"),
]]  # fmt: skip
SIZES = ((640, 480), (480, 640), (640, 427), (500, 375))


def write_coco(root: Path, count: int) -> list[Path]:
    """Write smoothed noise as JPEG, with five boxes a picture; returns the pictures."""
    rng = np.random.default_rng(0)
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations, paths = [], [], []
    for number in range(1, count + 1):
        width, height = SIZES[number % len(SIZES)]
        noise = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        paths.append(root / "val2017" / f"{number:012d}.jpg")
        noise.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=92)
        images.append({"id": number, "width": width, "height": height, "file_name": paths[-1].name})
        for _ in range(5):
            box = [int(value) for value in (rng.integers(0, 300), rng.integers(0, 200), *rng.integers(10, 150, 2))]
            fields = {"id": len(annotations) + 1, "image_id": number, "category_id": int(rng.integers(1, 81))}
            annotations.append(fields | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content), "utf-8")
    return paths


@contextmanager
def clocked(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of the steps that only `gdino eval` has."""

    def clock(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.perf_counter() - start

        return timed

    places = {
        "read annotations": (benchmark, "read_tasks"),
        "hash the pictures": (benchmark, "_fingerprint"),
        "hash the weights": (benchmark, "weights_digest"),
        "store": (StoredResults, "write"),
        "measure": (tasks.ClassTask, "measure"),
    }
    patches = [
        mock.patch.object(owner, name, clock(step, getattr(owner, name))) for step, (owner, name) in places.items()
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--model", default="nano", help="nano (default), tiny, base, a weight file or a folder")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--images", type=int, default=64, help="number of pictures (default: 64)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each measurement (default: 3)")
    options = parser.parse_args()
    load = load_of_quiet_machine()
    detector = gd.Detector.from_pretrained(options.model, options.device)
    seconds: dict[str, list[float]] = {"gdino eval": [], "loop": []}
    steps: dict[str, list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(gd.Detector, "from_pretrained", return_value=detector),
    ):
        paths = write_coco(Path(folder) / "coco", options.images)
        choice = Choice("coco", Path(folder) / "coco", "val2017")
        quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115

        def evaluate() -> None:
            target = Path(folder) / "figures.json"
            benchmark.run_benchmark(choice, options.model, target, device=options.device, overwrite=True, console=quiet)

        def loop() -> None:
            for path in paths:
                detector(path, CLASSES, **EVERY_PAIR)

        for turn in range(options.repeats + 1):  # the first turn warms up
            for name, run in (("gdino eval", evaluate), ("loop", loop)):
                own: dict[str, float] = defaultdict(float)
                start = time.perf_counter()
                with clocked(own):
                    run()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
                    for step, value in own.items():
                        steps[step].append(value)
    figures = {
        "command": shlex.join(["python", "benchmarks/evaluation.py", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if detector.device.type == "cuda" else detector.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "load before": load,
        },
        "model": options.model,
        "images": options.images,
        "classes": len(CLASSES),
        "repeats": options.repeats,
        "images a second": {name: round(options.images / median(values), 3) for name, values in seconds.items()},
        "seconds": {name: [round(min(values), 2), round(max(values), 2)] for name, values in seconds.items()},
        "times as fast as the loop": round(median(seconds["loop"]) / median(seconds["gdino eval"]), 3),
        "seconds of single steps": {step: round(median(values), 3) for step, values in steps.items()},
    }
    report(figures, options.json)


if __name__ == "__main__":
    main()
