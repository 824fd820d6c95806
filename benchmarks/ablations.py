"""Train small models with one idea of Grounding DINO taken out.

`python benchmarks/ablations.py --icons DIR --photos DIR --out DIR --json FILE [--only PART ...]`

Part "pictograms": each variant learns from the same first weights (nano's first stage, trained in `--out` if it is missing) on
6,400 scenes, with three seeds. 400 scenes of learned names and 400 of names that no training showed judge it. Part
"photographs": some variants learn further on Pascal VOC, DIR/train/voc07 of `--photos`, and DIR/bench/voc07 judges them. Part
"closed set": a detector without text, with a learned embedding for each of VOC's 20 names, learns VOC beside Grounding DINO.
Part "overhead": time and memory of the two, with random weights.

A run that was killed continues, and a finished run is not made again. FILE gets all figures so far. About 9 hours on two cores.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from closed_set import VOC_NAMES, without_text
from results import report, times_in_turns
from torch import Tensor

from data_prep.atomic import write_json
from data_prep.formats import coco
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.data.datasets import GroundingDataset
from gdino_lib.data.transforms import TrainingTransform
from gdino_lib.detect.detector import Detector
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all
from gdino_lib.model.decoder import DecoderLayer
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.nano import pictograms, recipe
from gdino_lib.nano.first_weights import begin_nano
from gdino_lib.nano.frozen_text import FrozenTextEncoder
from gdino_lib.nano.naming import text_encoder
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.samples import PromptSettings
from gdino_lib.nano.scene_dataset import SceneDataset
from gdino_lib.nano.scenes import write_scenes
from gdino_lib.prompts import tokenize
from gdino_lib.training.settings import TrainingSettings
from gdino_lib.training.trainer import Trainer
from gdino_lib.weights import loading
from gdino_lib.weights.files import read_json

SEEDS = (0, 1, 2)
SIDE = 192  # pixels of the scenes to learn from
SCENES = 6_400
JUDGED = 400  # scenes of each kind
ABSENT = 8  # absent names in a prompt
ROUND = recipe.ROUNDS[3]  # its matching costs and its noise on the text
PICTOGRAMS = replace(
    ROUND.settings, epochs=SCENES // recipe.EPOCH_SCENES, batch_size=16, warmup_steps=100, validate_every=1
)
PHOTOGRAPHS = replace(
    PICTOGRAMS,
    epochs=2,
    lr_scale={**PICTOGRAMS.lr_scale, "image_backbone.backbone": 0.5},
    ema=0.998,
)
CLOSED_SET = replace(PHOTOGRAPHS, epochs=4)


class ImageFirst(DecoderLayer):
    """A decoder layer in the paper's order: self-attention, image, text. The released code attends to the text first."""

    def forward(self, *inputs: Any) -> Tensor:
        """See `DecoderLayer.forward`."""
        x, positions, reference, image, text, blocked = inputs
        query = x + positions
        update, _ = self.self_attention(query, query, x, attn_mask=blocked, need_weights=False)
        x = self.self_norm(x + self.dropout(update))
        update = self.image_attention(x + positions, reference, image.features, image.shapes, image.mask)
        x = self.image_norm(x + self.dropout(update))
        assert self.text_attention is not None
        update, _ = self.text_attention(
            x + positions, text.features, text.features, key_padding_mask=~text.mask, need_weights=False
        )
        x = self.text_norm(x + self.dropout(update))
        update = self.linear2(self.dropout(self.linear1(x).relu()))
        return self.ffn_norm(x + self.dropout(update))


def image_first(model: GroundingDINO) -> None:
    """Turn the order of the decoder's layers round."""
    for layer in model.decoder.layers:
        layer.__class__ = ImageFirst


@dataclass(frozen=True)
class Variant:
    """What is taken out.

    Attributes:
        config: changed fields of the model's configuration.
        change: changes a built model; None: nothing to change.
        photographs: also learns VOC.
    """

    config: dict[str, Any] = field(default_factory=dict)
    change: Callable[[GroundingDINO], None] | None = None
    photographs: bool = False


VARIANTS = {
    "as it is": Variant(photographs=True),
    "no fusion": Variant({"fusion": False}, photographs=True),
    "static queries": Variant({"language_guided": False}, photographs=True),
    "no text cross-attention": Variant({"text_cross_attention": False}),
    "whole-sentence text": Variant({"text_mode": "whole-sentence"}),
    "word-by-word text": Variant({"text_mode": "word-by-word"}),
    "image before text": Variant(change=image_first),
}
PARTS = ("pictograms", "photographs", "closed set", "overhead")


