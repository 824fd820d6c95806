"""All measures together, for a perfect detector and for a real one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_detectors import COLOURS, ColourDetector, captions
from peers import SMALL, randomise

import data_prep
import gdino_lib as gd
from gdino_lib.evaluation.evaluate import evaluate


def test_with_a_perfect_detector(dataset, folder):
    mixed = replace(dataset, images=dataset.images + captions(dataset))
    result = evaluate(ColourDetector(), mixed, folder)
    assert result.precision.ap == 1
    assert result.referring.accuracy == 1
    assert result.absent[0].boxes == 0
    assert result.counts[0].ratio == 1
    assert result.thresholds.classes == dict.fromkeys(COLOURS, float(np.float32(0.9)))
    assert result.calibration.error == pytest.approx(0.1)
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    only = evaluate(ColourDetector(), data_prep.Dataset(captions(dataset)), folder)
    assert only.precision is None
    assert only.absent == ()
    assert evaluate(ColourDetector(), dataset, folder, absent=[]).absent == ()


def test_with_a_real_detector(dataset, folder):
    config = SMALL.replace(short_side=64, long_side=128, encoder_layers=1, decoder_layers=1)
    model = gd.GroundingDINO(config)
    randomise(model)
    result = evaluate(
        gd.Detector(model), replace(dataset, images=dataset.images[:2] + captions(dataset)[:2]), folder, batch_size=2
    )
    assert 0 <= result.precision.ap <= 1
    assert result.counts[0].objects == 3
    assert result.referring.phrases == 3
