"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that each refer to one object of a COCO 2014 image.

A set is a folder with two files. `instances.json` is a COCO file. The refs file, such as `refs(unc).p`, is a pickle of a list
with a dictionary for each object that is referred to; `plain_pickle` reads it without running anything::

    {"ref_id": 0, "ann_id": 1719310, "image_id": 581857, "category_id": 1, "split": "train", "sent_ids": [0, 1],
     "file_name": "COCO_train2014_000000581857_16.jpg",
     "sentences": [{"sent_id": 0, "sent": "the lady with the blue shirt", "raw": ..., "tokens": [...]}, ...]}

`ann_id` is the id of the object's annotation in `instances.json`. `file_name` ends in the number of the object and names no
file; the image's file is named in `instances.json`.

Sources: Kazemzadeh et al., ReferItGame, EMNLP 2014; Yu et al., arXiv 1608.00272; Mao et al., arXiv 1511.02283; the files of
https://github.com/lichengunc/refer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.formats import coco, plain_pickle
from data_prep.formats.fields import located, take, take_objects
from data_prep.records import Box, Dataset, ImageRecord


def read(refs: Path | str, instances: Path | str, split: str) -> Dataset:
    """Read the expressions of one split.

    Args:
        refs: the pickle, such as `refs(unc).p`.
        instances: the COCO file `instances.json` beside it.
        split: "train", "val", "test", "testA" or "testB"; what there is depends on the refs file.

    Returns:
        A grounding record for each expression, in the order of the refs file: the caption is the expression (`sent`, in
        lower case and without punctuation), and so is the label of its one box. `extra` has `ref_id` and `sent_id`.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: a file of another form; no expression of this split; a reference to an object that is not there; an
            expression that comes twice.
    """
    refs = Path(refs)
    entries = plain_pickle.read(refs)
    with located(refs):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"expected a list of dictionaries, got {type(entries).__name__}")
        splits = sorted({take(entry, "split", str) for entry in entries})
        if split not in splits:
            raise ValueError(f"expected a split of {', '.join(splits) or 'none'}, got {split!r}")
    objects = {
        box.extra["id"]: (record, box)
        for record in coco.read(instances).images
        for box in record.boxes
        if "id" in box.extra
    }
    records: list[ImageRecord] = []
    seen: set[int] = set()
    with located(refs):
        for entry in entries:
            if entry["split"] == split:
                with located(f"ref {entry.get('ref_id')!r:.40}"):
                    records += _expressions(entry, objects, seen)
    return Dataset(tuple(records))


def _expressions(
    entry: Mapping[str, Any], objects: Mapping[Any, tuple[ImageRecord, Box]], seen: set[int]
) -> Iterator[ImageRecord]:
    """The records of one object; `seen` takes the ids of their expressions."""
    ann_id, image_id = take(entry, "ann_id", int), take(entry, "image_id", int)
    image, box = objects.get(ann_id, (None, None))
    if image is None or box is None:
        raise ValueError(f"expected 'ann_id' to be one of {len(objects)} ids of instances.json, got {ann_id}")
    if image.extra.get("id") != image_id:
        raise ValueError(
            f"the object {ann_id} is of image {image.extra.get('id')!r} there, and of image {image_id} here"
        )
    for sentence in take_objects(entry, "sentences"):
        sent_id, text = take(sentence, "sent_id", int), take(sentence, "sent", str)
        if sent_id in seen:
            raise ValueError(f"expected each 'sent_id' once, got {sent_id} more than once")
        seen.add(sent_id)
        extra = {"ref_id": entry.get("ref_id"), "sent_id": sent_id}
        yield ImageRecord(image.file_name, image.width, image.height, (Box(text, *box.xyxy),), text, extra)
