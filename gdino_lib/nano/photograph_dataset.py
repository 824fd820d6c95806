"""Training samples from photographs: crops, mosaics, pasted cut-outs and pictograms, with prompts of present and absent names."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from PIL import Image, ImageEnhance, ImageFilter

from data_prep.records import ImageRecord
from gdino_lib.data.datasets import Sample
from gdino_lib.data.records import is_crowd, open_image, pictures_digest
from gdino_lib.nano.photograph_names import Names
from gdino_lib.nano.photographs import Absences, PhotographSet
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.samples import PromptSettings, SizedDataset, cumulative, make_sample
from gdino_lib.nano.scene_dataset import choose_wording
from gdino_lib.nano.scenes import Canvas, bounds_of
from gdino_lib.nano.sprites import draw_sprite
from gdino_lib.prompts import word_pieces

Box = tuple[float, float, float, float]
PROMPTS = PromptSettings(negatives=24, unanswered=0.12)
VISIBLE = 0.4  # share of a box's area that a crop must show for the box to be a target
SMALLEST = 4  # pixels, the least shorter side of a target
FANTASTIC = 4  # most names in a prompt of things that no photograph shows
CUT_OUT = 24  # pixels, the least shorter side of an object that is cut out of its photograph
TINY = 100  # pixels; a photograph with a smaller shorter side appears in mosaics only


@dataclass
class Picture:
    """A training picture under construction.

    Attributes:
        image: RGB.
        boxes: (name, xyxy in pixels) of all targets.
        cut: names of crowds, and of things that are cut off or covered too much to be targets. Such things have no box,
            and their names do not count as absent.
        everywhere: names that have a box wherever the picture shows such a thing.
    """

    image: Image.Image
    boxes: list[tuple[str, Box]]
    cut: set[str] = field(default_factory=set)
    everywhere: frozenset[str] = frozenset()

    @property
    def shown(self) -> set[str]:
        """Names of everything that the picture is known to show."""
        return {name for name, _ in self.boxes} | self.cut

    def add(self, part: Picture, left: int, top: int) -> None:
        """Add what another picture shows, after its image was pasted at (left, top)."""
        self.cut |= part.cut
        self.boxes += [(name, (x1 + left, y1 + top, x2 + left, y2 + top)) for name, (x1, y1, x2, y2) in part.boxes]

    def cover(self, area: Box) -> None:
        """Move the names of the boxes that an area mostly covers to `cut`."""
        self.cut |= {name for name, box in self.boxes if _covered(box, area) > 1 - VISIBLE}
        self.boxes = [(name, box) for name, box in self.boxes if _covered(box, area) <= 1 - VISIBLE]


class PhotographDataset(SizedDataset):
    """Photographs to train on: each index and epoch gives a new view of a photograph that is chosen at random.

    Args:
        sets: the photographs.
        weights: how often each set is drawn, relative to the others; one weight for each set.
        names: meanings of the names.
        count: pictures in an epoch.
        batch_size: of the loader; all pictures of a batch have the same size.
        sizes: (width, height) in pixels; the size of each batch is drawn from these.
        things: pictograms to paste into some pictures; empty: nothing is pasted.
        mosaics: share of pictures that are mosaics of 2 x 2 photographs. If the photograph drawn is smaller than `TINY`, the
            picture is always a mosaic, of 3 x 3 or 4 x 4 photographs.
        pasted: share of the other pictures into which pictograms are pasted.
        cut_outs: share of the other pictures into which objects from other photographs of the set are pasted.
        broader: share of prompts in which a hypernym replaces the names that it covers.
        all_names: share of prompts that hold all names that the set labels everywhere, however many are absent.
        prompts: other settings of the prompts.
        seed: of all random choices.

    Raises:
        ValueError: there are no sets, or not as many weights as sets.
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
        cut_outs: float = 0.15,
        broader: float = 0.15,
        all_names: float = 0.25,
        prompts: PromptSettings = PROMPTS,
        seed: int = 0,
    ) -> None:
        super().__init__(count, batch_size, sizes, seed)
        self.sets, self.cum_weights = tuple(sets), cumulative("weight", weights, "set", sets)
        self.names = names
        self.things, self.mosaics, self.pasted, self.cut_outs = tuple(things), mosaics, pasted, cut_outs
        self.broader, self.all_names, self.prompts = broader, all_names, prompts
        self.absences = Absences(names)
        self._by_shape = [_by_shape(each.records) for each in self.sets]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the records, the meanings of the names and all settings that the samples depend on."""
        digest = hashlib.sha256()
        for each in self.sets:
            digest.update(repr((each.name, sorted(each.everywhere), each.records)).encode())
        drawn = (self.cum_weights, self.count, self.batch_size, self.sizes, self.things)
        shown = (*drawn, self.mosaics, self.pasted, self.cut_outs)
        own = self.prompts  # field by field, in an order that must not change: runs resume only with the same digest
        asked = (self.broader, own.unanswered, self.all_names, own.negatives, self.seed, own.max_tokens)
        meanings = sorted(self.names.meanings.items())
        digest.update(repr((shown, asked, meanings)).encode())
        return digest.hexdigest()

    @property
    def pictures_digest(self) -> str:
        """Of all sets; see `gdino_lib.data.records.pictures_digest`."""
        digests = [pictures_digest(each.records, each.images) for each in self.sets]
        return hashlib.sha256(repr(digests).encode()).hexdigest()

    def sample(self, index: int, size: tuple[int, int]) -> Sample:
        """The sample of any index in this epoch, at a size of (width, height) pixels."""
        picture, prompt, phrases = self.picture(index, size)
        boxes = [box for _, box in picture.boxes]
        return make_sample(picture.image, boxes, phrases, prompt, f"{self.seed}/{self.epoch}/{index}")

    def picture(self, index: int, size: tuple[int, int]) -> tuple[Picture, list[str], list[int]]:
        """The picture of any index in this epoch, its prompt, and for each box the index of its phrase in the prompt.

        Raises:
            ImageError: a photograph cannot be read, or does not have the size that its record gives.
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
        if rng.random() < self.cut_outs:
            for _ in range(rng.randint(1, 2)):
                self._paste_cut_out(rng, picture, number)
        if self.things and rng.random() < self.pasted:
            self._paste_pictograms(rng, picture)
        return picture

    def _choose(self, rng: random.Random, number: int, size: tuple[int, int]) -> ImageRecord:
        """A photograph of a set; nine times in ten, its orientation (landscape or portrait) is the canvas's."""
        wide = size[0] >= size[1]
        alike = self._by_shape[number][wide]
        return rng.choice(alike if alike and rng.random() < 0.9 else self.sets[number].records)

    def _mosaic(self, rng: random.Random, number: int, size: tuple[int, int], cells: int) -> Picture:
        """A grid of `cells` x `cells` photographs of one set, so that the set's `everywhere` holds for the whole grid."""
        photographs = self.sets[number]
        columns = [round(size[0] * place / cells) for place in range(cells + 1)]
        rows = [round(size[1] * place / cells) for place in range(cells + 1)]
        whole = Picture(Image.new("RGB", size), [], everywhere=photographs.everywhere)
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                cell = (right - left, bottom - top)
                part = _view(rng, photographs, self._choose(rng, number, cell), cell)
                whole.image.paste(part.image, (left, top))
                whole.add(part, left, top)
        return whole

    def _paste_cut_out(self, rng: random.Random, picture: Picture, number: int) -> None:
        """Paste an object from another photograph of the same set, so that the set's `everywhere` still holds."""
        photographs = self.sets[number]
        record = self._choose(rng, number, picture.image.size)
        part = _cut_out(rng, photographs, record, min(picture.image.size))
        if part is None:
            return
        left = rng.randint(0, picture.image.width - part.image.width)
        top = rng.randint(0, picture.image.height - part.image.height)
        picture.image.paste(part.image, (left, top), _soft_edges(part.image.size))
        picture.cover((left, top, left + part.image.width, top + part.image.height))
        picture.add(part, left, top)

    def _paste_pictograms(self, rng: random.Random, picture: Picture) -> None:
        """Paste pictograms with names unrelated to those in the picture."""
        canvas = Canvas(picture.image)
        for _ in range(rng.randint(1, 3)):
            thing = rng.choice(self.things)
            if any(self.names.related(wording, name) for wording in thing.wordings for name in picture.shown):
                continue
            side = round(min(picture.image.size) * rng.uniform(0.12, 0.45))
            canvas.place(rng, thing, draw_sprite(rng, thing, side, own=0.7))
        for thing, mask in zip(canvas.things, canvas.masks, strict=True):
            x1, y1, x2, y2 = bounds_of(mask)
            pasted = (float(x1), float(y1), float(x2), float(y2))
            picture.cover(pasted)
            picture.boxes.append((thing.name, pasted))

    def _prompt(self, rng: random.Random, picture: Picture) -> tuple[list[str], dict[str, str]]:
        """(shuffled phrases, {name in the picture: its phrase}); the dictionary is empty if the prompt names only absent things."""
        names = list(dict.fromkeys(name for name, _ in picture.boxes))
        absent = self._absent(rng, picture)
        everything = rng.random() < self.all_names and bool(picture.everywhere)
        if absent and (not names or rng.random() < self.prompts.unanswered):
            phrase_of: dict[str, str] = {}
        else:
            phrase_of = self._phrases(rng, names, plain=everything)
        prompt = list(dict.fromkeys(phrase_of.values()))
        room = self.prompts.room(prompt)
        wanted = (
            len(absent) if everything else rng.randint(min(len(absent), 0 if prompt else 1), self.prompts.negatives)
        )
        if everything:  # evaluation asks for these names, too
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
        """Certainly absent names, shuffled; at most `FANTASTIC` are of things that no photograph shows, which teach little."""
        absent = list(self.absences.of(picture.everywhere, picture.shown))
        nowhere = [name for name in absent if name in self.absences.nowhere]
        kept = set(rng.sample(nowhere, min(FANTASTIC, len(nowhere))))
        absent = [name for name in absent if name in kept or name not in self.absences.nowhere]
        rng.shuffle(absent)
        return absent

    def _phrases(self, rng: random.Random, names: Collection[str], plain: bool) -> dict[str, str]:
        """{name: its phrase}: the name, a synonym, or a hypernym that replaces all names that it covers; `plain`: the name."""
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
    """{True: landscape records, False: portrait records}; square pictures are in both lists."""
    return {
        True: [record for record in records if record.width >= record.height],
        False: [record for record in records if record.width <= record.height],
    }


