"""A small model and pictures of coloured squares to train it on, and the doctor's report about them."""

import random

import torch
from made_up_detectors import COLOURS
from peers import SMALL

import data_prep
import gdino_lib as gd
from data_prep import Box, ImageRecord
from gdino_lib.training.doctor.check import check

CONFIG = SMALL.replace(
    short_side=64, long_side=128, swin_depths=(1, 1, 1, 1), encoder_layers=1, decoder_layers=2, logit_epsilon=1e-3
)


def model_of(config=CONFIG):
    torch.manual_seed(0)
    return gd.GroundingDINO(config)


def squares():
    rng = random.Random(0)
    for _ in range(6):
        boxes = []
        for place, label in enumerate(rng.sample(sorted(COLOURS), 2)):
            x, y, side = rng.randint(0, 12) + 48 * place, rng.randint(0, 36), rng.randint(20, 34)
            boxes.append(Box(label, x, y, x + side, y + side))
        yield tuple(boxes)


SQUARES = list(squares())
RECORDS = data_prep.Dataset(tuple(ImageRecord(f"{n}.png", 96, 72, boxes) for n, boxes in enumerate(SQUARES)))


def with_images(*images, categories=()):
    """The squares, and further images or other records in place of theirs."""
    names = {image.file_name for image in images}
    return data_prep.Dataset(
        (*(record for record in RECORDS.images if record.file_name not in names), *images), categories
    )


def examine(records, folder, out, model=None, **options):
    return check(model or model_of(), records, folder, out / "report", progress=False, **{"overfit": False} | options)


def texts(report, level, about=None):
    return [f.text for f in report.remarks if f.level == level and about in (None, f.about)]


def one_problem(report):
    """The text of the report's only problem; it must be one line."""
    assert len(report.problems) == 1, report.problems
    assert not report.is_healthy
    assert "\n" not in report.problems[0].text
    return report.problems[0].text


def warning(report, beginning):
    found = [text for text in texts(report, "warning") if text.startswith(beginning)]
    assert len(found) == 1, report.remarks
    return found[0]
