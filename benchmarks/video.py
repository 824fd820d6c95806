"""Measure tracking in drawn films, and frames a second: `python benchmarks/video.py --json FILE`.

Each film shows pictograms that move evenly on a plain background, so that the box of each object in each frame is known. The
embedded model detects, ByteTrack follows. MOTA and identity switches are those of `trackers.eval`.

Frames a second are measured from the film file to the written film, in rounds that alternate between three ways: one call of the
Detector after the other, `gdino detect` (frames decoded and detected ahead), and `gdino detect --track --every 3`. Ratios are
taken within each round, so that other work on the machine touches all ways alike. The load of the machine is recorded.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import supervision as sv
import torch
from PIL import Image
from results import report
from tqdm import tqdm
from trackers.eval.clear import compute_clear_metrics

from gdino_lib.apps.video import FilmWriter
from gdino_lib.detect.detector import Detector
from gdino_lib.detect.drawing import draw_detections
from gdino_lib.detect.frames import Film
from gdino_lib.detect.tracking import find_in_frames, ids
from gdino_lib.nano import drawings, pictograms

COMMAND = "python benchmarks/video.py --json video.json"
SEED, SIDE, OBJECT, RATE = "video", 256, 56, 25
FILMS, FRAMES, OBJECTS = 6, 50, 3
EVERY = (1, 2, 3, 5)
ROUNDS = 5
HIT = 0.5  # least IoU of a true box and the box of its track
Boxes = dict[int, tuple[float, float, float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--films", type=int, default=FILMS, help=f"films to track in (default: {FILMS})")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"rounds of the measurement of time (default: {ROUNDS})"
    )
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"frames of each film (default: {FRAMES})")
    options = parser.parse_args()
    detector = Detector.from_pretrained("nano", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        films = [draw_film(Path(folder), number, options.frames) for number in range(options.films)]
        figures = {
            "command": COMMAND,
            **{"films": options.films, "frames": options.frames, "objects": OBJECTS, "side": SIDE, "seed": SEED},
            "tracking": [tracking(detector, films, every) for every in EVERY],
            "speed": speed(detector, films[0], options.rounds),
        }
    report(figures, options.json)


def draw_film(folder: Path, number: int, frames: int) -> tuple[Path, list[str], list[Boxes]]:
    """(the film, the names of its objects, {object: true box} of each frame)."""
    rng = random.Random(f"{SEED} {number}")
    things = rng.sample(pictograms.seen(), OBJECTS)
    sprites = [drawings.draw(rng.choice(thing.drawings), OBJECT) for thing in things]
    motions = [_motion(rng, sprite, frames, lane) for lane, sprite in enumerate(sprites)]
    path, truth = folder / f"{number}.mp4", []
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=RATE)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        for frame in range(frames):
            image = Image.new("RGB", (SIDE, SIDE), (230, 228, 220))
            boxes: Boxes = {}
            for each, (sprite, (x, y, dx, dy)) in enumerate(zip(sprites, motions, strict=True)):
                left, top = round(x + dx * frame), round(y + dy * frame)
                image.paste(sprite, (left, top), sprite)
                x0, y0, x1, y1 = sprite.getchannel("A").getbbox() or (0, 0, OBJECT, OBJECT)
                boxes[each] = (left + x0, top + y0, left + x1, top + y1)
            truth.append(boxes)
            output.mux(video.encode(av.VideoFrame.from_image(image)))
        output.mux(video.encode(None))
    return path, [thing.name for thing in things], truth


def _motion(rng: random.Random, sprite: Image.Image, frames: int, lane: int) -> tuple[float, float, float, float]:
    """A straight way through the picture: each object has a third of the height to itself, so that none hides another."""
    height = SIDE / OBJECTS
    ends = [rng.uniform(0, SIDE - sprite.width) for _ in range(2)]
    tops = [lane * height + rng.uniform(0, height - sprite.height) for _ in range(2)]
    steps = max(frames - 1, 1)
    return ends[0], tops[0], (ends[1] - ends[0]) / steps, (tops[1] - tops[0]) / steps


def tracking(detector: Detector, films: Sequence[tuple[Path, list[str], list[Boxes]]], every: int) -> dict[str, Any]:
    """MOTA and identity switches over all films."""
    totals = dict.fromkeys(("CLR_TP", "CLR_FN", "CLR_FP", "IDSW"), 0)
    for path, names, truth in tqdm(films, f"every {every}", leave=False):
        found = [boxes for _, boxes in find_in_frames(detector, Film(path), names, {"nms_iou": 0.7}, every)]
        tracked = [boxes[np.array(ids(boxes), dtype=int) >= 0] for boxes in found]
        measured = compute_clear_metrics(
            [np.array(list(boxes)) for boxes in truth],
            [np.array(ids(boxes), dtype=int) for boxes in tracked],
            [_overlaps(true, boxes) for true, boxes in zip(truth, tracked, strict=True)],
            HIT,
        )
        for name in totals:
            totals[name] += int(measured[name])
    true = totals["CLR_TP"] + totals["CLR_FN"]
    mota = 1 - (totals["CLR_FN"] + totals["CLR_FP"] + totals["IDSW"]) / true
    counts = {"missed": totals["CLR_FN"], "extra": totals["CLR_FP"], "switches": totals["IDSW"], "true": true}
    return {"every": every, "MOTA": round(mota, 4), **counts}


def _overlaps(truth: Boxes, found: sv.Detections) -> np.ndarray:
    boxes = np.array(list(truth.values()), dtype=np.float32).reshape(-1, 4)
    return np.asarray(sv.box_iou_batch(boxes, found.xyxy)).reshape(len(boxes), len(found))


def speed(detector: Detector, film: tuple[Path, list[str], list[Boxes]], rounds: int) -> dict[str, Any]:
    """Frames a second of each way, in rounds of all ways."""
    path, names, truth = film
    ways: dict[str, Callable[[], Iterator[tuple[Any, sv.Detections]]]] = {
        "one by one": lambda: ((frame, detector(frame.pixels, names)) for frame in Film(path).frames()),
        "ahead": lambda: find_in_frames(detector, Film(path), names, {}, follow=False),
        "ahead, every 3": lambda: find_in_frames(detector, Film(path), names, {}, every=3),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), "speed", leave=False):
        for name, way in ways.items():
            begin = time.perf_counter()
            with FilmWriter(path.with_name("drawn.mp4"), Film(path)) as writer:
                for frame, found in way():
                    writer.add(draw_detections(frame.pixels, found), frame.seconds)
            rates[name].append(len(truth) / (time.perf_counter() - begin))
    base = rates["one by one"]
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": rounds,
        **{
            name: {
                "frames a second, median": round(statistics.median(each), 2),
                "times one by one, median": round(
                    statistics.median(rate / one for rate, one in zip(each, base, strict=True)), 2
                ),
                "frames a second": [round(rate, 2) for rate in each],
            }
            for name, each in rates.items()
        },
    }


if __name__ == "__main__":
    main()
