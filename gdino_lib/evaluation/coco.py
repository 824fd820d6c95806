"""Detect in a whole data set; COCO-style average precision of what was found.

Nothing here knows COCO's ids: images go by their file names and classes by their names, and ids 1, 2, ... are given where
pycocotools wants them. So an id that does not fit is an error, not a precision of 0.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import data_prep
from data_prep import ImageRecord
from data_prep.audit import repair
from gdino_lib.data.records import check_distinct, class_names, is_crowd, open_image

if TYPE_CHECKING:
    import supervision as sv

    from gdino_lib.detect.detector import Detector

MAX_DETECTIONS = (1, 10, 100)  # per image and class: COCO's
KEPT = 300  # pairs of a box and a class that are evaluated per image, as in the official evaluation
MARGIN = 1.0  # pixels by which a box may leave its image, before it is taken for one of another image


@dataclass(frozen=True)
class ClassPrecision:
    """Average precision of one class.

    Attributes:
        name: of the class.
        objects: how many there are, without crowds.
        ap, ap50: in 0..1; None where there is no object.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's measures, in 0..1, over all classes that have objects; None where there is no object of that size.

    Attributes:
        ap: over the overlaps 0.50, 0.55, ..., 0.95; ap50, ap75: at one of them.
        ap_small, ap_medium, ap_large: of objects below 32 x 32, below 96 x 96, and larger.
        recall: mean greatest recall with 100 boxes per image and class.
        images, objects: how many were looked at; crowds do not count.
        classes: one entry a class, in the order of `class_names`, those without objects as well.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    recall: float
    images: int
    objects: int
    classes: tuple[ClassPrecision, ...]

    @property
    def without_objects(self) -> tuple[str, ...]:
        """The classes that have none, and therefore no precision."""
        return tuple(entry.name for entry in self.classes if not entry.objects)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's values."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return own | {"classes": [vars(entry) for entry in self.classes], "without_objects": list(self.without_objects)}


def average_precision(dataset: data_prep.Dataset, found: Mapping[str, sv.Detections]) -> AveragePrecision:
    """COCO's average precision by pycocotools.

    Args:
        dataset: the truth; its detection records (those without a caption) count, their boxes repaired as
            `data_prep.audit` does.
        found: for each of their file names the boxes found, as `detect_all` gives them.

    Raises:
        ValueError: an image without result or a result without image; a class id that is not one, or whose
            `data["class_name"]` is another class; boxes without score, not finite, or outside their image; no object at
            all.
        ModuleNotFoundError: pycocotools is not installed.
    """
    try:
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "average precision needs pycocotools, which is not installed: pip install 'gdino_lib[train]'"
        ) from None

    records, classes = detection_records(dataset), class_names(dataset)
    check_found(records, classes, found)
    counts = dict.fromkeys(classes, 0)
    for record in records:
        for box in record.boxes:
            counts[box.label] += not is_crowd(box)
    if not any(counts.values()):
        raise ValueError(f"no objects in {len(records)} images; expected at least one to measure precision by")

    images = [{"id": n, "width": r.width, "height": r.height} for n, r in enumerate(records, start=1)]
    number_of = {name: number for number, name in enumerate(classes, start=1)}
    truth = [
        _annotation(number, number_of[box.label], box.xyxy, box.extra.get("area"), is_crowd(box))
        for number, record in enumerate(records, start=1)
        for box in record.boxes
    ]
    results = [
        _annotation(number, int(class_id) + 1, xyxy) | {"score": float(score)}
        for number, record in enumerate(records, start=1)
        for xyxy, class_id, score in _rows(found[record.file_name])
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(images, classes, truth), _coco(images, classes, results), "bbox")
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, classes) of all sizes, 100 boxes
    ap, ap50, ap75, small, medium, large = (_known(value) for value in evaluation.stats[:6])
    return AveragePrecision(
        ap,
        ap50,
        ap75,
        small,
        medium,
        large,
        _known(evaluation.stats[8]),
        len(records),
        sum(counts.values()),
        tuple(
            ClassPrecision(name, counts[name], _known(precision[:, :, k].mean()), _known(precision[0, :, k].mean()))
            for k, name in enumerate(classes)
        ),
    )


def detect_all(
    detector: Detector,
    dataset: data_prep.Dataset,
    images: Path | str,
    *,
    phrases: Sequence[str] | None = None,
    negatives: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, sv.Detections]:
    """Ask every detection record for all classes, and keep the 300 surest pairs of a box and a class, however unsure.

    So a box counts once for each class that it may be, as in the official evaluation. A user sees its best class alone,
    which `data["best"]` tells: `match_all` and all that builds upon it go by that.

    Args:
        images: folder that the file names are relative to.
        phrases: the classes; None: those of `dataset`. For a part of a data set: those of the whole.
        negatives: ask an image for its own classes and so many others, drawn by `seed` and file name; None: for all. With
            hundreds of classes that is faster, and easier: there is less to mistake a thing for.
        batch_size: images read ahead and given to the detector at once.

    Returns:
        For each file name the boxes found; `class_id` is the index in `phrases`.

    Raises:
        ImageError: an image that cannot be used, named.
        ValueError: no classes, or two that are the same words to the model; two records for one image.
    """
    records = detection_records(dataset)
    names = list(class_names(dataset) if phrases is None else phrases)
    check_distinct(names)  # the detector would report both as the first
    found: dict[str, sv.Detections] = {}
    with progress_bar(len(records), "detecting", progress) as bar:
        for part, pictures in read_ahead(records, images, batch_size):
            prompts = names if negatives is None else [_prompt(record, names, negatives, seed) for record in part]
            options = {"box_threshold": 0.0, "text_threshold": 0.0, "top_k": KEPT, "every_phrase": True}
            results = detector(pictures, prompts, **options)
            for record, result in zip(part, results, strict=True):
                if negatives is not None and len(result):
                    result.class_id = np.array([names.index(name) for name in result.data["class_name"]])
                found[record.file_name] = result
            bar.update(len(part))
    return found