def _view(rng: random.Random, photographs: PhotographSet, record: ImageRecord, size: tuple[int, int]) -> Picture:
    """A crop with about the canvas's proportions, resized to the canvas; half of the crops are as large as possible."""
    scale = min(record.width / size[0], record.height / size[1])
    if rng.random() < 0.5:
        scale *= rng.uniform(0.3, 1.0) ** 0.5
    stretch = rng.uniform(0.85, 1.0)
    width, height = scale * size[0], scale * size[1]
    width, height = (width * stretch, height) if rng.random() < 0.5 else (width, height * stretch)
    width, height = min(width, record.width), min(height, record.height)  # rounding may exceed the photograph
    left, top = rng.uniform(0, record.width - width), rng.uniform(0, record.height - height)
    return _crop(photographs, record, (left, top, left + width, top + height), size, mirrored=rng.random() < 0.5)


def _cut_out(rng: random.Random, photographs: PhotographSet, record: ImageRecord, side: int) -> Picture | None:
    """One object of a photograph with a margin around it; None if the photograph has no object that is large enough.

    Args:
        side: shorter side in pixels of the picture into which the cut-out goes; it gives the size of the cut-out.
    """
    large = [box for box in record.boxes if not is_crowd(box) and min(box.x2 - box.x1, box.y2 - box.y1) >= CUT_OUT]
    if not large:
        return None
    box = rng.choice(large)
    margin = 0.1 * max(box.x2 - box.x1, box.y2 - box.y1)
    x1, y1 = max(box.x1 - margin, 0.0), max(box.y1 - margin, 0.0)
    x2, y2 = min(box.x2 + margin, float(record.width)), min(box.y2 + margin, float(record.height))
    scale = side * rng.uniform(0.2, 0.6) / max(x2 - x1, y2 - y1)
    size = (max(round((x2 - x1) * scale), SMALLEST), max(round((y2 - y1) * scale), SMALLEST))
    return _crop(photographs, record, (x1, y1, x2, y2), size, mirrored=rng.random() < 0.5)


