"""Torch data sets over the records of `data_prep`. A sample is an image, its prompt and its target boxes.

All random choices of a sample (flip, scale, crop, absent classes, order of the phrases) depend on the seed, the epoch and
the sample's index alone. The number of workers or processes does not change them, and a resumed run makes the same choices.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import data
from torchvision.tv_tensors import BoundingBoxes

import data_prep
from data_prep import ImageRecord
from data_prep.audit import first_records, repair_all
from data_prep.findings import Finding
from data_prep.formats.registry import format_of, of_split
from gdino_lib.data.records import (
    check_distinct,
    check_files,
    check_single,
    class_names,
    open_image,
    phrases_merged,
    pictures_digest,
    single_objects,
)
from gdino_lib.data.targets import Target
from gdino_lib.data.transforms import Transform, pixel_boxes
from gdino_lib.messages import shortened
from gdino_lib.prompts import word_pieces

FRAME = 2  # tokens of a prompt besides its phrases: [CLS] and [SEP]


class Sample(NamedTuple):
    """One image to learn from.

    Attributes:
        pixel_values: float32 [3, H, W], normalised.
        prompt: the phrases to ask for, among them those of the target; no two of them tokenise alike.
        target: the boxes, and for each box its phrase of the prompt.
    """

    pixel_values: Tensor
    prompt: list[str]
    target: Target


class SeededDataset(data.Dataset[Sample], ABC):
    """A data set to train on, whose random choices depend on the seed, the epoch and the index alone.

    Attributes:
        seed: seed of all random choices.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        # shared memory: workers that live on from epoch to epoch see the change
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample of this epoch."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the records and of all settings that decide the samples; a run resumes only with the same one."""

    def sample_sizes(self) -> list[tuple[int, int]] | None:
        """(width, height) of each sample of this epoch, known without its image; None: batches need no grouping by size."""
        return None

    @property
    @abstractmethod
    def pictures_digest(self) -> str | None:
        """See `gdino_lib.data.records.pictures_digest`; None for a data set that reads no picture from a file."""

    @property
    def epoch(self) -> int:
        """The current epoch, which decides the random choices of `dataset[index]`."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch before a loader's next pass; the loader's workers follow."""
        self._epoch.fill_(epoch)


