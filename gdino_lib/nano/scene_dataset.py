"""Pictogram scenes as training samples, drawn when the loader asks for them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

from gdino_lib.data.datasets import Sample, token_count
from gdino_lib.nano.drawings import package_folder
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.samples import PromptSettings, SizedDataset, cumulative, make_sample
from gdino_lib.nano.scenes import REPEATED, Scene, draw_scene
from gdino_lib.nano.wordings import may_name

PROMPTS = PromptSettings(negatives=16)
CROWDED = 0.7  # in a crowd, the probability that a thing repeats one that the scene already shows


class SceneDataset(SizedDataset):
    """Pictogram scenes to train on: the samples that `GroundingDataset` gives, drawn instead of read from files.

    The prompt uses a random wording for each thing in the scene. It also names absent things, but never a thing whose name
    also fits something in the scene ("cat" beside a "black cat"). Each epoch has new scenes.

    Args:
        things: the things to learn, such as `pictograms.seen()`.
        count: scenes in an epoch.
        batch_size: of the loader; all scenes of a batch have the same size.
        weights: how often each thing is shown or named, relative to the others; None: all equally often.
        sizes: sides, or (width, height), in pixels; the size of each batch is drawn from these.
        prompts: settings of the prompts; the number of absent things is drawn from 0..negatives.
        most: the most things in a scene.
        own: see `draw_scene`.
        crowds: share of scenes that are crowds; see `CROWDED`.
        seed: of all random choices.

    Raises:
        ValueError: a number is below 1 (`negatives`: below 0), there are no things, or not as many weights as things; or a
            package of the extra `scenes` is not installed.
    """

    def __init__(
        self,
        things: Sequence[Pictogram],
        count: int,
        *,
        batch_size: int,
        weights: Sequence[float] | None = None,
        sizes: Sequence[int | tuple[int, int]] = tuple(range(160, 321, 32)),
        prompts: PromptSettings = PROMPTS,
        most: int = 8,
        own: float = 0.5,
        crowds: float = 0.0,
        seed: int = 0,
    ) -> None:
        if min(count, batch_size, most, prompts.negatives + 1, len(sizes), len(things)) < 1:
            raise ValueError(
                f"expected numbers of at least 1 (negatives: 0), got count {count}, batch_size {batch_size}, most {most}, "
                f"negatives {prompts.negatives}, {len(sizes)} sizes, {len(things)} things"
            )
        super().__init__(count, batch_size, sizes, seed)
        self.things = tuple(things)
        self.prompts, self.most, self.own, self.crowds = prompts, most, own, crowds
        self.cum_weights = None if weights is None else cumulative("weight", weights, "thing", things)
        self._by_name = {thing.name: thing for thing in self.things}
        package_folder("skimage")  # a missing package raises here, not in a worker of the loader

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the things and all settings that the samples depend on."""
        drawn = (self.things, self.cum_weights, self.count, self.batch_size, self.sizes, self.own, self.crowds)
        own = self.prompts  # field by field, in an order that must not change: runs resume only with the same digest
        asked = (own.negatives, self.most, own.unanswered, self.seed, own.max_tokens)
        return hashlib.sha256(repr((drawn, *asked)).encode()).hexdigest()

    @property
    def pictures_digest(self) -> None:
        """None: every picture is drawn."""

    def sample(self, index: int, size: int | tuple[int, int]) -> Sample:
        """The sample of any index in this epoch, drawn at the size given."""
        scene, prompt, phrases = self._scene(index, size)
        boxes = [box.xyxy for box in scene.record.boxes]
        return make_sample(scene.image, boxes, phrases, prompt, scene.record.file_name)

    def scene(self, index: int) -> tuple[Scene, list[str], list[int]]:
        """(scene, prompt, index in the prompt of each box's phrase); without boxes if the prompt names only absent things."""
        return self._scene(index, self.size_of(index))

    def _scene(self, index: int, size: int | tuple[int, int]) -> tuple[Scene, list[str], list[int]]:
        seed = f"{self.seed}/{self.epoch}"
        scene = draw_scene(
            index,
            seed=seed,
            size=size,
            things=self.things,
            cum_weights=self.cum_weights,
            most=self.most,
            own=self.own,
            repeated=CROWDED if random.Random(f"{seed}/{index}/crowd").random() < self.crowds else REPEATED,
        )
        rng = random.Random(f"{seed}/{index}/prompt")
        names = list(dict.fromkeys(box.label for box in scene.record.boxes))
        shown = [self._by_name[name] for name in names]
        wordings = [choose_wording(thing, rng) for thing in shown]
        room = self.prompts.room(wordings)
        absent: list[str] = []
        wanted = rng.randint(0, self.prompts.negatives) if shown else max(self.prompts.negatives, 1)
        for thing in dict.fromkeys(rng.choices(self.things, cum_weights=self.cum_weights, k=wanted)):
            wording = choose_wording(thing, rng)
            length = token_count(wording)
            if length <= room and thing.name not in names and not any(may_name(thing, other) for other in shown):
                absent.append(wording)
                room -= length
        if absent and random.Random(f"{seed}/{index}/unanswered").random() < self.prompts.unanswered:
            wordings, names = [], []
            scene = Scene(scene.image, replace(scene.record, boxes=()), scene.masks[:0])
        prompt = wordings + absent
        rng.shuffle(prompt)
        place = {name: prompt.index(wording) for name, wording in zip(names, wordings, strict=True)}
        return scene, prompt, [place[box.label] for box in scene.record.boxes]


def choose_wording(thing: Pictogram, rng: random.Random) -> str:
    """The phrase for a thing in a training prompt: half of the time its name, otherwise another wording."""
    return thing.name if len(thing.wordings) == 1 or rng.random() < 0.5 else rng.choice(thing.wordings[1:])
