"""Prompts for tests of losses, and a comparison of losses."""

import pytest

PROMPTS = [["cat", "remote control"], ["tricycle", "a dog", "cat"], ["bus"], ["two words", "one"]]


def assert_parts_equal(found, expected, tolerance=1e-9):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=tolerance, abs=tolerance), name
