"""Examine the data before training: records, image files, boxes, and the words of the classes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

import data_prep
from data_prep import ImageRecord
from data_prep.audit import audit, repair_all
from data_prep.findings import KINDS
from data_prep.pictures import search_images, undescribed
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.data.datasets import FRAME, GroundingDataset
from gdino_lib.data.records import ImageError, class_names, crowded_images, open_image, single_objects
from gdino_lib.data.transforms import Transform
from gdino_lib.images import resized_size
from gdino_lib.prompts import word_pieces
from gdino_lib.training.doctor.diagnosis import MAX_LISTED, Diagnosis, first_few

MIN_BOX_SIDE = 4  # pixels: half the side of a token of the finest level
FULL_PROMPT_SHARE = 0.9  # share of a prompt's tokens from which a warning is given


def examine_data(
    diagnosis: Diagnosis,
    records: data_prep.Dataset,
    images: Path | str,
    config: GroundingDINOConfig,
    progress: bool,
) -> data_prep.Dataset:
    """Note the faults of the data; return the records whose images can be used, with their boxes as they are."""
    repaired, audited = audit(records)
    diagnosis.classes = repaired.class_counts
    boxes = sum(diagnosis.classes.values())
    by_count = [f"{name} {count}" for name, count in Counter(diagnosis.classes).most_common()]
    classes = first_few(by_count, 12) or "no classes"
    diagnosis.add("ok", "data", f"{len(records.images)} images, {boxes} boxes: {classes}")

    usable = _examine_images(diagnosis, records, images, progress)
    for kind, count in audited.counts().items():
        if count:
            first = next(finding for finding in audited.findings if finding.kind == kind)
            number = f", object {first.object}" if first.object else ""
            where = f"{first.file}{number}: {first.detail} ({first.action})"
            diagnosis.add("warning", "data", f"{kind} ({count}): {KINDS[kind]}; the first is {where}")
    _examine_boxes(diagnosis, records, repaired, config)
    _examine_words(diagnosis, repaired, config.max_tokens)
    return usable


def build_dataset(
    diagnosis: Diagnosis,
    usable: data_prep.Dataset,
    images: Path | str,
    transform: Transform,
    seed: int,
    max_tokens: int,
) -> GroundingDataset | None:
    """Build the data set as training would; note a problem and return None if that fails."""
    repaired, _ = repair_all((record.file_name, record) for record in usable.images)  # `examine_data` noted the repairs
    usable = replace(usable, images=repaired)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = GroundingDataset(usable, images, transform, seed=seed, max_tokens=max_tokens)
        except (ValueError, OSError) as error:
            diagnosis.add("problem", "data", str(error))
            return None
    for warning in caught:
        diagnosis.add("warning", "data", str(warning.message))
    return dataset


def _examine_images(
    diagnosis: Diagnosis, records: data_prep.Dataset, images: Path | str, progress: bool
) -> data_prep.Dataset:
    """Open every image as training would; return the records of those that can be used."""
    folder = search_images(images)
    unnamed = undescribed(folder, [record.file_name for record in records.images], lambda _: "no record names it")
    if unnamed:
        few = first_few([finding.file for finding in unnamed])
        diagnosis.add("warning", "data", f"{len(unnamed)} images have no record and are not used: {few}")
    if folder.findings:
        few = first_few([f"{finding.file} ({finding.detail})" for finding in folder.findings])
        diagnosis.add("warning", "data", f"{len(folder.findings)} files among the images are not read: {few}")

    def fault(record: ImageRecord) -> str | None:
        try:
            open_image(record, images)
        except ImageError as error:
            return str(error)
        return None

    hidden = None if progress else True  # None: shown on terminals only
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock while it decodes
        results = pool.map(fault, records.images)
        faults = list(tqdm(results, "opening images", len(records.images), unit="image", delay=1, disable=hidden))
    texts = list(dict.fromkeys(text for text in faults if text))
    for text in texts[:MAX_LISTED]:
        diagnosis.add("problem", "data", text)
    if len(texts) > MAX_LISTED:
        diagnosis.add("problem", "data", f"{len(texts) - MAX_LISTED} more images cannot be used")
    usable = [record for record, text in zip(records.images, faults, strict=True) if text is None]
    return replace(records, images=tuple(usable))


def _examine_boxes(
    diagnosis: Diagnosis, records: data_prep.Dataset, repaired: data_prep.Dataset, config: GroundingDINOConfig
) -> None:
    without = [record.file_name for record in repaired.images if not record.boxes]
    if without:
        names = f"{len(without)} of {len(repaired.images)} images have no boxes ({first_few(without)})"
        diagnosis.add("warning", "data", f"{names}: right only if they show none of the classes")
    if text := crowded_images(repaired.images, config.queries):
        diagnosis.add("warning", "data", text)
    coordinates = [value for record in records.images for box in record.boxes for value in box.xyxy]
    if coordinates and max(coordinates) <= 1:
        diagnosis.add("problem", "data", "all coordinates are at most 1: fractions, where pixels were expected")
        return
    tiny, count = [], 0
    for record in repaired.images:
        width, height = resized_size(record.width, record.height, config.short_side, config.long_side)
        for box in single_objects(record):
            sides = (box.x2 - box.x1) * width / record.width, (box.y2 - box.y1) * height / record.height
            count += 1
            if min(sides) < MIN_BOX_SIDE:
                tiny.append(f"{record.file_name}: {box.label} of {sides[0]:.1f} x {sides[1]:.1f}")
    if tiny:
        share = f"{len(tiny)} of {count} boxes have a side below {MIN_BOX_SIDE} pixels"
        share += f" at the model's short side {config.short_side}"
        diagnosis.add("warning", "data", f"{share} and will hardly be found, the first is {tiny[0]}")


def _examine_words(diagnosis: Diagnosis, records: data_prep.Dataset, max_tokens: int) -> None:
    classes = class_names(records)
    unused = [name for name in classes if not diagnosis.classes.get(name)]
    if unused:
        text = f"{len(unused)} classes have no box, and are asked for as absent: {first_few(unused)}"
        diagnosis.add("warning", "data", text)
    if classes:
        tokens = _prompt_length(classes)
        diagnosis.add("ok", "data", f"the {len(classes)} classes take {tokens} of the {max_tokens} tokens of a prompt")
        if tokens > FULL_PROMPT_SHARE * max_tokens:
            rest = "each prompt has the classes that its image shows, and as many other classes as fit"
            text = f"all classes together ({tokens} tokens) fill a prompt ({max_tokens}): {rest}"
            diagnosis.add("warning", "data", text)
    lengths = [
        (record.file_name, _prompt_length({box.label for box in single_objects(record)})) for record in records.images
    ]
    file_name, longest = max(lengths, key=lambda entry: entry[1], default=("", 0))
    if longest > FULL_PROMPT_SHARE * max_tokens:
        text = f"the phrases that {file_name} shows take {longest} of the {max_tokens} tokens of a prompt"
        diagnosis.add("warning", "data", text)


def _prompt_length(phrases: Iterable[str]) -> int:
    """Tokens of a prompt of these phrases."""
    return FRAME + sum(len(word_pieces(phrase)) + 1 for phrase in phrases)
