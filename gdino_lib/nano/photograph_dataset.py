"""Photographs to train on: crops, mosaics, things pasted in; prompts by every name that a thing has, and absent names."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from PIL import Image, ImageEnhance

from data_prep.records import ImageRecord
from gdino_lib.data.datasets import FRAME, Sample
from gdino_lib.data.records import is_crowd, open_image
from gdino_lib.nano.photograph_names import Names
from gdino_lib.nano.photographs import Absences, PhotographSet
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.samples import SizedDataset, make_sample
from gdino_lib.nano.scene_dataset import choose_wording
from gdino_lib.nano.scenes import Canvas, bounds_of
from gdino_lib.nano.sprites import draw_sprite
from gdino_lib.prompts import word_pieces

Box = tuple[float, float, float, float]
VISIBLE = 0.4  # share of a box that a crop must show, or the box is no target
SMALLEST = 4  # pixels of a target's shorter side
FANTASTIC = 4  # names of things that no photograph shows, in a prompt
TINY = 100  # pixels: pictures of a shorter side are shown in mosaics alone


@dataclass
class Picture:
    """A training picture in the making.

    Attributes:
        image: RGB.
        boxes: (name, xyxy in pixels) of all targets.
        cut: names of crowds, and of things of which too little is left to be targets: they are neither asked for nor absent.
        everywhere: names that have a box wherever the picture shows them.
    """

    image: Image.Image
    boxes: list[tuple[str, Box]]
    cut: set[str] = field(default_factory=set)
    everywhere: frozenset[str] = frozenset()

    @property
    def shown(self) -> set[str]:
        """Names of all that is known to be there."""
        return {name for name, _ in self.boxes} | self.cut


class PhotographDataset(SizedDataset):
    """Photographs as `SceneDataset` gives pictograms: a new view of a drawn picture for each index and epoch.

    Args:
        sets: to draw pictures from.
        weights: how often each set is drawn, relative to the others; one a set.
        names: what the names mean.
        count: pictures in an epoch.
        batch_size: of the loader: all pictures of a batch have the same size.
        sizes: (width, height) in pixels, to draw a batch's from.
        things: pictograms to paste into some pictures; none: nothing is pasted.
        mosaics: share of pictures that are mosaics of four.
        pasted: share of the other pictures into which pictograms are pasted.
        broader: share of prompts in which a broader word stands for a name.
        unanswered: share of prompts that name nothing that is there: the right answer is no box.
        all_names: share of prompts that ask for everything that the set labels everywhere.
        negatives: at most so many absent names in the other prompts.
        seed: of everything random.
        max_tokens: of a prompt; absent names that do not fit are left out.

    Raises:
        ValueError: no sets, or not as many weights as sets.
    """

    def __init__(
        self,
        sets: Sequence[PhotographSet],
        weights: Sequence[float],
        names: Names,
        count: int,
        *,
        batch_size: int,
        sizes: Sequence[tuple[int, int]],
        things: Sequence[Pictogram] = (),
        mosaics: float = 0.2,
        pasted: float = 0.15,
        broader: float = 0.15,
        unanswered: float = 0.12,
        all_names: float = 0.25,
        negatives: int = 24,
        seed: int = 0,
        max_tokens: int = 256,
    ) -> None:
        if not sets or len(sets) != len(weights):
            raise ValueError(f"weights: expected one for each of one set or more, got {len(weights)} for {len(sets)}")
        super().__init__(count, batch_size, sizes, seed)
        self.sets, self.cum_weights = tuple(sets), tuple(accumulate(weights))
        self.names = names
        self.things, self.mosaics, self.pasted = tuple(things), mosaics, pasted
        self.broader, self.unanswered, self.all_names = broader, unanswered, all_names
        self.negatives, self.max_tokens = negatives, max_tokens
        self.absences = Absences(names)
        self._by_shape = [_by_shape(each.records) for each in self.sets]

    @property
    def fingerprint(self) -> str:
        """Of what is learnt from, and how it is shown."""
        digest = hashlib.sha256()
        for each in self.sets:
            digest.update(repr((each.name, sorted(each.everywhere), each.records)).encode())
        shown = (self.cum_weights, self.count, self.batch_size, self.sizes, self.things, self.mosaics, self.pasted)
        asked = (self.broader, self.unanswered, self.all_names, self.negatives, self.seed, self.max_tokens)
        meanings = sorted(self.names.meanings.items())
        digest.update(repr((shown, asked, meanings)).encode())
        return digest.hexdigest()

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """The sample of any index of this epoch, (width, height) pixels large."""
        picture, prompt, phrases = self.picture(index, size)
        boxes = [box for _, box in picture.boxes]
        return make_sample(picture.image, boxes, phrases, prompt, f"{self.seed}/{self.epoch}/{index}")

    def picture(self, index: int, size: tuple[int, int]) -> tuple[Picture, list[str], list[int]]:
        """The picture, its prompt, and which phrase of the prompt names each of its boxes.

        Raises:
            ImageError: a photograph that cannot be read, or has another size than its boxes were drawn in.
        """
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}")
        picture = self._draw_picture(rng, size)
        picture.image = _recoloured(rng, picture.image)
        prompt, phrase_of = self._prompt(rng, picture)
        if not phrase_of:
            picture.boxes = []
        return picture, prompt, [prompt.index(phrase_of[name]) for name, _ in picture.boxes]

    def _draw_picture(self, rng: random.Random, size: tuple[int, int]) -> Picture:
        number = rng.choices(range(len(self.sets)), cum_weights=self.cum_weights)[0]
        record = self._choose(rng, number, size)
        tiny = min(record.width, record.height) < TINY
        if tiny or rng.random() < self.mosaics:
            cells = rng.choice((3, 4)) if tiny else 2
            return self._mosaic(rng, number, size, cells)
        picture = _view(rng, self.sets[number], record, size)
        if self.things and rng.random() < self.pasted:
            self._paste(rng, picture)
        return picture

    def _choose(self, rng: random.Random, number: int, size: tuple[int, int]) -> ImageRecord:
        """A picture of a set; nine times in ten one that lies or stands as the canvas does."""
        wide = size[0] >= size[1]
        alike = self._by_shape[number][wide]
        return rng.choice(alike if alike and rng.random() < 0.9 else self.sets[number].records)

    def _mosaic(self, rng: random.Random, number: int, size: tuple[int, int], cells: int) -> Picture:
        """Pictures side by side, of one set; of what the set labels everywhere nothing is forgotten."""
        photographs = self.sets[number]
        columns = [round(size[0] * place / cells) for place in range(cells + 1)]
        rows = [round(size[1] * place / cells) for place in range(cells + 1)]
        whole = Picture(Image.new("RGB", size), [], everywhere=photographs.everywhere)
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                cell = (right - left, bottom - top)
                part = _view(rng, photographs, self._choose(rng, number, cell), cell)
                whole.image.paste(part.image, (left, top))
                whole.cut |= part.cut
                whole.boxes += [
                    (name, (x1 + left, y1 + top, x2 + left, y2 + top)) for name, (x1, y1, x2, y2) in part.boxes
                ]
        return whole

    def _paste(self, rng: random.Random, picture: Picture) -> None:
        """Paste pictograms whose names nothing in the picture bears; what they hide too much of is no target any more."""
        canvas = Canvas(picture.image)
        for _ in range(rng.randint(1, 3)):
            thing = rng.choice(self.things)
            if any(self.names.related(wording, name) for wording in thing.wordings for name in picture.shown):
                continue
            side = round(min(picture.image.size) * rng.uniform(0.12, 0.45))
            canvas.place(rng, thing, draw_sprite(rng, thing, side, own=0.7))
        for thing, mask in zip(canvas.things, canvas.masks, strict=True):
            x1, y1, x2, y2 = bounds_of(mask)
            pasted, kept = (float(x1), float(y1), float(x2), float(y2)), []
            for name, box in picture.boxes:
                if _covered(box, pasted) > 1 - VISIBLE:
                    picture.cut.add(name)
                else:
                    kept.append((name, box))
            picture.boxes = [*kept, (thing.name, pasted)]

    def _prompt(self, rng: random.Random, picture: Picture) -> tuple[list[str], dict[str, str]]:
        """The phrases, shuffled, and what each name of the picture is called; nothing where the prompt names nothing there."""
        names = list(dict.fromkeys(name for name, _ in picture.boxes))
        absent = self._absent(rng, picture)
        everything = rng.random() < self.all_names and bool(picture.everywhere)
        if absent and (not names or rng.random() < self.unanswered):
            phrase_of: dict[str, str] = {}
        else:
            phrase_of = self._phrases(rng, names, plain=everything)
        prompt = list(dict.fromkeys(phrase_of.values()))
        room = self.max_tokens - FRAME - sum(len(word_pieces(phrase)) + 1 for phrase in prompt)
        wanted = len(absent) if everything else rng.randint(min(len(absent), 0 if prompt else 1), self.negatives)
        if everything:  # the names of the set, as evaluation asks for them
            absent = [name for name in absent if name in picture.everywhere]
        said = {word_pieces(phrase) for phrase in prompt}
        for name in absent:
            if wanted <= 0:
                break
            phrase = name if everything else self.names.choose_wording(name, rng)
            pieces = word_pieces(phrase)
            if pieces not in said and len(pieces) + 1 <= room:
                said.add(pieces)
                prompt.append(phrase)
                room -= len(pieces) + 1
                wanted -= 1
        rng.shuffle(prompt)
        return prompt, phrase_of

    def _absent(self, rng: random.Random, picture: Picture) -> list[str]:
        """Certainly absent names, shuffled; of those that no photograph shows at most `FANTASTIC`, which teach little."""
        absent = list(self.absences.of(picture.everywhere, picture.shown))
        nowhere = [name for name in absent if name in self.absences.nowhere]
        kept = set(rng.sample(nowhere, min(FANTASTIC, len(nowhere))))
        absent = [name for name in absent if name in kept or name not in self.absences.nowhere]
        rng.shuffle(absent)
        return absent

    def _phrases(self, rng: random.Random, names: Collection[str], plain: bool) -> dict[str, str]:
        """What each name is called: itself, a synonym, or a broader word, which then stands for all that it names."""
        phrase_of: dict[str, str] = {}
        if not plain and rng.random() < self.broader:
            words = sorted({word for name in names for word in self.names[name].hypernyms})
            if words:
                word = rng.choice(words)
                pieces = word_pieces(word)
                phrase_of = {name: word for name in names if pieces in self.names.answers(name)}
        things = {thing.name: thing for thing in self.things}
        taken = {word_pieces(phrase): name for name, phrase in phrase_of.items()}
        for name in names:
            if name in phrase_of:
                continue
            if plain:
                phrase = name
            elif name in things and name not in self.names.meanings:
                phrase = choose_wording(things[name], rng)
            else:
                phrase = self.names.choose_wording(name, rng)
            phrase_of[name] = phrase if word_pieces(phrase) not in taken else name
            taken[word_pieces(phrase_of[name])] = name
        return phrase_of


def _by_shape(records: Sequence[ImageRecord]) -> dict[bool, list[ImageRecord]]:
    """{lies: records, stands: records}; a square picture is in both."""
    return {
        True: [record for record in records if record.width >= record.height],
        False: [record for record in records if record.width <= record.height],
    }


def _view(rng: random.Random, photographs: PhotographSet, record: ImageRecord, size: tuple[int, int]) -> Picture:
    """A crop of a photograph that has the canvas's proportions, resized to it; half of the time as much as fits."""
    image = open_image(record, photographs.images)
    scale = min(record.width / size[0], record.height / size[1])
    if rng.random() < 0.5:
        scale *= rng.uniform(0.3, 1.0) ** 0.5
    stretch = rng.uniform(0.85, 1.0)
    width, height = scale * size[0], scale * size[1]
    width, height = (width * stretch, height) if rng.random() < 0.5 else (width, height * stretch)
    width, height = min(width, record.width), min(height, record.height)  # rounding may exceed it
    left, top = rng.uniform(0, record.width - width), rng.uniform(0, record.height - height)
    image = image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    mirrored = rng.random() < 0.5
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    boxes, cut = [], set()
    for box in record.boxes:
        x1, x2 = ((x - left) * size[0] / width for x in (box.x1, box.x2))
        y1, y2 = ((y - top) * size[1] / height for y in (box.y1, box.y2))
        if mirrored:
            x1, x2 = size[0] - x2, size[0] - x1
        inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
        share = max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0) / ((x2 - x1) * (y2 - y1))
        if not is_crowd(box) and share >= VISIBLE and min(inside[2] - inside[0], inside[3] - inside[1]) >= SMALLEST:
            boxes.append((box.label, inside))
        elif share > 0:
            cut.add(box.label)
    return Picture(image, boxes, cut, photographs.everywhere)


def _recoloured(rng: random.Random, image: Image.Image) -> Image.Image:
    """Other light, contrast and saturation, for most pictures; a few in grey."""
    if rng.random() < 0.2:
        return image
    for kind, low, high in ((ImageEnhance.Brightness, 0.6, 1.4), (ImageEnhance.Contrast, 0.6, 1.4)):
        image = kind(image).enhance(rng.uniform(low, high))
    saturation = 0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.5)
    return ImageEnhance.Color(image).enhance(saturation)


def _covered(box: Box, other: Box) -> float:
    """The share of a box that lies in another."""
    width = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
    height = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))