def _prompt(record: ImageRecord, names: Sequence[str], negatives: int, seed: int) -> list[str]:
    """The record's own classes and some others, at least one of all, in an order that says nothing."""
    own = {box.label for box in record.boxes}
    others = [name for name in names if name not in own]
    drawn = random.Random(f"{seed}/{record.file_name}").sample(
        others, min(negatives if own else max(negatives, 1), len(others))
    )
    return sorted([*own, *drawn])


def detection_records(dataset: data_prep.Dataset) -> list[ImageRecord]:
    """The records without a caption, repaired.

    Raises:
        ValueError: two of them for one image.
    """
    records = [repair(record)[0] for record in dataset.images if record.caption is None]
    seen: set[str] = set()
    for record in records:
        if record.file_name in seen:
            raise ValueError(f"two records for the image {record.file_name!r}; expected one with all its boxes")
        seen.add(record.file_name)
    return records


def check_found(records: Sequence[ImageRecord], classes: Sequence[str], found: Mapping[str, sv.Detections]) -> None:
    """Refuse results that are not about these images and classes.

    Raises:
        ValueError: see `average_precision`.
    """
    names = {record.file_name for record in records}
    for what, kind in (
        (names - found.keys(), "images without result"),
        (found.keys() - names, "results without image"),
    ):
        if what:
            raise ValueError(f"{len(what)} {kind}, the first is {min(what)!r}; expected one result for each image")
    for record in records:
        _check_detections(record, classes, found[record.file_name])
    largest = max((float(result.xyxy.max()) for result in found.values() if len(result)), default=None)
    if largest is not None and largest <= 1:
        raise ValueError(f"no box reaches beyond {largest:.3f}; expected xyxy in pixels, not in 0..1")


def read_ahead(
    records: Sequence[ImageRecord], images: Path | str, batch_size: int
) -> Iterator[tuple[Sequence[ImageRecord], list[Image.Image]]]:
    """Groups of records with their images; the next group is read while the caller works on this one.

    Raises:
        ImageError: an image that cannot be used.
    """
    parts = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    with ThreadPoolExecutor(4) as pool:  # Pillow lets go of the interpreter's lock while it decodes
        coming = None
        for number, part in enumerate(parts):
            reading = coming or _submit(pool, part, images)
            coming = _submit(pool, parts[number + 1], images) if number + 1 < len(parts) else None
            yield part, [image.result() for image in reading]


def progress_bar(total: int, title: str, progress: bool) -> tqdm:
    """A bar of images, on a terminal and after a second."""
    return tqdm(total=total, desc=title, unit=" images", delay=1, disable=None if progress else True)


def _submit(pool: ThreadPoolExecutor, part: Sequence[ImageRecord], images: Path | str) -> list[Future[Image.Image]]:
    return [pool.submit(open_image, record, images) for record in part]


def _check_detections(record: ImageRecord, classes: Sequence[str], result: sv.Detections) -> None:
    place = f"boxes found in {record.file_name!r}"
    if not len(result):
        return
    if result.class_id is None or result.confidence is None:
        raise ValueError(f"{place}: expected a class_id and a confidence each, got none")
    wrong = (result.class_id < 0) | (result.class_id >= len(classes))
    if wrong.any():
        raise ValueError(f"{place}: expected class ids of 0 to {len(classes) - 1}, got {result.class_id[wrong][0]}")
    names = result.data.get("class_name", ())
    for class_id, name in zip(result.class_id, names, strict=len(names) > 0):
        if classes[class_id] != name:
            raise ValueError(
                f"{place}: class id {class_id} is {classes[class_id]!r} here and {str(name)!r} in the result"
            )
    if not (np.isfinite(result.xyxy).all() and np.isfinite(result.confidence).all()):
        raise ValueError(f"{place}: expected finite boxes and scores")
    limits = np.array([record.width, record.height] * 2) + MARGIN
    if (result.xyxy < -MARGIN).any() or (result.xyxy > limits).any():
        outside = result.xyxy[((result.xyxy < -MARGIN) | (result.xyxy > limits)).any(1)][0].round(1).tolist()
        raise ValueError(f"{place}: {outside} is outside the image, which has {record.width} x {record.height} pixels")


def _rows(result: sv.Detections) -> Iterable[tuple[np.ndarray, int, float]]:
    return zip(result.xyxy, result.class_id, result.confidence, strict=True) if len(result) else ()


def _annotation(
    image: int, category: int, xyxy: Sequence[float], area: Any = None, crowd: bool = False
) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    measured = isinstance(area, int | float) and area > 0  # COCO's: that of the object's outline
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(area) if measured else (x2 - x1) * (y2 - y1),
        "iscrowd": int(crowd),
    }


def _coco(images: list[dict], classes: Sequence[str], annotations: list[dict]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    # pycocotools takes an object with id 0 for none
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    coco.dataset = {"images": images, "annotations": numbered, "categories": categories}
    coco.createIndex()
    return coco


def _known(value: float) -> float | None:
    """Pycocotools says -1 where there is nothing to measure."""
    return None if value < 0 else float(value)