class LastEpoch:
    """A callback of the trainer that measures the model at the end of the run."""

    def __init__(self, epochs: int, measure: Callable[[Detector], dict[str, Any]]) -> None:
        self.epochs, self.measure, self.figures = epochs, measure, {}

    def on_epoch_end(self, epoch: int, detector: Detector) -> None:
        """See `gdino_lib.training.callbacks.Callback`."""
        if epoch == self.epochs:
            self.figures = self.measure(detector)


class Ablations:
    """The data and the folders of all runs."""

    def __init__(self, icons: Path, photos: Path, out: Path) -> None:
        self.icons, self.photos, self.out = icons, photos, out
        self.kinds = {"learned": pictograms.seen(), "never seen": pictograms.unseen()}
        for kind, things in self.kinds.items():
            if not (out / kind).exists():
                write_scenes(out / kind, JUDGED, things=things, seed="ablations")
        self.voc = coco.read(photos / "bench" / "voc07" / "annotations.json")

    @cached_property
    def things(self) -> tuple[Sequence[Pictogram], list[float]]:
        """What the scenes show, and how often."""
        return recipe.things_to_learn(self.icons, ROUND.further)

    @cached_property
    def first_weights(self) -> dict[str, Tensor]:
        """What all variants start from: the weights after nano's first stage, trained if they are missing."""
        file = self.out / "first.safetensors"
        if not file.is_file():
            model = begin_nano(recipe.CONFIG)
            recipe.learn_first_names(model, self.icons, self.out / "names")
            loading.save(model, file)
        return loading.load(file, "cpu").state_dict()

    def runs(self, part: str) -> Iterator[tuple[str, int, Callable[[Path], dict[str, Any]]]]:
        """(name of a run, its seed, what makes it in a folder) of a part."""
        for seed in SEEDS:
            for name, variant in VARIANTS.items():
                if part == "pictograms":
                    yield name, seed, lambda out, v=variant, s=seed: self.learn_pictograms(v, s, out)
                elif part == "photographs" and variant.photographs:
                    first = self.folder("pictograms", name, seed) / "run" / "last.safetensors"
                    yield name, seed, lambda out, f=first, s=seed: self.learn_photographs(f, s, out)
            if part == "closed set":
                yield "with text", seed, lambda out, s=seed: self.learn_names(False, s, out)
                yield "without text", seed, lambda out, s=seed: self.learn_names(True, s, out)

    def folder(self, part: str, name: str, seed: int) -> Path:
        """The folder of a run."""
        return self.out / part / f"{name}, seed {seed}"

    def make(self, part: str) -> Iterator[None]:
        """Make the missing runs of a part, one after the other."""
        for name, seed, run in self.runs(part):
            out = self.folder(part, name, seed)
            if not (out / "figures.json").is_file():
                figures = run(out / "run")
                write_json(out / "figures.json", figures)
            yield
        if part == "overhead" and not (self.out / "overhead.json").is_file():
            write_json(self.out / "overhead.json", {"nano": overhead("nano", 40), "tiny": overhead("tiny", 5)})
            yield

    def figures(self) -> dict[str, Any]:
        """All figures so far: for each variant, those of each seed."""
        result: dict[str, Any] = {
            "on": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "command": "python benchmarks/ablations.py --icons DIR --photos DIR --out DIR --json FILE",
        }
        for part in PARTS[:3]:
            for name, seed, _ in self.runs(part):
                file = self.folder(part, name, seed) / "figures.json"
                if file.is_file():
                    result.setdefault(part, {}).setdefault(name, {})[str(seed)] = read_json(file)
        overheads = self.out / "overhead.json"
        return result | ({"overhead": read_json(overheads)} if overheads.is_file() else {})

    def learn_pictograms(self, variant: Variant, seed: int, out: Path) -> dict[str, Any]:
        """Train a variant on scenes; AP and AP50 on learned and never-seen names."""
        model = begin_nano(recipe.CONFIG.replace(**variant.config))
        model.load_state_dict(self.first_weights, strict=False)  # a variant lacks some of them, or has further ones
        if variant.change:
            variant.change(model)
        things, shares = self.things
        model.text_encoder = FrozenTextEncoder(text_encoder(model), recipe.wordings(things), ROUND.noise)
        dataset = SceneDataset(
            things,
            recipe.EPOCH_SCENES,
            batch_size=PICTOGRAMS.batch_size,
            seed=seed,
            prompts=PromptSettings(recipe.MOST_NEGATIVES),
            weights=shares,
            own=ROUND.own,
            crowds=recipe.CROWD_SHARE,
            sizes=(SIDE,),
        )
        return train(model, dataset, replace(PICTOGRAMS, seed=seed), out, self.on_scenes)

    def learn_photographs(self, first: Path, seed: int, out: Path) -> dict[str, Any]:
        """Train weights further on VOC; AP and AP50 on other pictures of VOC."""
        model = loading.load(first, "cpu")
        model.text_encoder = FrozenTextEncoder(text_encoder(model), VOC_NAMES, ROUND.noise)
        return train(model, self.photographs(model, seed), replace(PHOTOGRAPHS, seed=seed), out, self.on_photographs)

    def learn_names(self, closed: bool, seed: int, out: Path) -> dict[str, Any]:
        """Train a new model on VOC, with text or without."""
        settings = replace(CLOSED_SET, seed=seed)
        if closed:
            model = without_text(begin_nano(recipe.CONFIG.replace(fusion=False, text_cross_attention=False), seed))
            scale = {part: factor for part, factor in settings.lr_scale.items() if not part.startswith("text_encoder")}
            settings = replace(settings, lr_scale=scale)
        else:
            model = begin_nano(recipe.CONFIG, seed)
            model.text_encoder = FrozenTextEncoder(text_encoder(model), VOC_NAMES)
        return train(model, self.photographs(model, seed), settings, out, self.on_photographs)

    def photographs(self, model: GroundingDINO, seed: int) -> GroundingDataset:
        """VOC's pictures to learn from."""
        folder = self.photos / "train" / "voc07"
        transform = TrainingTransform(model.config.short_side, model.config.long_side)
        return GroundingDataset(coco.read(folder / "annotations.json"), folder / "images", transform, seed=seed)

    def on_scenes(self, detector: Detector) -> dict[str, Any]:
        """AP and AP50 on both kinds of names."""
        figures = {}
        for kind in self.kinds:
            records = coco.read(self.out / kind / "annotations.json")
            found = detect_all(detector, records, self.out / kind / "images", negatives=ABSENT)
            measured = average_precision(records, found)
            figures[kind] = {"ap": measured.ap, "ap50": measured.ap50}
        return figures

    def on_photographs(self, detector: Detector) -> dict[str, Any]:
        """AP and AP50 on VOC's pictures that no run learns from."""
        measured = average_precision(self.voc, detect_all(detector, self.voc, self.photos / "bench/voc07/images"))
        return {"voc07": {"ap": measured.ap, "ap50": measured.ap50}}


