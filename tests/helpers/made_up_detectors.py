"""Pictures of coloured squares, and stand-in detectors without a model, from perfect to blind."""

from dataclasses import replace

import numpy as np
import supervision as sv
from PIL import Image

from data_prep import Box, ImageRecord

COLOURS = {"red square": (220, 30, 30), "green square": (30, 200, 40), "blue_square": (40, 60, 230)}
SQUARES = {"red square": (5, 5, 30, 30), "green square": (40, 10, 70, 40), "blue_square": (60, 45, 95, 75)}
SHOWN = [["red square"], ["red square", "green square"], ["blue_square"], ["green square", "blue_square"], []]


def box(label, xyxy, **extra):
    return Box(label, *xyxy, extra=extra)


RECORDS = tuple(
    ImageRecord(f"{number}.png", 100, 80, tuple(box(label, SQUARES[label]) for label in labels))
    for number, labels in enumerate(SHOWN)
)


def draw(records, folder):
    """Draw the pictures of records whose labels are names in `COLOURS`."""
    for record in records:
        image = Image.new("RGB", (record.width, record.height), (128, 128, 128))
        for square in record.boxes:
            image.paste(COLOURS[square.label], square.xyxy)
        image.save(folder / record.file_name)


def detections(*rows, classes=tuple(COLOURS)):
    """Detections from rows of (class name, xyxy, score)."""
    names, boxes, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return sv.Detections(
        xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        confidence=np.array(scores, dtype=np.float32),
        class_id=np.array([classes.index(name) for name in names], dtype=np.int64),
        data={"class_name": np.array(names, dtype=str)},
    )


def unnamed(class_id):
    """Detections of one box without the name of its class."""
    return sv.Detections(
        xyxy=np.array([[0, 0, 9, 9]], np.float32), confidence=np.ones(1, np.float32), class_id=np.array([class_id])
    )


def perfect(dataset):
    """{file name: detections of a perfect detector}."""
    return {record.file_name: detections(*[(b.label, b.xyxy, 0.9) for b in record.boxes]) for record in dataset.images}


def captions(dataset):
    """The same records as grounding records: with captions, and phrases as labels."""
    return tuple(
        replace(r, caption="squares", boxes=tuple(replace(b, label=f"the {b.label}") for b in r.boxes))
        for r in dataset.images
    )


class ColourDetector:
    """Finds every square by its colour, with the score 0.9."""

    def __call__(self, images, phrases, box_threshold=0.35, text_threshold=0.25, nms_iou=None, top_k=None, **_):
        nested = phrases if isinstance(phrases[0], list) else [phrases] * len(images)
        return [self.find(image, own) for image, own in zip(images, nested, strict=True)]

    def find(self, image, phrases):
        pixels = np.asarray(image)
        rows = []
        for phrase in phrases:
            ys, xs = np.nonzero((pixels == COLOURS.get(phrase, (1, 2, 3))).all(-1))
            if len(xs):
                rows.append((phrase, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), 0.9))
        return detections(*rows, classes=phrases)

    def encode_image(self, image):
        return image

    def refer(self, image, phrase):
        return self.find(image, [phrase.removeprefix("the ")])


class BlindDetector(ColourDetector):
    def find(self, image, phrases):
        return detections()


class Hallucinating(ColourDetector):
    """Finds every phrase in every picture."""

    def find(self, image, phrases):
        return detections(*[(phrase, (0, 0, 20, 20), 0.6) for phrase in phrases], classes=phrases)
