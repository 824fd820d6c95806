"""Learn drawn shapes with one part of the training switched off: `python benchmarks/ablate_shapes.py --json FILE`.

Chapter 09 draws the curves. Each run trains one variant with one seed. FILE is written after each run, and runs that it
already holds are not repeated. On a CPU, the seed determines a run except for the last bits. A run takes one to two minutes
on an idle core.
"""

import argparse
import itertools
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from data_prep.atomic import atomic_file
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.shapes import draw_shapes
from gdino_lib.data.targets import positive_map
from gdino_lib.data.transforms import EvaluationTransform
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.training.log import read_log
from gdino_lib.training.matcher import HungarianMatcher
from gdino_lib.training.settings import LossSettings, TrainingSettings
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation

SIDE, PICTURES, JUDGED_BY = 96, 512, 64
TARGET_AP50 = 0.5
MODEL = GroundingDINOConfig(
    short_side=SIDE, long_side=SIDE, swin_width=24, swin_depths=(1, 1, 2, 1), swin_heads=(1, 2, 3, 4), swin_window=6,
    backbone_drop_path=0.0, levels=3, bert_width=64, bert_layers=2, bert_heads=4, bert_ffn_width=128, width=64, heads=4,
    ffn_width=128, encoder_layers=2, decoder_layers=2, queries=20, text_heads=2, text_ffn_width=64, fusion_heads=2,
    fusion_width=64, fusion_drop_path=0.0, scaled_logits=True,
)  # fmt: skip
SETTINGS = TrainingSettings(
    epochs=8, batch_size=16, lr=1e-3, lr_scale={}, warmup_steps=20, drops=(), denoising=20, clip=1.0
)


class BestQuery(HungarianMatcher):
    """Matching that is not one-to-one: each box takes its cheapest query, even if another box has taken the same query."""

    @torch.no_grad()
    def __call__(self, predictions, tokens, targets):  # noqa: ANN001, ANN204
        pairs = []
        for logits, boxes, row, target in zip(predictions.logits, predictions.boxes, tokens, targets, strict=True):
            cost = self.cost(logits, boxes, target.boxes, positive_map(target, row.cpu()))
            pairs.append((cost.argmin(0).cpu(), torch.arange(len(target.boxes))))
        return pairs


class InOrder(HungarianMatcher):
    """No matching: the first query is assigned to the first box, the second query to the second box, and so on."""

    def __call__(self, predictions, tokens, targets):  # noqa: ANN001, ANN204, ARG002 - the matcher's signature
        counts = [min(len(target.boxes), predictions.boxes.shape[1]) for target in targets]
        return [(torch.arange(count), torch.arange(count)) for count in counts]


# name: (changed settings, matcher); None is the usual matcher
VARIANTS = {
    "as it should be": ({}, None),
    "no denoising": ({"denoising": 0}, None),
    "no matching": ({}, InOrder()),
    "no matching, no denoising": ({"denoising": 0}, InOrder()),
    "each box its best query": ({}, BestQuery()),
    "no encoder loss": ({"loss": LossSettings(proposals=0.0)}, None),
    "loss on the last layer only": ({"loss": LossSettings(proposals=0.0, layers=0.0)}, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where to write the curves")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the model is too small to gain from more threads
    settings = about()
    runs = []
    if options.json.is_file():
        there = json.loads(options.json.read_text(encoding="utf-8"))
        if {name: there[name] for name in settings} != settings:
            raise SystemExit(f"{options.json}: its runs have other settings; choose another file")
        runs = there["runs"]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name in options.variants:
                if not any((run["variant"], run["seed"]) == (name, seed) for run in runs):
                    runs.append(train(name, seed, Path(folder)))
                    write(options.json, settings, runs)
                    print(f"{name}, seed {seed}: AP50 {runs[-1]['ap50']}", flush=True)
    for name, steps in steps_needed(runs).items():
        print(f"{name:28} {steps:.0f} steps to AP50 {TARGET_AP50}")


def about() -> dict:
    """The settings that all runs of a file share, as JSON values."""
    common = {"config": MODEL.to_dict(), "settings": SETTINGS.to_dict(), "pictures": PICTURES}
    return json.loads(json.dumps(common))


def train(name: str, seed: int, folder: Path) -> dict:
    """Train one variant with one seed: {"variant", "seed", "steps": [...], "ap": [...], "ap50": [...]}."""
    changes, matcher = VARIANTS[name]
    settings = replace(SETTINGS, seed=seed, **changes)
    records = draw_shapes(folder / "train", PICTURES, seed=0, size=SIDE, overwrite=True)
    judge = Validation(draw_shapes(folder / "val", JUDGED_BY, seed=1, size=SIDE, overwrite=True), folder / "val")
    data = GroundingDataset(records, folder / "train", EvaluationTransform(SIDE, SIDE), seed=seed)
    torch.manual_seed(seed)
    options = {"validation": judge, "overwrite": True, "workers": 0, "device": "cpu", "progress": False}
    trainer = Trainer(GroundingDINO(MODEL), data, settings, folder / "run", **options)
    if matcher:
        trainer.criterion.matcher = matcher
    trainer.fit()
    _, judged = read_log(folder / "run")
    curves = {key: [round(entry[key], 3) for entry in judged] for key in ("ap", "ap50")}
    return {"variant": name, "seed": seed, "steps": [entry["step"] for entry in judged]} | curves


def steps_needed(runs: list[dict]) -> dict[str, float]:
    """{variant: training steps until AP50 reaches `TARGET_AP50`}, the median over the seeds.

    AP50 is interpolated linearly between validations. A run that never reaches the target counts as infinitely many steps.
    """
    needed: dict[str, list[float]] = {}
    for run in runs:
        points = [(0, 0.0), *zip(run["steps"], run["ap50"], strict=True)]
        reached = (
            a + (b - a) * (TARGET_AP50 - low) / (high - low)
            for (a, low), (b, high) in itertools.pairwise(points)
            if high >= TARGET_AP50
        )
        needed.setdefault(run["variant"], []).append(next(reached, float("inf")))
    return {name: median(steps) for name, steps in needed.items()}


def write(path: Path, settings: dict, runs: list[dict]) -> None:
    made = {
        "command": "python benchmarks/ablate_shapes.py",
        "on": f"{platform.machine()} CPU, torch {torch.__version__}",
    }
    head = json.dumps(made | settings, indent=1).removesuffix("\n}")
    with atomic_file(path) as file:
        lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
        file.write(f'{head},\n "runs": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
