"""Fine-tune the embedded model on real face masks.

`python benchmarks/face_masks.py --masks DIR --photos DIR --out DIR --json FILE [--only RUN ...]`

DIR of `--masks` has the `images/` and `annotations/` of the Face Mask Detection set; its pictures are split into 500 to train
on, 100 that choose recipe and checkpoint, and 253 that are only measured. DIR of `--photos` holds `train/voc07` and
`bench/voc07` in COCO format: the first is mixed in as old data, the second tells what a run forgets.

Each run is a folder in `--out`. A run that was killed continues, and a finished run is not made again; `--only` makes some of
the runs. FILE gets the figures of all runs that are finished. All runs together take about 15 hours on two cores.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from face_mask_measures import PARTS, Curves, Old, figures_of_part
from results import report

from data_prep import Dataset
from data_prep.atomic import write_json
from data_prep.convert import voc_to_csv
from data_prep.formats import coco, csv_table
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.joined import JoinedDataset
from gdino_lib.data.transforms import EvaluationTransform, TrainingTransform
from gdino_lib.detect.detector import Detector
from gdino_lib.training.log import read_log
from gdino_lib.training.settings import TrainingSettings
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation
from gdino_lib.weights import loading
from gdino_lib.weights.files import read_json
from gdino_lib.weights.merge import merge

TRAIN, VAL = 500, 100  # pictures; the other 253 are the test part, as in the article
RARE = "mask_weared_incorrect"
Parts = dict[str, tuple[Dataset, Path]]  # {name of a part: its records, their pictures}
PHRASES = {  # instead of the set's own names
    "with_mask": "face with a mask",
    "without_mask": "face without a mask",
    RARE: "mask worn incorrectly",
}
TEXT, BACKBONE = "text_encoder.bert", "image_backbone.backbone"
PLAIN = TrainingSettings(
    epochs=10,
    batch_size=8,
    lr=3e-4,
    lr_scale={TEXT: 0.0, BACKBONE: 0.3},
    schedule="cosine",
    warmup_steps=50,
    clip=1.0,
    precision="bfloat16",
    save_every=25,
)
ARTICLE = TrainingSettings(  # Adam is AdamW without weight decay
    epochs=50,
    batch_size=1,
    lr=1e-5,
    lr_scale={TEXT: 0.0},
    drops=(1.0,),
    warmup_steps=0,
    weight_decay=0.0,
    clip=0.0,
    denoising=0,
    save_every=250,
)


@dataclass(frozen=True)
class Run:
    """A run of fine-tuning.

    Attributes:
        settings: all numbers of the training.
        short_side: pixels; pictures are resized to it, in training and in use.
        pictures: number of training pictures.
        augmented: flip, crop and resize at random.
        phrases: ask with `PHRASES`.
        rare: how often pictures with the rare class come, besides once with all others.
        replay: number of VOC's pictures that are mixed in.
        curves: measure validation and test part after each epoch, and what is forgotten after every fifth.
    """

    settings: TrainingSettings = PLAIN
    short_side: int = 320
    pictures: int = TRAIN
    augmented: bool = True
    phrases: bool = False
    rare: int = 0
    replay: int = 0
    curves: bool = False


def _fewer(pictures: int) -> Run:
    """As many steps as the plain run makes, on fewer pictures."""
    size = min(PLAIN.batch_size, pictures)
    steps = PLAIN.epochs * (TRAIN // PLAIN.batch_size)
    epochs = steps // (pictures // size)
    settings = replace(PLAIN, epochs=epochs, batch_size=size, validate_every=max(epochs // 10, 1))
    return Run(settings, pictures=pictures)


RUNS = {
    "plain": Run(),
    "plain, seed 1": Run(replace(PLAIN, seed=1)),
    "plain, seed 2": Run(replace(PLAIN, seed=2)),
    "256 pixels": Run(short_side=256),
    "384 pixels": Run(short_side=384),
    "phrases": Run(phrases=True),
    "rare pictures three times": Run(rare=2),
    "moving average": Run(replace(PLAIN, ema=0.99)),
    "weight decay 0.05": Run(replace(PLAIN, weight_decay=0.05)),
    "dropout 0.1": Run(replace(PLAIN, dropout=0.1)),
    "LoRA": Run(replace(PLAIN, lora_rank=16, lr=1e-3)),
    "replay": Run(replay=200),
    **{f"{count} pictures": _fewer(count) for count in (10, 50, 100, 300)},
    "ours, 50 epochs": Run(replace(PLAIN, epochs=50), curves=True),
    "article's": Run(ARTICLE, augmented=False, curves=True),
    "article's, rate for nano": Run(replace(ARTICLE, lr=1e-4), augmented=False, curves=True),
}
FIGURES = "figures.json"  # in the folder of a finished run
ALPHAS = (0.25, 0.5, 0.75)  # shares of the plain run's weights in `merge`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR", help="the Face Mask Detection set")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="train/voc07 and bench/voc07")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--model", default="nano", help="a name, a weight file or a folder (default: nano)")
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="RUN", help="make only these runs")
    options = parser.parse_args()
    bench = Bench(options.masks, options.photos, options.out, options.model)
    for name in options.only or RUNS:
        bench.run(name)
        report(bench.figures(), options.json)


class Bench:
    """The data and the folders of all runs."""

    def __init__(self, masks: Path, photos: Path, out: Path, model: str) -> None:
        self.photos, self.out, self.model = photos, out, model
        self.data = out / "data"
        if not self.data.is_dir():
            voc_to_csv(masks / "images", masks / "annotations", self.data, TRAIN, link=True, val=VAL)
        voc = photos / "bench" / "voc07"
        self.old = Old(coco.read(voc / "annotations.json"), voc / "images", out / "scenes")

    def part(self, name: str, phrases: bool) -> tuple[Dataset, Path]:
        """Records and pictures of "train", "val" or "test"."""
        records = csv_table.read(self.data / name / "annotations.csv")
        return relabelled(records, PHRASES) if phrases else records, self.data / name / "images"

    def run(self, name: str) -> None:
        """Train and measure, unless that is done already; continue what was interrupted."""
        run, out = RUNS[name], self.out / folder_name(name)
        if (out / FIGURES).is_file():
            return
        self._measure_first_weights(run.short_side)
        parts = {part: self.part(part, run.phrases) for part in PARTS}
        curves = Curves(out / "epochs", parts, self.old) if run.curves else None
        trainer = Trainer(
            loading.load(self._first_weights(run.short_side), "cpu"),
            training_data(self.part("train", run.phrases), self.photos / "train" / "voc07", run),
            run.settings,
            out / "run",
            validation=Validation(*parts["val"]),
            resume=True,
            workers=1,
            device="cpu",
            callbacks=[curves] if curves else [],
        )
        result = trainer.fit()
        assert result.best  # there is validation
        steps, validations = read_log(out / "run")
        rate = statistics.median(entry["images_per_second"] for entry in steps)
        figures: dict[str, Any] = {
            "run": {**vars(run), "settings": run.settings.to_dict()},
            "steps": len(steps),
            "images_per_second": round(rate, 2),
            "validation": [{key: entry[key] for key in ("epoch", "ap", "ap50")} for entry in validations],
            "chosen_epoch": result.best["epoch"],
            "chosen": self._measured(result.weights, parts),
        }
        if curves:
            figures["epochs"] = curves.figures()
        if name == "plain":
            figures["merged"] = {str(alpha): self._merged(result.weights, alpha, run, parts) for alpha in ALPHAS}
        shutil.rmtree(out / "run" / "checkpoints")
        write_json(out / FIGURES, figures)

    def figures(self) -> dict[str, Any]:
        """The figures of all finished runs."""
        files = {name: self.out / folder_name(name) / FIGURES for name in RUNS}
        sides = sorted({run.short_side for run in RUNS.values()})
        first = {side: self.out / f"first-{side}.json" for side in sides}
        return {
            "on": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "command": "python benchmarks/face_masks.py --masks DIR --photos DIR --out DIR --json FILE",
            "before": {str(side): read_json(file) for side, file in first.items() if file.is_file()},
            "runs": {name: read_json(file) for name, file in files.items() if file.is_file()},
        }

    def _first_weights(self, short_side: int) -> Path:
        """The weights that runs start from, with the size to which they resize pictures."""
        file = self.out / f"first-{short_side}.safetensors"
        if not file.is_file():
            model = loading.load(self.model, "cpu")
            model.config = model.config.replace(short_side=short_side, long_side=2 * short_side)
            loading.save(model, file)
        return file

    def _measure_first_weights(self, short_side: int) -> None:
        """Measure them before any training, with the set's names and with `PHRASES`."""
        file = self.out / f"first-{short_side}.json"
        if not file.is_file():
            named, phrased = ({part: self.part(part, phrases) for part in PARTS} for phrases in (False, True))
            detector = Detector(loading.load(self._first_weights(short_side), "cpu"))
            asked = {part: figures_of_part(detector, *data) for part, data in phrased.items()}
            write_json(file, self._measured(self._first_weights(short_side), named) | {"phrases": asked})

    def _measured(self, weights: Path, parts: Parts) -> dict[str, Any]:
        """The figures of weights on validation part, test part and old data."""
        detector = Detector(loading.load(weights, "cpu"))
        figures: dict[str, Any] = {part: figures_of_part(detector, *data) for part, data in parts.items()}
        return figures | {"old": self.old.measure(detector)}

    def _merged(self, weights: Path, alpha: float, run: Run, parts: Parts) -> dict[str, Any]:
        """The figures of weights between those before and those after the training."""
        target = self.out / f"merged-{alpha}.safetensors"
        merge(self._first_weights(run.short_side), weights, target, alpha, overwrite=True)
        return self._measured(target, parts)