class GroundingDataset(SeededDataset):
    """Images, prompts and targets from records of any format; detection and grounding records may be mixed.

    The prompt of a detection record names the classes that the picture shows and sampled classes that it does not show,
    letter for letter and shuffled. Classes that the picture shows are never left out of the prompt; absent classes are left
    out where `max_tokens` leaves no room. The prompt of a grounding record holds the phrases of its regions, shuffled;
    phrases that tokenise alike are one. It holds no other phrases, because a caption does not tell what its picture lacks.

    A class counts as absent from a picture only if `everywhere` has its name: a set that labels the dogs in some of its
    pictures cannot tell that another picture shows no dog.

    Boxes are repaired as `data_prep.audit` repairs them: clipped to their images, and dropped if nothing is left. Crowds
    (COCO's `iscrowd`) are no targets, but their classes do not count as absent. If a crop cuts off all boxes of a class, the
    prompt does not name the class.

    Args:
        records: as read from CSV, COCO or ODVG.
        images: folder that the file names are relative to.
        transform: `TrainingTransform` or `EvaluationTransform`.
        negatives: largest number of absent classes in a prompt; None: all that fit. The prompt of a picture without boxes
            has at least one.
        everywhere: the classes that are labelled in every picture that shows them; None: all classes.
        seed: seed of all random choices.
        max_tokens: largest length of a prompt in tokens, [CLS] and [SEP] included; the model's `config.max_tokens`.

    Attributes:
        classes: names of the detection classes: the records' categories, then other labels, sorted.
        records: the records that are used, repaired.
        findings: the findings of the repair.

    Raises:
        FileNotFoundError: the folder or an image is missing.
        ValueError: nothing to learn from; a name in `everywhere` that is no class; two classes that tokenise alike; two
            detection records for one image; a label without words, or too long for any prompt; a record whose own phrases
            do not fit into one prompt.

    Warns:
        UserWarning: repaired boxes; records with nothing to ask for (such as a caption without regions), which are left out.
    """

    def __init__(
        self,
        records: data_prep.Dataset,
        images: Path | str,
        transform: Transform,
        *,
        negatives: int | None = None,
        everywhere: Collection[str] | None = None,
        seed: int = 0,
        max_tokens: int = 256,
    ) -> None:
        if negatives is not None and negatives < 0:
            raise ValueError(f"negatives: expected a number of classes or None, got {negatives}")
        self.images = Path(images)
        self.transform = transform
        super().__init__(seed)
        self.negatives = negatives
        self.max_tokens = max_tokens
        self.classes = class_names(records)
        check_distinct(self.classes)
        check_single(records)
        self.everywhere = _labelled_everywhere(everywhere, self.classes)
        self._lengths = _prompt_lengths(self.classes, max_tokens)
        repaired, self.findings = repair_all((record.file_name, record) for record in records.images)
        if changes := [finding for finding in self.findings if finding.action != "kept"]:
            warnings.warn(f"boxes were repaired: {_summary(changes)}", stacklevel=2)
        self.records = self._usable([phrases_merged(record) for record in repaired])
        check_files(self.records, self.images)

    @property
    def fingerprint(self) -> str:
        """See `SeededDataset`."""
        digest = hashlib.sha256()
        drawn = (self.classes, self.everywhere, self.transform, self.negatives, self.seed, self.max_tokens)
        for each in (*drawn, *self.records):
            digest.update(repr(each).encode())
        return digest.hexdigest()

    @property
    def pictures_digest(self) -> str:
        """See `gdino_lib.data.records.pictures_digest`."""
        return pictures_digest(self.records, self.images)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """The sample of that index in the current epoch; see `sample`."""
        return self.sample(index, self.epoch)

    def sample_sizes(self) -> list[tuple[int, int]]:
        """See `SeededDataset`."""
        return [self.size(index, self.epoch) for index in range(len(self))]

    def sample(self, index: int, draw: int) -> Sample:
        """A picture, its prompt and its boxes; the same `draw` makes the same random choices.

        Raises:
            ImageError: the image cannot be decoded, or its size is not the record's.
        """
        record = self.records[index]
        rng, labels, corners = self._begin(index, draw)
        image = open_image(record, self.images)
        pixels, relative, kept = self.transform(image, corners, labels, rng)
        labels = [labels[place] for place in kept.tolist()]
        prompt = self._prompt(record, labels, rng)
        phrases = torch.tensor([prompt.index(label) for label in labels], dtype=torch.int64)
        return Sample(pixels, prompt, Target(relative, phrases, record.file_name))

    def size(self, index: int, draw: int) -> tuple[int, int]:
        """(width, height) of the image that `sample` gives for the same arguments."""
        rng, labels, corners = self._begin(index, draw)
        return self.transform.size(corners, labels, rng)

    def _begin(self, index: int, draw: int) -> tuple[random.Random, list[str], BoundingBoxes]:
        """(the random generator of a draw; the labels of the picture's single objects; their boxes)."""
        record = self.records[index]
        boxes = single_objects(record)
        corners = torch.tensor([box.xyxy for box in boxes], dtype=torch.float64).reshape(-1, 4)
        rng = random.Random(f"{self.seed}/{draw}/{index}")
        return rng, [box.label for box in boxes], pixel_boxes(corners, record.width, record.height)

    def _prompt(self, record: ImageRecord, labels: Sequence[str], rng: random.Random) -> list[str]:
        prompt = list(dict.fromkeys(labels))
        if record.caption is None:
            absent = self._absent(record)
            rng.shuffle(absent)
            wanted = len(absent) if self.negatives is None else self.negatives
            if not prompt:
                wanted = max(wanted, 1)
            room = self.max_tokens - self._tokens(prompt)
            for name in absent:
                if wanted and self._lengths[name] <= room:
                    prompt.append(name)
                    room -= self._lengths[name]
                    wanted -= 1
        rng.shuffle(prompt)
        return prompt

    def _absent(self, record: ImageRecord) -> list[str]:
        shown = {box.label for box in record.boxes}
        return [name for name in self.everywhere if name not in shown]

    def _tokens(self, phrases: Iterable[str]) -> int:
        return FRAME + sum(self._lengths[phrase] for phrase in phrases)

    def _usable(self, records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
        """The records with something to ask for; all phrases of a record must fit into one prompt."""
        usable, left_out, too_long = [], [], []
        for record in records:
            labels = {box.label for box in single_objects(record)}
            self._lengths |= _prompt_lengths(labels - self._lengths.keys(), self.max_tokens)
            if self._tokens(labels) > self.max_tokens:
                too_long.append((record.file_name, len(labels), self._tokens(labels)))
            if labels or (record.caption is None and self._absent(record)):
                usable.append(record)
            else:
                left_out.append(record.file_name)
        if too_long:
            name, count, tokens = too_long[0]
            others = f"; {len(too_long) - 1} more images have too many" if len(too_long) > 1 else ""
            raise ValueError(
                f"{name!r}: the {count} phrases that it shows have {tokens} tokens, expected at most {self.max_tokens}{others}"
            )
        if not usable:
            raise ValueError(f"nothing to learn from: none of {len(left_out)} records has a box or a class to ask for")
        if left_out:
            warnings.warn(
                f"records with neither a box nor an absent class to ask for are left out: {len(left_out)}, "
                f"the first is {left_out[0]!r}",
                stacklevel=3,
            )
        return tuple(usable)


def _labelled_everywhere(everywhere: Collection[str] | None, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that are labelled in every picture that shows them, in the order of `classes`.

    Raises:
        ValueError: a name in `everywhere` is no class.
    """
    if everywhere is None:
        return classes
    unknown = sorted(set(everywhere) - set(classes))
    if unknown:
        raise ValueError(f"everywhere: expected names of the classes {', '.join(classes)}, got {unknown[0]!r}")
    return tuple(name for name in classes if name in everywhere)


def read_records(path: Path | str, images: Path | str | None = None, split: str | None = None) -> data_prep.Dataset:
    """Read a data set of any format that `data_prep.formats.registry.format_of` knows, except a folder of Pascal VOC.

    Objects and images that cannot be used are left out with a warning, and so is a second detection record for an image.
    `python -m data_prep audit` lists all of them.

    Args:
        path: the file, or the folder of YOLO or labelme.
        images: folder of the images; needed for the formats that do not state image sizes.
        split: the part of a YOLO data set to keep, "train", "val" or "test"; None keeps all. Other formats have no parts.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: another suffix, a file that cannot be read at all, or no image of the split.
    """
    path = Path(path)
    format = format_of(path)
    if format.name == "voc":
        raise ValueError(f"{path}: convert a folder of Pascal VOC first, with `python -m data_prep voc-to-csv`")
    found: list[Finding] = []
    records, seconds = first_records(format.load(path, found, None if images is None else Path(images)))
    if faults := found + seconds:
        warnings.warn(f"{path}: {_summary(faults)}", stacklevel=2)
    if split is None or not format.has_splits:
        return records
    try:
        return of_split(records, split)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def image_folder(path: Path | str, images: Path | str | None = None) -> Path:
    """`images`, or the folder that the file names of the data set at `path` are relative to.

    Raises:
        ValueError: `images` is None, and the data set does not name its folder.
    """
    if images is not None:
        return Path(images)
    format = format_of(path)
    if format.image_folder is None:
        raise ValueError(f"{path} does not name the folder of its images; --images DIR is needed, too")
    return format.image_folder(Path(path))


def _summary(findings: Sequence[Finding]) -> str:
    """How many findings of each kind there are, and the first of them, in one line."""
    counts = ", ".join(f"{kind} ({count})" for kind, count in Counter(each.kind for each in findings).items())
    first = findings[0]
    where = first.file if first.object is None else f"{first.file}, object {first.object}"
    return (
        f"{counts}; the first is {where}: {first.detail} ({first.action}); `python -m data_prep audit` lists them all"
    )


def token_count(phrase: str) -> int:
    """How many tokens a phrase takes in a prompt, its closing "." included."""
    return len(word_pieces(phrase)) + 1


def _prompt_lengths(phrases: Iterable[str], max_tokens: int) -> dict[str, int]:
    """The `token_count` of each phrase.

    Raises:
        ValueError: a phrase without letters that the model can read, or too long for a prompt of its own.
    """
    lengths = {phrase: token_count(phrase) for phrase in phrases}
    for phrase, length in lengths.items():
        if length == 1:
            raise ValueError(f"the label {phrase!r} has no letters that the model can read")
        if length + FRAME > max_tokens:
            limit = max_tokens - FRAME - 1
            raise ValueError(f"the label {shortened(phrase)!r} has {length - 1} tokens, expected at most {limit}")
    return lengths
