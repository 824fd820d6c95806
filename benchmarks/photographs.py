"""Measure the embedded model on photographs: `python benchmarks/photographs.py --photos DIR --json FILE [--model FILE]`.

DIR holds sets in COCO format that the model was not trained on; each set is a folder with annotations.json and images/. The
prompt for an image holds all names of its set. Besides AP, the script measures the share of objects that any box finds,
whatever its name; the number of boxes per image for 8 absent names, at the default box threshold; and AP50 of each name.

`--held-out DIR` reads the training sets and takes the pictures that training left out, because they show one of twenty
held-out names. The prompt for each picture holds all twenty names.

`--finetune SET ...` splits each set into two random halves, measures on the second half, trains on the first half for
`--steps` steps, and measures again.
"""

from __future__ import annotations

import argparse
import platform
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import report
from torchvision.ops import box_iou

from data_prep import Dataset
from data_prep.formats import coco
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.records import class_names
from gdino_lib.data.transforms import TrainingTransform
from gdino_lib.detect.detector import Detector
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all, detection_records
from gdino_lib.evaluation.false_positives import ask_for_absent
from gdino_lib.nano.photographs import held_out_names
from gdino_lib.training.settings import TrainingSettings
from gdino_lib.training.trainer import Trainer
from gdino_lib.weights import loading

ABSENT = 8  # absent names in a prompt
THRESHOLD = 0.35  # the detector's default for boxes
SETTINGS = TrainingSettings(  # of fine-tuning
    epochs=1,
    batch_size=16,
    lr=3e-4,
    lr_scale={"text_encoder.bert": 0.0, "image_backbone.backbone": 0.3},
    schedule="cosine",
    warmup_steps=20,
    clip=1.0,
    ema=0.99,
    precision="bfloat16",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--model", default="nano", help="a name, a weight file or a folder (default: nano)")
    parser.add_argument("--sets", nargs="*", default=["voc07", "coco_mini"], metavar="SET", help="sets to measure on")
    parser.add_argument(
        "--held-out", type=Path, metavar="DIR", help="folder of the training sets, to measure held-out names"
    )
    parser.add_argument("--finetune", nargs="*", default=[], metavar="SET", help="sets to fine-tune on")
    parser.add_argument("--steps", type=int, default=400, help="steps of fine-tuning, 16 images each (default: 400)")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="short side that images are resized to")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "on": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "model": str(options.model),
    }
    detector = Detector(load(options.model, options.short_side))
    figures["sets"] = {
        name: measure(detector, coco.read(options.photos / name / "annotations.json"), options.photos / name / "images")
        for name in options.sets
    }
    if options.held_out:
        figures["held_out_names"] = measure_held_out(detector, options.held_out)
    for name in options.finetune:
        figures.setdefault("finetuned", {})[name] = finetune(
            options.model, options.short_side, options.photos / name, options.steps
        )
    report(figures, options.json)


def load(model: str, short_side: int | None) -> Any:
    """Load a model; `short_side` replaces the size to which it resizes images."""
    loaded = loading.load(model, "cpu")
    if short_side:
        loaded.config = loaded.config.replace(short_side=short_side, long_side=2 * short_side)
    return loaded


def measure(detector: Detector, records: Dataset, images: Path) -> dict[str, Any]:
    """AP with all names in the prompt, recall whatever the name, and boxes for absent names."""
    found = detect_all(detector, records, images)
    measured = average_precision(records, found)
    (absent,) = ask_for_absent(detector, records, images, thresholds=[THRESHOLD], most=ABSENT)
    return {
        "images": measured.images,
        "objects": measured.objects,
        "names": len(class_names(records)),
        "ap": measured.ap,
        "ap50": measured.ap50,
        "recall50": recall_of_any_box(records, found),
        "boxes_per_image_for_absent_names": absent.boxes_per_image,
        "by_name": {each.name: each.ap50 for each in measured.classes if each.ap50 is not None},
    }


def recall_of_any_box(records: Dataset, found: dict[str, Any]) -> float:
    """The share of objects that some box overlaps with an IoU of at least 0.5, whatever its name."""
    hits = objects = 0
    for record in detection_records(records):
        truth = torch.tensor([box.xyxy for box in record.boxes], dtype=torch.float32).reshape(-1, 4)
        boxes = torch.from_numpy(found[record.file_name].xyxy).float()
        best = box_iou(truth, boxes).amax(1) if len(boxes) else torch.zeros(len(truth))
        hits, objects = hits + int((best >= 0.5).sum()), objects + len(truth)
    return hits / objects


def measure_held_out(detector: Detector, folder: Path) -> dict[str, Any]:
    """AP50 with all held-out names in the prompt, and how often the most confident box has the right name."""
    names = held_out_names()
    result: dict[str, Any] = {}
    for file in sorted(folder.glob("*/annotations.json")):
        records = coco.read(file)
        images = tuple(record for record in records.images if any(box.label in names for box in record.boxes))
        if not images:
            continue
        images = tuple(replace(r, boxes=tuple(box for box in r.boxes if box.label in names)) for r in images)
        dataset = Dataset(images, names)
        found = detect_all(detector, dataset, file.parent / "images")
        measured = average_precision(dataset, found)
        right = [
            names[found[record.file_name].class_id[np.argmax(found[record.file_name].confidence)]]
            in {box.label for box in record.boxes}
            for record in images
        ]
        result[file.parent.name] = {
            "images": len(images),
            "ap50": measured.ap50,
            "recall50": recall_of_any_box(dataset, found),
            "surest_box_has_the_right_name": sum(right) / len(right),
            "by_chance": 1 / len(names),
            "by_name": {each.name: each.ap50 for each in measured.classes if each.ap50 is not None},
        }
    return result


def finetune(model: str, short_side: int | None, folder: Path, steps: int) -> dict[str, Any]:
    """AP50 on one half of a set, before and after training on the other half."""
    records = coco.read(folder / "annotations.json")
    images = list(records.images)
    random.Random("halves").shuffle(images)
    half = len(images) // 2
    to_learn, judge = (replace(records, images=tuple(part)) for part in (images[:half], images[half:]))
    before = measure(Detector(load(model, short_side)), judge, folder / "images")
    trained = load(model, short_side)
    transform = TrainingTransform(trained.config.short_side, trained.config.long_side)
    dataset = GroundingDataset(to_learn, folder / "images", transform)
    settings = replace(SETTINGS, epochs=-(-steps // max(len(dataset) // SETTINGS.batch_size, 1)))
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        result = Trainer(trained, dataset, settings, Path(out) / "run", device="cpu").fit()
        seconds = time.perf_counter() - start
        after = measure(Detector(load(str(result.weights), short_side)), judge, folder / "images")
    return {"steps": result.step, "seconds": round(seconds), "before": before, "after": after}


if __name__ == "__main__":
    main()
