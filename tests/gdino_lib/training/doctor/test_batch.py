"""The batch that the doctor draws and learns from."""

import torch
from made_up_detectors import COLOURS
from squares_to_learn import RECORDS, SQUARES, examine, one_problem

import data_prep
from data_prep import Box, ImageRecord
from gdino_lib.data.transforms import TrainingTransform


class NotANumber(TrainingTransform):
    def __call__(self, image, boxes, phrases, rng):
        result = super().__call__(image, boxes, phrases, rng)
        if image.getpixel((SQUARES[2][0].x1, SQUARES[2][0].y1)) == COLOURS[SQUARES[2][0].label]:
            result.pixel_values[0, 3, 3] = torch.nan
        return result


def test_pixels_that_are_not_finite(folder, tmp_path):
    records = data_prep.Dataset(RECORDS.images[2:4])
    report = examine(records, folder, tmp_path, transform=NotANumber(64, 128), overfit=True)
    assert one_problem(report) == "2.png: its pixels are not finite (NaN or infinity)"
    assert report.overfitting is None


def test_images_with_few_boxes_are_preferred(folder, tmp_path):
    crowd = tuple(Box("red square", 1, 1, 20 + n, 30) for n in range(20))
    records = data_prep.Dataset((*(ImageRecord(f"{n}.png", 96, 72, crowd) for n in (0, 1)), *RECORDS.images[2:]))
    assert {name for name, _ in examine(records, folder, tmp_path).prompts} == {"2.png", "3.png", "4.png", "5.png"}
