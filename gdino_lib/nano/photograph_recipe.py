"""Train the embedded model on photographs and pictograms together: `make nano PHOTOS=DIR`.

Without make: `python -m gdino_lib.nano.photograph_recipe --photographs DIR --icons DIR --out runs/photographs`.

Each stage starts from the weights of the previous stage and ends at a learning rate of zero. After an interruption, the same
command resumes the training. A share of the pictures of the set `voc07` is kept out of training, to validate every stage.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_prep import Dataset
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.nano.first_weights import backbone_weights
from gdino_lib.nano.frozen_text import FrozenTextEncoder
from gdino_lib.nano.naming import text_encoder
from gdino_lib.nano.photograph_dataset import PhotographDataset
from gdino_lib.nano.photograph_names import Names, read_names
from gdino_lib.nano.photographs import PhotographSet, held_out_names, keep_aside, read_sets
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.recipe import (
    CROWD_SHARE,
    MOST_NEGATIVES,
    NAMES_WEIGH_MORE,
    add_landmarks,
    export,
    things_to_learn,
    wordings,
)
from gdino_lib.nano.recipe import SETTINGS as SCENE_SETTINGS
from gdino_lib.nano.samples import MixedDataset, PromptSettings
from gdino_lib.nano.scene_dataset import SceneDataset
from gdino_lib.training.settings import TrainingSettings
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation
from gdino_lib.weights.loading import load, save

EPOCH_PICTURES = 3200
JUDGE = "voc07"  # the set that provides the validation pictures
JUDGE_SHARE = 0.05
SIZES = (  # (width, height) in pixels of training pictures; most are small, to save time
    *((224, 176), (176, 224), (208, 208), (256, 192), (192, 256), (256, 192), (192, 256), (240, 240)),
    *((320, 240), (240, 320), (320, 240), (240, 320), (288, 288), (384, 288), (288, 384)),
)
SET_WEIGHTS = {  # how often each set is drawn; all other sets share `OTHER_WEIGHT`
    **{"voc07": 0.55, "coco_mini": 0.12, "tiny_imagenet": 0.11},
    **{"fruit_veg": 0.04, "groceries": 0.03, "tools": 0.03},
}
OTHER_WEIGHT = 0.12
LR_SCALE = {
    **SCENE_SETTINGS.lr_scale,
    "image_backbone.backbone": 0.5,
}  # the backbone must adapt to photographs
SETTINGS = replace(NAMES_WEIGH_MORE, lr_scale=LR_SCALE, warmup_steps=100, ema=0.998, save_every=50, validate_every=3)


@dataclass(frozen=True)
class Stage:
    """One training run on photographs and scenes.

    Attributes:
        name: of the run's folder.
        settings: of the trainer.
        photographs: share of photographs among the pictures; the others are pictogram scenes.
        noise: on the text features, see `FrozenTextEncoder`.
        imagenet: see `mix_imagenet`; 0 leaves the image backbone unchanged.
    """

    name: str
    settings: TrainingSettings
    photographs: float = 0.8
    noise: float = 0.4
    imagenet: float = 0.0


STAGES = (
    Stage("first", replace(SETTINGS, epochs=14, validate_every=7), imagenet=1.0),
    Stage("second", replace(SETTINGS, epochs=24, validate_every=8)),
)
SHORT = replace(SETTINGS, epochs=2, validate_every=2)
COMPARISONS = (  # 400 steps each, from the same weights
    Stage("backbone as it is", SHORT),
    Stage("ImageNet's backbone", SHORT, imagenet=1.0),
)


def build_dataset(
    stage: Stage, sets: list[PhotographSet], names: Names, things: tuple[Pictogram, ...], shares: list[float]
) -> MixedDataset:
    """The training data of a stage: photographs, mixed with pictogram scenes.

    Args:
        stage: gives the share of photographs, the batch size and the seed.
        sets: the photographs, without the validation pictures.
        names: meanings of the photographs' names.
        things, shares: pictograms, and how often each is drawn; see `things_to_learn`.
    """
    seed, batch_size = stage.settings.seed, stage.settings.batch_size
    others = sum(each.name not in SET_WEIGHTS for each in sets)
    photographs = PhotographDataset(
        sets,
        [SET_WEIGHTS.get(each.name, OTHER_WEIGHT / max(others, 1)) for each in sets],
        names,
        EPOCH_PICTURES,
        batch_size=batch_size,
        sizes=SIZES,
        things=things,
        seed=seed,
    )
    scenes = SceneDataset(
        things,
        EPOCH_PICTURES,
        batch_size=batch_size,
        weights=shares,
        sizes=SIZES,
        prompts=PromptSettings(MOST_NEGATIVES, unanswered=0.2),
        own=0.85,
        crowds=CROWD_SHARE,
        seed=seed,
    )
    mix = [stage.photographs, 1 - stage.photographs]
    return MixedDataset([photographs, scenes], mix, EPOCH_PICTURES, batch_size=batch_size, sizes=SIZES, seed=seed)


def all_wordings(names: Names, things: tuple[Pictogram, ...]) -> list[str]:
    """All phrases that prompts may use for the things in photographs and scenes."""
    meanings = names.meanings.values()
    return [*wordings(things), *(text for each in meanings for text in (*each.wordings, *each.hypernyms))]


def without_landmarks(model: GroundingDINO) -> GroundingDINO:
    """Remove the landmarks from a model, and return it; `finish` computes new ones from the trained model."""
    text_encoder(model).landmarks = None
    model.config = model.config.replace(landmarks=0)
    return model


def mix_imagenet(model: GroundingDINO, share: float) -> None:
    """Interpolate the image backbone's weights linearly towards those trained on ImageNet.

    This undoes part of what training on pictograms changed, so that the features suit photographs better.

    Args:
        model: it is changed.
        share: weight of ImageNet's weights, 0..1; 0 changes nothing, 1 replaces the backbone's weights.
    """
    backbone = model.get_submodule("image_backbone.backbone.features")
    own, first = backbone.state_dict(), backbone_weights()
    mixed = {name: torch.lerp(t, first[name], share) if t.is_floating_point() else t for name, t in own.items()}
    backbone.load_state_dict(mixed)


def main() -> None:
    """Train, or resume an interrupted training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photographs", type=Path, required=True, help="folder of the sets in COCO format, a sub-folder each"
    )
    parser.add_argument("--icons", type=Path, required=True, help="folder of the icon sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; each stage gets a sub-folder")
    parser.add_argument("--init", default="nano", help="weights to start from (default: nano)")
    names_of_comparisons = [each.name for each in COMPARISONS]
    parser.add_argument("--comparison", choices=names_of_comparisons, help="train only this short comparison")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pictures (default: 1)")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="also write the final weights here, as the package stores them"
    )
    options = parser.parse_args()
    names = read_names()
    sets = read_sets(options.photographs, held_out_names())
    judge = next((each for each in sets if each.name == JUDGE), sets[0])
    rest, aside = keep_aside(judge, JUDGE_SHARE)
    sets[sets.index(judge)] = rest
    validation = Validation(Dataset(aside.records, tuple(sorted(judge.everywhere))), judge.images)
    things, shares = things_to_learn(options.icons, share=0.3)
    weights: Path | str = options.init
    compared = [each for each in COMPARISONS if each.name == options.comparison]
    for stage in compared or STAGES:
        model = without_landmarks(load(weights, "cpu"))
        if stage.imagenet:
            mix_imagenet(model, stage.imagenet)
        model.text_encoder = FrozenTextEncoder(text_encoder(model), all_wordings(names, things), stage.noise)
        dataset = build_dataset(stage, sets, names, things, shares)
        out = options.out / stage.name
        trainer = Trainer(
            model, dataset, stage.settings, out, validation=validation, resume=True, workers=options.workers
        )
        weights = trainer.fit().weights
        print(f"{stage.name}: {weights}")
    if not compared:
        finish(Path(weights), all_wordings(names, things), options.out / "nano.safetensors", options.export)


def finish(weights: Path, asked: list[str], final: Path, folder: Path | None) -> None:
    """Compute the trained model's landmarks and write the weights: to `final`, and to `folder` as the package stores them."""
    model = load(weights, "cpu")
    add_landmarks(model, asked)
    save(model, final)
    print(f"weights: {final}")
    if folder:
        export(final, folder)


if __name__ == "__main__":
    main()
