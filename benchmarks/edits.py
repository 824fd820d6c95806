"""Measure masks and guided edits on scenes: `python benchmarks/edits.py --json book/data/edits.json`.

Chapter 15 draws the figures. The truth of a thing is what a scene shows of it: its alpha mask without what other things hide. The
script measures the IoU of GrabCut's masks in true boxes; what boxes that are 10 % off do to an edit; and, for the embedded model
at several thresholds, the share of edits that hit the right thing. It takes about two minutes of one core.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from results import report
from tqdm import tqdm

from gdino_lib.apps.edit import GROWN, grown
from gdino_lib.apps.segment import segment
from gdino_lib.detect.detector import Detector
from gdino_lib.nano import pictograms
from gdino_lib.nano.scenes import Scene, draw_scene

COMMAND = "python benchmarks/edits.py --json book/data/edits.json"
SEED, SIDE = "edits", 256
SCENES = 60  # of each kind
OFF = 0.1  # share of a box's sides by which it is off
THRESHOLDS = (0.2, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8)
LOWEST = 0.1  # confidence, below which boxes are of no interest
HIT = 0.5  # least IoU of a box and the thing that it hits
SIZES = {"small": (0, 32**2), "medium": (32**2, 64**2), "large": (64**2, SIDE**2 + 1)}  # visible pixels, in SIDE x SIDE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"scenes of each kind (default: {SCENES})")
    options = parser.parse_args()
    kinds = {"seen": pictograms.seen(), "unseen": pictograms.unseen()}
    detector = Detector.from_pretrained("nano", "cpu")
    everything = [*kinds["seen"], *kinds["unseen"]]
    figures = {
        **about(options.scenes),
        "masks": masks(options.scenes, everything),
        "boxes 10 % off": boxes_off(options.scenes, everything),
        "right things": {kind: right_things(options.scenes, things, detector) for kind, things in kinds.items()},
    }
    report(figures, options.json)


def about(scenes: int = SCENES) -> dict[str, Any]:
    """The settings of this script that the figures depend on."""
    return {"command": COMMAND, "scenes": scenes, "side": SIDE, "off": OFF, "hit": HIT}


def scenes_of(count: int, things: Sequence[pictograms.Pictogram]) -> Iterator[Scene]:
    """New scenes, which no training draws."""
    for index in tqdm(range(count), desc="scenes", disable=None):
        yield draw_scene(index, seed=SEED, size=SIDE, things=things)


def visible(scene: Scene) -> np.ndarray:
    """What each thing shows, bool [n, H, W]: later things hide earlier ones."""
    hidden = np.zeros(scene.masks.shape[1:], dtype=bool)
    result = np.zeros_like(scene.masks)
    for number in reversed(range(len(scene.masks))):
        result[number] = scene.masks[number] & ~hidden
        hidden |= scene.masks[number]
    return result


def true_boxes(scene: Scene) -> sv.Detections:
    """The boxes of a scene's record."""
    return sv.Detections(xyxy=np.array([box.xyxy for box in scene.record.boxes], dtype=np.float32).reshape(-1, 4))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """The IoU of two masks."""
    return float((first & second).sum() / max((first | second).sum(), 1))


def masks(count: int, things: Sequence[pictograms.Pictogram]) -> dict[str, Any]:
    """The IoU of masks in true boxes, by size; the whole box is the baseline."""
    sizes: list[int] = []
    values: dict[str, list[float]] = {"grabcut": [], "box": []}
    for scene in scenes_of(count, things):
        truth, found = visible(scene), true_boxes(scene)
        sizes += truth.sum((1, 2)).tolist()
        for with_, own in values.items():
            made = segment(scene.image, found, with_).mask
            own += [overlap(mask, thing) for mask, thing in zip(made, truth, strict=True)]
    area = np.array(sizes)
    result: dict[str, Any] = {"things": len(area)}
    for with_, own in values.items():
        iou = np.array(own)
        result[with_] = {
            "mean": rounded(iou.mean()),
            "median": rounded(np.median(iou)),
            "share above 0.5": rounded((iou > 0.5).mean()),
            "share above 0.9": rounded((iou > 0.9).mean()),
            "mean by size": {
                name: rounded(iou[(area >= low) & (area < high)].mean()) for name, (low, high) in SIZES.items()
            },
            "histogram": np.histogram(iou, bins=20, range=(0, 1))[0].tolist(),
        }
    return result