def _crop(
    photographs: PhotographSet, record: ImageRecord, area: Box, size: tuple[int, int], *, mirrored: bool
) -> Picture:
    """An area (xyxy in pixels) of a photograph, resized to (width, height); things that it cuts off move to `cut`."""
    image = open_image(record, photographs.images).resize(size, Image.Resampling.BILINEAR, area)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top, width, height = area[0], area[1], area[2] - area[0], area[3] - area[1]
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


def _soft_edges(size: tuple[int, int]) -> Image.Image:
    """A mask for pasting: opaque inside, transparent towards the edges, so that no sharp rectangle gives the cut-out away."""
    edge = max(min(size) // 16, 1)
    mask = Image.new("L", size, 0)
    mask.paste(255, (edge, edge, size[0] - edge, size[1] - edge))
    return mask.filter(ImageFilter.BoxBlur(edge))


def _recoloured(rng: random.Random, image: Image.Image) -> Image.Image:
    """Vary brightness, contrast and saturation of four pictures in five; a few of them become grey."""
    if rng.random() < 0.2:
        return image
    for kind, low, high in ((ImageEnhance.Brightness, 0.6, 1.4), (ImageEnhance.Contrast, 0.6, 1.4)):
        image = kind(image).enhance(rng.uniform(low, high))
    saturation = 0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.5)
    return ImageEnhance.Color(image).enhance(saturation)


def _covered(box: Box, other: Box) -> float:
    """The share of a box's area that lies inside another box."""
    width = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
    height = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))
