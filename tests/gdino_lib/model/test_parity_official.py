"""Logits and boxes equal those of the authors' own code, which `tests/helpers/official.py` recorded; it says how."""

import pytest
import torch
from official import CASES, CONFIGS, RECORD, inputs, ours
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def record():
    return load_file(RECORD)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_boxes_equal_the_recorded_ones(record, case):
    images, mask, prompts = inputs(case)
    with torch.no_grad():
        out = ours(CONFIGS[CASES[case][0]])(images, prompts, mask)
    torch.testing.assert_close(out.boxes, record[f"{case}/boxes"], rtol=0, atol=1e-4)
    torch.testing.assert_close(out.logits, record[f"{case}/logits"], rtol=0, atol=1e-4)


def test_recorded_logits_and_boxes_vary(record):
    for case in CASES:
        assert record[f"{case}/boxes"].std() > 0.1
        assert record[f"{case}/logits"].std() > 0.5