def shifted(boxes: np.ndarray, rng: random.Random) -> np.ndarray:
    """Boxes moved by `OFF` of their width and height, each in one of four diagonal directions."""
    sides = boxes[:, 2:] - boxes[:, :2]
    signs = np.array([[rng.choice((-1, 1)), rng.choice((-1, 1))] for _ in boxes], dtype=np.float32)
    return boxes + np.tile(signs * OFF * sides, 2)


def scaled(boxes: np.ndarray, by: float) -> np.ndarray:
    """Boxes around the same centres with sides `by` times as long."""
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, by * (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


FAULTS: dict[str, Callable[[np.ndarray, random.Random], np.ndarray]] = {
    "exact": lambda boxes, _: boxes,
    "shifted": shifted,
    "smaller": lambda boxes, _: scaled(boxes, 1 - OFF),
    "larger": lambda boxes, _: scaled(boxes, 1 + OFF),
}


def boxes_off(count: int, things: Sequence[pictograms.Pictogram]) -> dict[str, Any]:
    """What wrong boxes do to an edit, by kind of mask and of fault.

    "left": the share of a thing's visible pixels that the edit leaves as they were. "spilled": edited pixels that do not belong
    to the thing, in areas of the thing; with `edit`'s default margin.
    """
    rng = random.Random(0)
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for scene in scenes_of(count, things):
        truth, found = visible(scene), true_boxes(scene)
        for fault, change in FAULTS.items():
            wrong = sv.Detections(xyxy=np.clip(change(found.xyxy, rng), 0, SIDE).astype(np.float32))
            for with_ in ("grabcut", "box"):
                made = segment(scene.image, wrong, with_).mask
                for mask, region, thing in zip(made, grown(made, SIDE // GROWN), truth, strict=True):
                    size = thing.sum()
                    row = overlap(mask, thing), (thing & ~region).sum() / size, (region & ~thing).sum() / size
                    rows.setdefault((with_, fault), []).append(row)
    result: dict[str, Any] = {"grow": SIDE // GROWN}
    for (with_, fault), values in rows.items():
        iou, left, spilled = np.mean(values, axis=0)
        gone = np.mean([row[1] < 0.02 for row in values])
        result.setdefault(with_, {})[fault] = {
            "iou": rounded(iou),
            "left": rounded(left),
            "spilled": rounded(spilled),
            "share with at most 2 % left": rounded(gone),
        }
    return result


def right_things(count: int, things: Sequence[pictograms.Pictogram], detector: Detector) -> dict[str, Any]:
    """The share of edits that hit a thing of the name asked for, by threshold.

    Each name in a scene is asked for twice: alone, and with the other names in the scene as negatives. One absent name a scene
    is asked for, too. Both thresholds of the detector have the same value. A row has "edits", of names that are there; "right",
    their share that hits; "things hit", the share of things that some edit hits; and "absent edited", the share of absent names
    for which something is edited.
    """
    tallies = {
        way: {threshold: np.zeros(4, dtype=int) for threshold in THRESHOLDS} for way in ("alone", "with negatives")
    }
    total = 0
    for index, scene in enumerate(scenes_of(count, things)):
        names = list(dict.fromkeys(box.label for box in scene.record.boxes))
        absent = random.Random(index).choice([thing.name for thing in things if thing.name not in names])
        embedding = detector.encode_image(scene.image)
        total += len(scene.record.boxes)
        for name in (*names, absent):
            truth = np.array([box.xyxy for box in scene.record.boxes if box.label == name]).reshape(-1, 4)
            for way, tally in tallies.items():
                negatives = [other for other in names if other != name] if way == "with negatives" else []
                found = detector(embedding, [name, *negatives], box_threshold=LOWEST, text_threshold=LOWEST)
                found = found[found.class_id == 0]
                hits = sv.box_iou_batch(truth, found.xyxy) >= HIT  # (things, boxes)
                for threshold, row in tally.items():
                    kept = hits[:, found.confidence >= threshold]
                    edits = kept.shape[1]
                    row += [0, 0, 0, edits > 0] if name == absent else [edits, kept.any(0).sum(), kept.any(1).sum(), 0]
    return {
        "things": total,
        **{
            way: [
                {
                    "threshold": threshold,
                    "edits": int(edits),
                    "right": rounded(right / edits) if edits else None,
                    "things hit": rounded(hit / total),
                    "absent edited": rounded(edited / count),
                }
                for threshold, (edits, right, hit, edited) in tally.items()
            ]
            for way, tally in tallies.items()
        },
    }


def rounded(value: float) -> float:
    """Three digits after the point."""
    return round(float(value), 3)


if __name__ == "__main__":
    main()