def train(
    model: GroundingDINO,
    dataset: Any,
    settings: TrainingSettings,
    out: Path,
    measure: Callable[[Detector], dict[str, Any]],
) -> dict[str, Any]:
    """Train, or continue; the figures of the last weights."""
    last = LastEpoch(settings.epochs, measure)
    result = Trainer(model, dataset, settings, out, resume=True, workers=1, device="cpu", callbacks=[last]).fit()
    return last.figures | {"steps": result.step}


def overhead(size: str, repeats: int) -> dict[str, Any]:
    """Parameters, and the seconds of a forward pass with VOC's 20 names, in turns: with text, without text, text known."""
    config = getattr(GroundingDINOConfig, size)()
    torch.manual_seed(0)
    with_text = GroundingDINO(config).eval()
    closed = without_text(GroundingDINO(config.replace(fusion=False, text_cross_attention=False))).eval()
    pixels = torch.randn(1, 3, config.short_side, config.short_side * 4 // 3)
    mask = torch.ones(1, *pixels.shape[2:], dtype=torch.bool)
    prompts = [list(VOC_NAMES)]
    with torch.inference_mode():
        known = with_text.text_encoder(tokenize(prompts))
        calls = {
            "with text": lambda: with_text(pixels, prompts),
            "text known": lambda: with_text.ground(with_text.image_backbone(pixels, mask), known),
            "without text": lambda: closed(pixels, prompts),
        }
        seconds = times_in_turns(calls, repeats)
    models = {"with text": with_text, "without text": closed}
    return {
        "pixels": list(pixels.shape[2:]),
        "median_s": {name: round(statistics.median(times), 4) for name, times in seconds.items()},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, metavar="DIR", help="folder of the icon sets")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="train/voc07 and bench/voc07")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="only these parts")
    options = parser.parse_args()
    ablations = Ablations(options.icons, options.photos, options.out)
    for part in options.only:
        for _ in ablations.make(part):
            report(ablations.figures(), options.json)


if __name__ == "__main__":
    main()
