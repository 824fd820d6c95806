"""Ablate nano's recipe: `python benchmarks/ablate_nano.py --icons FOLDER --names runs/nano-names --out FOLDER`.

Each variant starts from the result of the first stage and is trained on the same number of scenes of 192 x 192 pixels. It is
evaluated on 400 scenes of names that it learned and on 400 scenes of near-twins, whose emojis it never saw. Each prompt holds
8 absent names. A GPU is used if there is one. Interrupted runs are resumed, and `figures.json` in a variant's folder stores
its results. Matching costs and noise on the text are those of the first round, or of the fourth with `--fourth-round`.
"""

import argparse
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data_prep.atomic import write_json
from gdino_lib.data.datasets import read_records
from gdino_lib.detect.detector import Detector
from gdino_lib.evaluation.coco import average_precision
from gdino_lib.evaluation.detect_all import detect_all
from gdino_lib.nano import icons, pictograms, recipe
from gdino_lib.nano.first_weights import begin_nano
from gdino_lib.nano.frozen_text import FrozenTextEncoder
from gdino_lib.nano.samples import PromptSettings
from gdino_lib.nano.scene_dataset import SceneDataset
from gdino_lib.nano.scenes import write_scenes
from gdino_lib.training.settings import Precision
from gdino_lib.training.trainer import Trainer
from gdino_lib.weights import loading

SIDE = 192
SCALE = recipe.SETTINGS.lr_scale


@dataclass(frozen=True)
class Variant:
    """How a variant differs from the recipe.

    Attributes:
        settings: changed fields of `TrainingSettings`.
        config: changed fields of the model's configuration.
        data: changes of the training data. "things" is "emojis" (only emojis, in OpenMoji's drawings) or "hands" (only emojis,
            in the drawings of all sets). "share" is the share of further things. With "wordings" False, prompts use names
            only. "crowds" is an argument of `SceneDataset`; "negatives" and "unanswered" are `PromptSettings`.
        loss: changed fields of `LossSettings`.
        noise: on the text features, see `FrozenTextEncoder`.
        names: start from the first stage; otherwise from nano's initial weights.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)
    noise: float = recipe.NOISE
    names: bool = True


VARIANTS = {
    "recipe": Variant(),
    "recipe, another seed": Variant({"seed": 1}),
    "no first stage": Variant(names=False),
    "no first stage, 256 wide": Variant(
        config={"width": 256, "heads": 8, "ffn_width": 1024, "fusion_width": 512}, names=False
    ),
    "no first stage, 4 levels": Variant(config={"levels": 4}, names=False),
    "2 + 2 layers": Variant(config={"encoder_layers": 2, "decoder_layers": 2}),
    "60 queries": Variant(config={"queries": 60}),
    "scenes of emojis only, one hand": Variant(data={"things": "emojis"}),
    "scenes of emojis only, several hands": Variant(data={"things": "hands"}),
    "scenes with 40 % further things": Variant(data={"share": 0.4}),
    "no noise on the text": Variant(noise=0.0),
    "names without other wordings": Variant(data={"wordings": False}),
    "up to 8 absent names": Variant(data={"negatives": 8}),
    "no crowds": Variant(data={"crowds": 0.0}),
    "a fifth of the prompts unanswered": Variant(data={"unanswered": 0.2}),
    "no denoising": Variant({"denoising": 0}),
    "weights of section 4.1": Variant(loss={"match_class": 2.0, "class_weight": 1.0}),
    "weights of section 4.1, names half as heavy": Variant(loss={"match_class": 2.0, "class_weight": 0.5}),
    "matching of section 4.1": Variant(loss={"match_class": 2.0}),
    "names four times as heavy in matching": Variant(loss={"match_class": 4.0}),
    "names eight times as heavy in matching": Variant(loss={"match_class": 8.0}),
    "no losses before the last layer": Variant(loss={"layers": 0}),
    "rate falls to a tenth after three quarters": Variant({"schedule": "step"}),
    "rate of the first round halved": Variant({"lr": recipe.SETTINGS.lr / 2}),
    "no moving average": Variant({"ema": 0.0}),
    "dropout 0.1": Variant({"dropout": 0.1}),
    "backbone frozen": Variant({"lr_scale": SCALE | {"image_backbone.backbone": 0.0}}),
    "backbone at the full rate": Variant({"lr_scale": SCALE | {"image_backbone.backbone": 1.0}}),
    "text trained, without noise": Variant({"lr_scale": SCALE | {"text_encoder.bert": 0.1}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of the icon sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="NAME",
        help="variants to train (default: all)",
    )
    parser.add_argument("--names", type=Path, required=True, help="folder of the first stage's run; trained if missing")
    parser.add_argument(
        "--fourth-round", action="store_true", help="use the matching costs and the text noise of the fourth round"
    )
    parser.add_argument(
        "--precision",
        choices=Precision.__args__,
        default=recipe.SETTINGS.precision,
        help="(default: %(default)s)",
    )
    parser.add_argument("--scenes", type=int, default=6_400, help="training scenes of each variant (default: 6,400)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of PyTorch (default: one per core)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes (default: 1)")
    options = parser.parse_args()
    if options.scenes % recipe.EPOCH_SCENES or options.scenes < recipe.EPOCH_SCENES:
        parser.error(f"--scenes: expected a multiple of {recipe.EPOCH_SCENES}, got {options.scenes}")
    torch.set_num_threads(options.threads)
    for kind, things in (("seen", pictograms.seen()), ("near-twins", pictograms.near_twins())):
        if not (options.out / kind).exists():
            write_scenes(options.out / kind, recipe.VALIDATION_SCENES, things=things, seed="validation")
    for name in options.variants:
        variant, folder = VARIANTS[name], options.out / f"{name} {options.scenes}"
        if options.fourth_round:
            variant, folder = in_fourth_round(variant), folder.with_name(f"{folder.name} fourth round")
        if not (folder / "figures.json").is_file():
            variant = replace(variant, settings={"precision": options.precision} | variant.settings)
            result = train(variant, options.icons, options.names, folder, options.scenes, options.workers)
            figures = {"variant": name, "scenes": options.scenes}
            figures |= {kind: judge(result, options.out / kind, options.precision) for kind in ("seen", "near-twins")}
            gpu = torch.cuda.is_available() and torch.cuda.get_device_name()
            figures["on"] = (
                f"{gpu or platform.machine() + ' CPU'}, torch {torch.__version__}, {options.threads} threads, {options.precision}"
            )
            write_json(folder / "figures.json", figures)
        print((folder / "figures.json").read_text(encoding="utf-8"), flush=True)


def in_fourth_round(variant: Variant) -> Variant:
    """The variant with the fourth round's matching costs and noise, unless it changes them itself."""
    first, fourth = recipe.ROUNDS[0], recipe.ROUNDS[3]
    noise = fourth.noise if variant.noise == first.noise else variant.noise
    return replace(variant, loss=asdict(fourth.settings.loss) | variant.loss, noise=noise)


