"""The definitions of the measures, written out slowly: plain loops over boxes, one threshold and one image at a time.

`Picture`s are random, with ties of scores, objects of all sizes, and boxes that are nearly right.
"""

import random
from dataclasses import dataclass, field

import numpy as np
from made_up_detectors import detections

from data_prep import Box, ImageRecord

SIDE = 200
OVERLAPS = np.linspace(0.5, 0.95, 10).tolist()  # as in the official packages; 0.5 + 7 * 0.05 is more than 0.85
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


@dataclass
class Picture:
    """What a picture shows, as (class, xyxy, area), and what was found, as (class, xyxy, score)."""

    truth: list
    found: list
    absent: list = field(default_factory=list)
    open: list = field(default_factory=list)

    def record(self, name, ids=None):
        boxes = tuple(Box(label, *xyxy, extra={"area": area}) for label, xyxy, area in self.truth)
        lists = {"neg_category_ids": self.absent, "not_exhaustive_category_ids": self.open}
        extra = {key: [ids[label] for label in labels] for key, labels in lists.items()} if ids else {}
        return ImageRecord(name, SIDE, SIDE, boxes, extra=extra)

    def detections(self, classes):
        return detections(*self.found, classes=classes)


def pictures(seed, classes, count=6, ties=False, federated=False):
    rng = random.Random(seed)
    scores = [0.5, 0.625, 0.75] if ties else [number / 1024 for number in range(1, 1024)]
    made = []
    for _ in range(count):
        labels = rng.sample(classes, len(classes))
        shown, rest = labels[: rng.randint(0, 3)], labels[3:]
        picture = Picture([], [])
        for label in shown:
            for _ in range(rng.randint(1, 3)):
                x1, y1, x2, y2 = xyxy = _box(rng)
                picture.truth.append((label, xyxy, (x2 - x1) * (y2 - y1) * rng.choice([0.5, 0.75, 1])))
                if rng.random() < 0.8:
                    near = (x1, y1, max(x2 - rng.randint(0, 9), x1 + 1), max(y2 - rng.randint(0, 9), y1 + 1))
                    picture.found.append((label, near, rng.choice(scores)))
        picture.found += [(rng.choice(classes), _box(rng), rng.choice(scores)) for _ in range(rng.randint(0, 12))]
        if federated:
            picture.absent = rest[: rng.randint(0, 2)]
            picture.open = [label for label in shown if rng.random() < 0.4]
        made.append(picture)
    return made


def _box(rng):
    width, height = rng.randint(4, 150), rng.randint(4, 150)
    x, y = rng.randint(0, SIDE - width), rng.randint(0, SIDE - height)
    return x, y, x + width, y + height


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def precision(pictures, label, iou, area="all", federated=False, per_image=300, per_class=100):
    """Average precision of one class at one overlap; None without an object."""
    low, high = AREAS[area]
    objects, rows = 0, []
    for picture in pictures:
        found = sorted(picture.found, key=lambda box: -box[2])  # stable
        if federated:
            found = found[:per_image]
        found = [box for box in found if box[0] == label][: None if federated else per_class]
        truth = [(xyxy, low <= size <= high) for name, xyxy, size in picture.truth if name == label]
        if federated and not truth and label not in picture.absent:
            continue  # nobody knows whether the picture shows the class
        objects += sum(counts for _, counts in truth)
        free = list(range(len(truth)))
        for _, xyxy, score in found:
            fitting = [number for number in free if overlap(xyxy, truth[number][0]) >= iou]
            fitting = [number for number in fitting if truth[number][1]] or fitting  # objects of this size first
            if fitting:
                best = max(fitting, key=lambda number: (overlap(xyxy, truth[number][0]), number))
                free.remove(best)
                if truth[best][1]:
                    rows.append((score, True))
            else:
                size = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
                if low <= size <= high and not (federated and label in picture.open):
                    rows.append((score, False))
    if not objects:
        return None
    points, right = [], 0
    for number, (_, is_right) in enumerate(sorted(rows, key=lambda row: -row[0]), start=1):
        right += is_right
        points.append((right / objects, right / number))
    return float(np.mean([max((p for recall, p in points if recall >= least), default=0.0) for least in RECALLS]))


def mean_precision(pictures, classes, overlaps=OVERLAPS, **options):
    values = [precision(pictures, label, iou, **options) for label in classes for iou in overlaps]
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None
