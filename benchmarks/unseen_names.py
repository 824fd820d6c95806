"""Measure what limits the naming of unseen things: `python benchmarks/unseen_names.py --icons FOLDER --json FILE` (ten minutes).

Each picture shows a single thing, cut out and enlarged. Nano's initial image backbone, trained on ImageNet alone, gives the
picture's feature, and MiniLM gives the feature of the name. Two linear layers, like those at the end of a detector, learn to
match pictures and names. They are tested by choosing among twelve names for each picture. The result depends only on the
features, on the training data and on the training method.
"""

import argparse
import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data_prep.atomic import write_json
from gdino_lib.images import prepare
from gdino_lib.nano import icons, pictograms, recipe
from gdino_lib.nano.first_weights import backbone_weights, name_features
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.scenes import draw_scene

SIDE, ENLARGED = 128, 160  # pixels of a picture, and of the square that the thing is enlarged to
MARGIN = 4  # pixels around the thing
COUNTS = {"all": 8000, "twins": 2000, "seen": 1000, "unseen": 2000}  # pictures of each kind
CHOICES = 12  # names to choose among
WIDTH, STEPS, BATCH, LR, WEIGHT_DECAY, SEEDS = 128, 600, 256, 1e-3, 0.05, (0, 1, 2)


class Pictures(NamedTuple):
    """Features of pictures, float [n, channels], and the name of the thing in each."""

    features: Tensor
    names: list[str]

    def of(self, names: set[str]) -> "Pictures":
        """The pictures whose names are in `names`."""
        kept = [number for number, name in enumerate(self.names) if name in names]
        return Pictures(self.features[kept], [self.names[number] for number in kept])

    def and_(self, other: "Pictures") -> "Pictures":
        """The pictures of both."""
        return Pictures(torch.cat([self.features, other.features]), self.names + other.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of the icon sets")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    options = parser.parse_args()
    seen, unseen = pictograms.seen(), pictograms.unseen()
    everything, shares = recipe.things_to_learn(options.icons, recipe.NAMING_FURTHER)
    pictures = {
        "all": draw("all", everything, shares),
        "twins": draw("twins", icons.drawn_by_others(pictograms.near_twins(), options.icons)),
        "seen": draw("seen", seen),
        "unseen": draw("unseen", unseen),
    }
    names = sorted({name for part in pictures.values() for name in part.names})
    read = dict(zip(names, name_features(names, recipe.CONFIG), strict=True))

    emojis = pictures["all"].of({thing.name for thing in seen})
    mixed = random.Random(0).sample([thing.name for thing in seen], len(seen))
    half, quarter = (emojis.of(set(mixed[: len(mixed) // share])) for share in (2, 4))
    figures = {}
    for title, data, changes in (
        ("as it is", pictures["all"], {}),
        ("noise on the text", pictures["all"], {"noise": 0.5}),
        ("more noise", pictures["all"], {"noise": 1.0}),
        ("half of the image features dropped", pictures["all"], {"dropout": 0.5}),
        ("both", pictures["all"], {"noise": 0.5, "dropout": 0.5}),
        ("both, emojis only", emojis, {"noise": 0.5, "dropout": 0.5}),
        ("both, half of the emojis", half, {"noise": 0.5, "dropout": 0.5}),
        ("both, a quarter of the emojis", quarter, {"noise": 0.5, "dropout": 0.5}),
        ("both, near-twins too", pictures["all"].and_(pictures["twins"]), {"noise": 0.5, "dropout": 0.5}),
    ):
        right = dict.fromkeys(("seen", "unseen"), 0.0)
        for seed in SEEDS:
            heads = Heads.trained(data, read, seed, **changes)
            for kind in right:
                right[kind] += heads.right(pictures[kind], read) / len(SEEDS)
        figures[title] = right
        print(f"{title:36} seen {right['seen']:.3f}  unseen {right['unseen']:.3f}", flush=True)
    write_json(options.json, figures)


def draw(kind: str, things: Sequence[Pictogram], shares: Sequence[float] | None = None) -> Pictures:
    """Draw pictures of single things and compute their features with nano's initial backbone."""
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    backbone.load_state_dict({name: t for name, t in backbone_weights().items() if not name.startswith("classifier.")})
    backbone.eval()
    weights = None if shares is None else list(accumulate(shares))
    cut, names, features = [], [], []
    for index in tqdm(range(COUNTS[kind]), desc=kind, disable=None):
        scene = draw_scene(index, seed=f"single {kind}", size=SIDE, things=things, cum_weights=weights, most=1)
        for box in scene.record.boxes:
            image = prepare(scene.image, SIDE, SIDE)
            x1, y1, x2, y2 = map(round, box.xyxy)
            part = image[:, max(y1 - MARGIN, 0) : y2 + MARGIN, max(x1 - MARGIN, 0) : x2 + MARGIN]
            cut.append(F.interpolate(part[None], size=(ENLARGED, ENLARGED), mode="bilinear"))
            names.append(box.label)
        if cut and (len(cut) >= 50 or index + 1 == COUNTS[kind]):
            with torch.inference_mode():
                features.append(backbone(torch.cat(cut)))  # (B, 1280), the mean over the picture
            cut = []
    return Pictures(torch.cat(features).clone(), names)


class Heads(nn.Module):
    """Two linear layers that map features of pictures and of names into one space."""

    def __init__(self, data: Pictures, read: dict[str, Tensor]) -> None:
        super().__init__()
        self.mean, self.deviation = data.features.mean(0), data.features.std(0) + 1e-3
        self.centre = torch.stack(list(read.values())).mean(0)
        self.image, self.text = nn.Linear(data.features.shape[1], WIDTH), nn.Linear(len(self.centre), WIDTH)
        self.scale = nn.Parameter(torch.tensor(2.3))

    @classmethod
    def trained(
        cls, data: Pictures, read: dict[str, Tensor], seed: int, noise: float = 0.0, dropout: float = 0.0
    ) -> "Heads":
        """Train both layers contrastively: each picture against the names of its batch."""
        torch.manual_seed(seed)
        heads = cls(data, read)
        known = sorted(set(data.names))
        words = torch.stack([read[name] for name in known])
        numbers = torch.tensor([known.index(name) for name in data.names])
        optimizer = torch.optim.AdamW(heads.parameters(), LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS)
        for _ in range(STEPS):
            batch = torch.randint(len(numbers), (BATCH,))
            present, wanted = numbers[batch].unique(return_inverse=True)
            logits = heads(data.features[batch], words[present], noise, dropout)
            optimizer.zero_grad()
            F.cross_entropy(logits * heads.scale.exp(), wanted).backward()
            optimizer.step()
            schedule.step()
        return heads.eval()

    def forward(self, features: Tensor, words: Tensor, noise: float = 0.0, dropout: float = 0.0) -> Tensor:
        """float [n, channels], [names, bert width] -> cosines [n, names]."""
        x = F.dropout((features - self.mean) / self.deviation, dropout)
        words = F.normalize(words - self.centre, dim=-1) * words.shape[-1] ** 0.5  # deviation 1
        words = words + noise * torch.randn_like(words)
        return F.normalize(self.image(x), dim=-1) @ F.normalize(self.text(words), dim=-1).T

    @torch.no_grad()
    def right(self, pictures: Pictures, read: dict[str, Tensor]) -> float:
        """The share of pictures whose own name scores at least as high as eleven other names of the same kind."""
        known = sorted(set(pictures.names))
        cosines = self(pictures.features, torch.stack([read[name] for name in known]))
        rng, hits = random.Random(0), 0
        for row, name in zip(cosines, pictures.names, strict=True):
            own = known.index(name)
            others = rng.sample([number for number in range(len(known)) if number != own], CHOICES - 1)
            hits += bool(row[own] >= row[others].max())
        return hits / len(cosines)


if __name__ == "__main__":
    main()