def train(variant: Variant, icon_sets: Path, names: Path, folder: Path, scenes: int, workers: int) -> Path:
    """Train a variant on `scenes` scenes; returns the file with its weights."""
    loss = replace(recipe.SETTINGS.loss, **variant.loss)
    changed = replace(recipe.SETTINGS, epochs=scenes // recipe.EPOCH_SCENES, loss=loss, **variant.settings)
    model = begin_nano(recipe.CONFIG.replace(**variant.config), changed.seed)
    if variant.names:
        recipe.learn_first_names(model, icon_sets, names)
    data, kinds = variant.data, variant.data.get("things", "all")
    if kinds == "all":
        things, shares = recipe.things_to_learn(icon_sets, data.get("share", recipe.ROUNDS[0].further))
    else:
        things, shares = pictograms.seen(), None
    if kinds == "hands":
        things = icons.drawn_by_others(things, icon_sets)
    if not data.get("wordings", True):
        things = [thing._replace(wordings=thing.wordings[:1]) for thing in things]
    if not changed.lr_scale["text_encoder.bert"]:  # only a frozen BERT may store its features
        model.text_encoder = FrozenTextEncoder(model.text_encoder, recipe.wordings(things), variant.noise)
    dataset = SceneDataset(
        things,
        recipe.EPOCH_SCENES,
        batch_size=changed.batch_size,
        weights=shares,
        sizes=(SIDE,),
        prompts=PromptSettings(data.get("negatives", recipe.MOST_NEGATIVES), data.get("unanswered", 0.0)),
        own=recipe.ROUNDS[0].own,
        crowds=data.get("crowds", recipe.CROWD_SHARE),
        seed=changed.seed,
    )
    return Trainer(model, dataset, changed, folder, resume=True, workers=workers).fit().weights


def judge(path: Path, folder: Path, precision: Precision) -> dict[str, float]:
    """AP, AP50 and average recall (COCO's AR) on the scenes of a folder."""
    records = read_records(folder / "annotations.json")
    detector = Detector(loading.load(path), precision)
    measured = average_precision(
        records, detect_all(detector, records, folder / "images", negatives=recipe.VALIDATION_NEGATIVES)
    )
    return {"ap": measured.ap, "ap50": measured.ap50, "recall": measured.recall}


if __name__ == "__main__":
    main()
