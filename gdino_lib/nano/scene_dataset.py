"""Scenes to train on, drawn as they are asked for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from gdino_lib.data.datasets import FRAME, Sample
from gdino_lib.nano.drawings import package_folder
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.samples import SizedDataset, make_sample
from gdino_lib.nano.scenes import REPEATED, Scene, draw_scene
from gdino_lib.nano.wordings import may_name
from gdino_lib.prompts import word_pieces

CROWDED = 0.7  # how often a thing of a crowd is one that the scene shows already


class SceneDataset(SizedDataset):
    """Scenes to train on, drawn as they are asked for: what `GroundingDataset` gives, without files.

    A prompt calls each thing by one of its wordings, drawn anew for each scene, and names absent things, too; none whose name
    what is there may bear ("cat" beside a "black cat"). Each epoch has new scenes.

    Args:
        things: to learn, such as `pictograms.seen()`.
        weights: how often each is shown or named, relative to the others; None: all alike.
        count: scenes in an epoch.
        batch_size: of the loader: all scenes of a batch have the same size.
        sizes: sides, or (width, height), in pixels, to draw a batch's from.
        negatives: at most so many absent things in a prompt; the number is drawn from 0 to that.
        most: things in a scene.
        own: see `draw_scene`.
        crowds: share of scenes that repeat things: each is with probability `CROWDED` one that the scene shows already.
        unanswered: of the prompts that name absent things, the share that names nothing else: the right answer is no box.
        seed: of everything random.
        max_tokens: of a prompt; absent things that do not fit are left out.

    Raises:
        ValueError: a number below 1 (`negatives`: below 0), no things, a package of the extra `scenes` is missing.
    """

    def __init__(
        self,
        things: Sequence[Pictogram],
        count: int,
        *,
        batch_size: int,
        weights: Sequence[float] | None = None,
        sizes: Sequence[int | tuple[int, int]] = tuple(range(160, 321, 32)),
        negatives: int = 16,
        most: int = 8,
        own: float = 0.5,
        crowds: float = 0.0,
        unanswered: float = 0.0,
        seed: int = 0,
        max_tokens: int = 256,
    ) -> None:
        if min(count, batch_size, most, negatives + 1, len(sizes), len(things)) < 1:
            raise ValueError(
                f"expected scenes, a batch, sizes and things, got count {count}, batch_size {batch_size}, most {most}, "
                f"negatives {negatives}, {len(sizes)} sizes, {len(things)} things"
            )
        super().__init__(count, batch_size, sizes, seed)
        self.things = tuple(things)
        self.negatives, self.most, self.max_tokens = negatives, most, max_tokens
        self.own, self.crowds, self.unanswered = own, crowds, unanswered
        self.cum_weights = None if weights is None else tuple(accumulate(weights))
        if weights is not None and len(weights) != len(things):
            raise ValueError(f"weights: expected {len(things)}, one a thing, got {len(weights)}")
        self._by_name = {thing.name: thing for thing in self.things}
        package_folder("skimage")  # what is missing is said here, not in a worker

    @property
    def fingerprint(self) -> str:
        """Of what is learnt from, and how it is drawn."""
        drawn = (self.things, self.cum_weights, self.count, self.batch_size, self.sizes, self.own, self.crowds)
        asked = (self.negatives, self.most, self.unanswered, self.seed, self.max_tokens)
        return hashlib.sha256(repr((drawn, *asked)).encode()).hexdigest()

    def sample(self, index: int, size: int | tuple[int, int]) -> Sample:
        """The sample of any index of this epoch, drawn at a size of the caller's."""
        scene, prompt, phrases = self._scene(index, size)
        boxes = [box.xyxy for box in scene.record.boxes]
        return make_sample(scene.image, boxes, phrases, prompt, scene.record.file_name)

    def scene(self, index: int) -> tuple[Scene, list[str], list[int]]:
        """The scene, its prompt, and which phrase of the prompt each of its boxes shows; no boxes where it names none."""
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
        room = self.max_tokens - FRAME - sum(len(word_pieces(wording)) + 1 for wording in wordings)
        absent: list[str] = []
        wanted = rng.randint(0, self.negatives) if shown else max(self.negatives, 1)
        for thing in dict.fromkeys(rng.choices(self.things, cum_weights=self.cum_weights, k=wanted)):
            wording = choose_wording(thing, rng)
            length = len(word_pieces(wording)) + 1
            if length <= room and thing.name not in names and not any(may_name(thing, other) for other in shown):
                absent.append(wording)
                room -= length
        if absent and random.Random(f"{seed}/{index}/unanswered").random() < self.unanswered:
            wordings, names = [], []
            scene = Scene(scene.image, replace(scene.record, boxes=()), scene.masks[:0])
        prompt = wordings + absent
        rng.shuffle(prompt)
        place = {name: prompt.index(wording) for name, wording in zip(names, wordings, strict=True)}
        return scene, prompt, [place[box.label] for box in scene.record.boxes]


def choose_wording(thing: Pictogram, rng: random.Random) -> str:
    """What a training prompt calls a thing: half of the time its name, else any other wording. In judging, use the name."""
    return thing.name if len(thing.wordings) == 1 or rng.random() < 0.5 else rng.choice(thing.wordings[1:])
