"""Compare choices of nano's recipe: `python benchmarks/ablate_nano.py --icons FOLDER --out FOLDER`.

Each variant is trained from scratch on the same number of scenes of 192 x 192, and judged on 400 scenes of names that it
learned and 400 of names that it never saw, 8 absent names a prompt. Runs go on where they were interrupted; `figures.json` in
the output folder keeps what is measured. The model card has the table.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from data_prep.atomic import atomic_file
from gdino_lib import weights
from gdino_lib.data import icons, pictograms
from gdino_lib.data.datasets import read_records
from gdino_lib.data.scenes import SceneDataset, write_scenes
from gdino_lib.detector import Detector
from gdino_lib.evaluation.detection import average_precision, detect_all
from gdino_lib.training import nano
from gdino_lib.training.first_weights import begin_nano
from gdino_lib.training.trainer import Trainer

SIDE = 192
# name: changes of the settings, of the model, of the data
VARIANTS = {
    "recipe": ({}, {}, {}),
    "emojis only, one hand": ({}, {}, {"things": "emojis"}),
    "no further names": ({}, {}, {"things": "hands"}),
    "names without other wordings": ({}, {}, {"wordings": False}),
    "up to 8 absent names": ({}, {}, {"negatives": 8}),
    "no denoising": ({"denoising": 0}, {}, {}),
    "dropout 0.1": ({"dropout": 0.1}, {}, {}),
    "backbone frozen": ({"lr_scale": nano.SETTINGS.lr_scale | {"image_backbone.backbone": 0.0}}, {}, {}),
    "backbone at the full rate": ({"lr_scale": nano.SETTINGS.lr_scale | {"image_backbone.backbone": 1.0}}, {}, {}),
    "text trained, too": ({"lr_scale": nano.SETTINGS.lr_scale | {"text_encoder.bert": 0.1}}, {}, {}),
    "256 wide": ({}, {"width": 256, "heads": 8, "ffn_width": 1024, "fusion_width": 512}, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of the icon sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--scenes", type=int, default=12_800, help="to train on (default: 12,800)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for kind, things in (("seen", pictograms.seen()), ("unseen", pictograms.unseen())):
        if not (options.out / kind).exists():
            write_scenes(options.out / kind, nano.JUDGED, things=things, seed="validation")
    for name in options.variants:
        folder = options.out / f"{name} {options.scenes}"
        if not (folder / "figures.json").is_file():
            began = time.perf_counter()
            result = train(name, options.icons, folder, options.scenes)
            figures = {"variant": name, "scenes": options.scenes, "minutes": (time.perf_counter() - began) / 60}
            figures |= {kind: judge(result, options.out / kind) for kind in ("seen", "unseen")}
            figures["on"] = f"{platform.machine()} CPU, torch {torch.__version__}, {options.threads} threads"
            with atomic_file(folder / "figures.json") as file:
                file.write(json.dumps(figures, indent=1) + "\n")
        print((folder / "figures.json").read_text(encoding="utf-8"), flush=True)


def train(name: str, icon_sets: Path, folder: Path, scenes: int) -> Path:
    """The weights of a variant's run."""
    settings, config, data = VARIANTS[name]
    kinds = data.get("things", "all")
    things, shares = nano.things_to_learn(icon_sets) if kinds == "all" else (pictograms.seen(), None)
    if kinds == "hands":
        things = icons.drawn_by_others(things, icon_sets)
    if not data.get("wordings", True):
        things = [thing._replace(wordings=thing.wordings[:1]) for thing in things]
    changed = replace(nano.SETTINGS, epochs=scenes // nano.EPOCH, **settings)
    dataset = SceneDataset(
        things,
        nano.EPOCH,
        batch_size=changed.batch_size,
        weights=shares,
        sizes=(SIDE,),
        negatives=data.get("negatives", nano.MOST_NEGATIVES),
    )
    model = begin_nano(nano.CONFIG.replace(**config), changed.seed)
    return Trainer(model, dataset, changed, folder, resume=True, workers=1).fit().weights


def judge(path: Path, folder: Path) -> dict[str, float]:
    """AP, AP50 and mean greatest recall in the scenes of a folder."""
    records = read_records(folder / "annotations.json")
    detector = Detector(weights.load(path), "bfloat16")
    measured = average_precision(records, detect_all(detector, records, folder / "images", negatives=nano.NEGATIVES))
    return {"ap": measured.ap, "ap50": measured.ap50, "recall": measured.recall}


if __name__ == "__main__":
    main()