def training_data(part: tuple[Dataset, Path], voc: Path, run: Run) -> GroundingDataset | JoinedDataset:
    """The pictures of a run: the set's, those with the rare class again, VOC's."""
    side, seed = run.short_side, run.settings.seed
    transform = TrainingTransform(side, 2 * side) if run.augmented else EvaluationTransform(side, 2 * side)
    records, images = part
    chosen = replace(records, images=records.images[: run.pictures])
    rare = PHRASES[RARE] if run.phrases else RARE
    with_rare = tuple(record for record in chosen.images if any(box.label == rare for box in record.boxes))
    sets = [(chosen, images), *[(replace(chosen, images=with_rare), images)] * run.rare]
    if run.replay:
        old = coco.read(voc / "annotations.json")
        sets.append((replace(old, images=old.images[: run.replay]), voc / "images"))
    with warnings.catch_warnings(action="ignore"):  # the set has boxes beyond their pictures, which are clipped
        datasets = [GroundingDataset(each, folder, transform, seed=seed) for each, folder in sets]
    return datasets[0] if len(datasets) == 1 else JoinedDataset(datasets, seed=seed)


def relabelled(records: Dataset, names: dict[str, str]) -> Dataset:
    """The same records with other class names."""
    images = tuple(
        replace(record, boxes=tuple(replace(box, label=names[box.label]) for box in record.boxes))
        for record in records.images
    )
    return replace(records, images=images, categories=tuple(names[each] for each in records.categories))


def folder_name(name: str) -> str:
    """The name of a run's folder."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


if __name__ == "__main__":
    main()
