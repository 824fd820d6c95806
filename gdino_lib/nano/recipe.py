"""Train the embedded model from scratch on pictogram scenes: `make nano`.

Without make: `python -m gdino_lib.nano.recipe --icons FOLDER --out runs/nano`.

First the image backbone learns names from pictures of single things. Then the whole model learns to detect, in six rounds on
scenes. After an interruption, the same command resumes the training. Training scenes are drawn as they are needed; 400 fixed
scenes with the names of the training validate the model at intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.atomic import atomic_file
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.data.datasets import read_records
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.nano import icons, pictograms
from gdino_lib.nano.first_weights import begin_nano, name_similarity
from gdino_lib.nano.frozen_text import FrozenTextEncoder
from gdino_lib.nano.naming import learn_names, text_encoder
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.pictures import draw_rounds
from gdino_lib.nano.samples import PromptSettings
from gdino_lib.nano.scene_dataset import SceneDataset
from gdino_lib.nano.scenes import write_scenes
from gdino_lib.training.settings import LossSettings, TrainingSettings
from gdino_lib.training.trainer import Trainer
from gdino_lib.training.validation import Validation
from gdino_lib.weights.files import write_safetensors
from gdino_lib.weights.loading import SCALE, load, our_metadata, read, save
from gdino_lib.weights.merge import merge

CONFIG = GroundingDINOConfig.nano()
EPOCH_SCENES = 1600
VALIDATION_SCENES = 400  # fixed, of 256 x 256 pixels
VALIDATION_NEGATIVES = 8  # absent names in a validation prompt
MOST_NEGATIVES = 24  # most absent names in a training prompt
CROWD_SHARE = 0.15  # share of scenes that repeat the same things
NAMING_FURTHER = 0.4  # share of things that no emoji shows, in the first stage
NAMING_NOISE = 0.8  # on the text features in the first stage, see `FrozenTextEncoder`
NOISE = 0.5  # on the text features in the rounds
TOO_CLOSE = 0.7  # a further thing is left out if its name reaches this MiniLM cosine with an unseen wording
SIZES = (
    160,
    160,
    160,
    192,
    192,
    192,
    224,
    224,
    256,
    288,
)  # sides of training scenes in pixels; most are small, to save time
TEXT = "text_encoder.bert."
IN_8_BITS = (
    f"{TEXT}embeddings.word_embeddings.weight",
    "text_encoder.landmarks",
)  # tensors that the package stores in 8 bits
FROZEN = {  # the image backbone's first layers, whose features (edges, colours) suit every picture
    f"image_backbone.backbone.features.{part}": 0.0 for part in ("conv_stem", "bn1", "blocks.0", "blocks.1")
}
NAMING = TrainingSettings(  # first stage: names from pictures of single things
    epochs=1,
    batch_size=96,
    lr=1e-3,
    lr_scale={"image_backbone.backbone": 0.5, **FROZEN},
    schedule="cosine",
    warmup_steps=30,
    clip=0,
    dropout=0.3,
    precision="bfloat16",
    denoising=0,
    save_every=100,
)
NAMING_PICTURES = 192_000  # pictures of one thing, of 96 x 96 pixels
SETTINGS = TrainingSettings(  # first round on scenes
    epochs=32,
    batch_size=16,
    lr=5e-4,
    lr_scale={"text_encoder.bert": 0.0, "image_backbone.backbone": 0.2, **FROZEN},
    schedule="cosine",
    warmup_steps=200,
    clip=1.0,
    ema=0.999,
    precision="bfloat16",
    denoising=50,
    validate_every=8,
)


@dataclass(frozen=True)
class Round:
    """One training run on scenes.

    Attributes:
        settings: of the trainer.
        further: share of things that no emoji shows, 0..1.
        own: probability that an emoji is drawn by OpenMoji if other sets have drawn it, too.
        noise: on the text features, see `FrozenTextEncoder`.
        channel_dropout: share of the backbone's channels that are dropped, see `drop_channels`.
        merge_alpha: weight of the round's initial weights in its result, 0..1, see `gdino_lib.weights.merge`.
    """

    settings: TrainingSettings
    further: float
    own: float
    noise: float = NOISE
    channel_dropout: float = 0.0
    merge_alpha: float = 0.0


NAMES_WEIGH_MORE = replace(  # the class cost counts four times as much in matching
    SETTINGS, warmup_steps=150, loss=LossSettings(match_class=4.0)
)
VARIED = (
    Round(  # for unseen names: more further things, noise and channel dropout; the backbone at the full learning rate
        replace(
            NAMES_WEIGH_MORE,
            epochs=27,
            lr_scale={**SETTINGS.lr_scale, "image_backbone.backbone": 1.0},
            seed=3,
            validate_every=9,
        ),
        further=0.4,
        own=0.85,
        noise=1.0,
        channel_dropout=0.3,
        merge_alpha=0.4,
    )
)
ROUNDS = (
    Round(SETTINGS, further=0.2, own=0.7),
    Round(replace(SETTINGS, epochs=40, lr=4e-4), further=0.05, own=0.9),
    Round(
        replace(SETTINGS, epochs=27, lr=4e-4, seed=1, validate_every=9), further=0.05, own=0.9
    ),  # another seed, so other scenes
    Round(  # larger batches: it was run on a GPU
        replace(NAMES_WEIGH_MORE, epochs=60, batch_size=64, seed=2, validate_every=20),
        further=0.1,
        own=0.85,
        noise=0.8,
    ),
    VARIED,
    replace(  # the same with larger batches and more noise: it was run on a GPU
        VARIED,
        settings=replace(VARIED.settings, epochs=70, batch_size=64, lr=7e-4, seed=5, validate_every=14),
        noise=1.2,
        merge_alpha=0.5,
    ),
)


def things_to_learn(folder: Path | str, share: float) -> tuple[tuple[Pictogram, ...], list[float]]:
    """The things to train on, and the probability that each is drawn.

    The things are the emojis that are not held out, with the drawings of all icon sets, and further things that no emoji shows.
    A further thing is left out if its name is close in meaning to an unseen name (`TOO_CLOSE`).

    Args:
        folder: of the icon sets, see `gdino_lib.nano.icons`.
        share: of further things, 0..1.
    """
    unseen = pictograms.unseen()
    emojis = icons.drawn_by_others(pictograms.seen(), folder)
    further = icons.further_things(
        folder, known=pictograms.pictograms(), unseen=unseen, near_twins=pictograms.near_twins()
    )
    similarity = name_similarity([thing.name for thing in further], wordings(unseen), CONFIG).amax(1)
    further = tuple(thing for thing, most in zip(further, similarity.tolist(), strict=True) if most < TOO_CLOSE)
    weights = [(1 - share) / len(emojis)] * len(emojis) + [share / len(further)] * len(further)
    return emojis + further, weights


def wordings(things: Iterable[Pictogram]) -> list[str]:
    """All phrases that prompts may use for these things."""
    return [wording for thing in things for wording in thing.wordings]


def learn_first_names(model: GroundingDINO, folder: Path | str, out: Path, workers: int = 1) -> None:
    """Run the first stage, or resume it after an interruption.

    Args:
        model: from `begin_nano`; it is changed.
        folder: of the icon sets, see `gdino_lib.nano.icons`.
        out: folder of the run.
        workers: processes that draw pictures.
    """
    things, shares = things_to_learn(folder, NAMING_FURTHER)
    alone = PromptSettings(negatives=0)
    dataset = SceneDataset(
        things, NAMING_PICTURES, batch_size=NAMING.batch_size, weights=shares, sizes=(96,), prompts=alone, most=1
    )
    plain = text_encoder(model)
    model.text_encoder = FrozenTextEncoder(plain, wordings(things), NAMING_NOISE)
    learn_names(model, dataset, NAMING, out, workers)
    model.text_encoder = plain


def train_round(
    model: GroundingDINO, plan: Round, folder: Path | str, out: Path, validation: Validation, workers: int = 1
) -> Path:
    """Run one round on scenes, or resume it after an interruption.

    Each round restarts the learning rate schedule, which falls to 0 at the end of the round.

    Args:
        model: the result of the previous round, or of the first stage; it is changed.
        plan: one of `ROUNDS`.
        folder: of the icon sets, see `gdino_lib.nano.icons`.
        out: folder of the run.
        validation: the scenes to validate on.
        workers: processes that draw scenes.

    Returns:
        The file with the weights of the round.
    """
    things, shares = things_to_learn(folder, plan.further)
    dataset = SceneDataset(
        things,
        EPOCH_SCENES,
        batch_size=plan.settings.batch_size,
        weights=shares,
        sizes=SIZES,
        prompts=PromptSettings(MOST_NEGATIVES),
        own=plan.own,
        crowds=CROWD_SHARE,
        seed=plan.settings.seed,
    )
    model.text_encoder = FrozenTextEncoder(text_encoder(model), wordings(things), plan.noise)
    drop_channels(model.get_submodule("image_backbone.backbone"), plan.channel_dropout)
    return (
        Trainer(model, dataset, plan.settings, out, validation=validation, resume=True, workers=workers).fit().weights
    )


def drop_channels(backbone: nn.Module, share: float) -> None:
    """Drop random channels of the backbone's maps in training, so that no name depends on a single channel.

    The channels differ from step to step and from image to image.

    Args:
        backbone: returns maps, float [B, C, h, w] each; it is changed.
        share: of the channels that are set to 0, 0..1; the others are scaled by 1 / (1 - share).
    """

    def drop(module: nn.Module, _: tuple, maps: list[Tensor]) -> list[Tensor]:
        return [F.dropout2d(each, share, module.training) for each in maps]

    backbone.register_forward_hook(drop)


def add_landmarks(model: GroundingDINO, names: Iterable[str]) -> None:
    """Give a trained model the names that it learned as landmarks, see `TextEncoder`.

    Args:
        model: the model and its configuration are changed.
        names: all phrases of its training (`wordings`), in any order.
    """
    encoder = text_encoder(model)
    encoder.set_landmarks(sorted(set(names)))
    assert encoder.landmarks is not None  # set_landmarks has just set them
    model.config = model.config.replace(landmarks=len(encoder.landmarks))


def export(weights: Path, folder: Path) -> None:
    """Write trained weights as the package stores them: half precision, with word embeddings and landmarks in 8 bits.

    BERT has a file of its own, which stays the same from one training to the next, because BERT is not trained.

    Args:
        weights: file of a trained model with landmarks.
        folder: where to write the files.
    """
    checkpoint = read(weights)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in checkpoint.state.items()}
    for name in checkpoint.state.keys() & set(IN_8_BITS):
        rows = checkpoint.state[name]  # (N, bert width)
        scale = (rows.abs().amax(1, keepdim=True) / 127).half().clamp(min=torch.finfo(torch.float16).tiny)
        halves[name] = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8)
        halves[name + SCALE] = scale
    parts = {"text.safetensors": {}, "detector.safetensors": {}}
    for name, tensor in halves.items():
        parts["text.safetensors" if name.startswith(TEXT) else "detector.safetensors"][name] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    for file, state in parts.items():
        write_safetensors(
            folder / file, state, our_metadata(checkpoint.config) if file.startswith("detector") else None
        )
    index = {"weight_map": {name: file for file, state in parts.items() for name in state}}
    with atomic_file(folder / "model.safetensors.index.json") as file:
        file.write(json.dumps(index, indent=0, sort_keys=True) + "\n")


def main() -> None:
    """Train, or resume an interrupted training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of the icon sets")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the last round's run; the other runs lie beside it"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes (default: 1)")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="also write the final weights and the training curves here, as the package stores them",
    )
    options = parser.parse_args()
    parts = ("scenes", "names", *(f"round-{number}" for number in range(1, len(ROUNDS))))
    scenes, names, *rounds = (options.out.with_name(f"{options.out.name}-{part}") for part in parts)
    rounds.append(options.out)
    if not scenes.exists():
        write_scenes(scenes, VALIDATION_SCENES, things=pictograms.seen(), seed="validation")
    validation = Validation(read_records(scenes / "annotations.json"), scenes / "images", VALIDATION_NEGATIVES)
    model = begin_nano(CONFIG, SETTINGS.seed)
    learn_first_names(model, options.icons, names, options.workers)
    before: Path | None = None
    for plan, folder in zip(ROUNDS, rounds, strict=True):
        weights = train_round(model, plan, options.icons, folder, validation, options.workers)
        if plan.merge_alpha and before:
            merged = folder / "merged.safetensors"
            merge(weights, before, merged, plan.merge_alpha, overwrite=True)
            weights = merged
        before, model = weights, load(weights)
    add_landmarks(model, wordings(things_to_learn(options.icons, NAMING_FURTHER)[0]))
    final = options.out / "nano.safetensors"
    save(model, final)
    print(f"weights: {final}")
    if options.export:
        export(final, options.export)
        draw_rounds(options.export / "training.png", rounds)


if __name__ == "__main__":
    main()
