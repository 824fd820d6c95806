"""Every field of the configuration and the settings refuses wrong values with a message of one line."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest

from gdino_lib.config import PRESETS, GroundingDINOConfig
from gdino_lib.nano import recipe
from gdino_lib.ranges import CheckedFields, Range
from gdino_lib.training.settings import LossSettings, TrainingSettings

CLASSES = (GroundingDINOConfig, TrainingSettings, LossSettings)
FIELDS = [
    pytest.param(kind, entry.name, get_type_hints(kind, include_extras=True)[entry.name], id=f"{kind.__name__}.{entry.name}")
    for kind in CLASSES
    for entry in fields(kind)
]  # fmt: skip


def parts(hint):
    """(the plain type, its range or None) of an annotation."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return kind, next((extra for extra in extras if isinstance(extra, Range)), None)


def wrong_numbers(kind, limits):
    """Numbers that a field of this type and range must refuse."""
    wrong = [math.nan, math.inf, -math.inf, True, "1", None, [1], 1 + 1j]
    if kind is int:
        wrong += [1.5, 10.0]
    if limits.least > -math.inf:
        wrong += [limits.least - 1, *[limits.least] * limits.above]
    if limits.most < math.inf:
        wrong += [limits.most + 1, *[limits.most] * limits.below]
    return wrong


def wrong_values(hint):
    """Values that a field must refuse."""
    kind, limits = parts(hint)
    if kind in (int, float):
        assert limits is not None, "a number without a range"
        return wrong_numbers(kind, limits)
    if kind is bool:
        return [0, 1, 1.0, None, "True"]
    if kind is str:
        return [0, None, b"swin"]
    if get_origin(kind) is Literal:
        return ["", "Float32", None, 0, [get_args(kind)[0]]]
    if get_origin(kind) is tuple:
        return [0.5, None, "12", *[(wrong,) for wrong in wrong_numbers(*parts(get_args(kind)[0]))]]
    if get_origin(kind) is Mapping:
        values = wrong_numbers(*parts(get_args(kind)[1]))
        return [0.5, None, [("decoder", 1.0)], {1: 1.0}, *[{"decoder": wrong} for wrong in values]]
    assert issubclass(kind, CheckedFields), f"{kind} is not tested here"
    return [0.5, None, "loss", {"alpha": 2}, {"unheard_of": 1.0}]


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS)
def test_a_field_refuses_wrong_values(kind, name, hint):
    for wrong in wrong_values(hint):
        told = (
            r"^(loss|alpha): expected .*, got |^unknown loss settings"
            if name == "loss"
            else f"^{name}: expected .*, got "
        )
        with pytest.raises(ValueError, match=told) as refused:
            kind(**{name: wrong})
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS)
def test_the_ends_of_a_range_belong_to_it(kind, name, hint):
    number, limits = parts(hint)
    if number not in (int, float):
        return
    assert limits.above or limits.least in limits
    assert limits.below or limits.most in limits
    if kind is not GroundingDINOConfig:  # some of its sizes must also be multiples of others
        for end in [limits.least] * (not limits.above) + [limits.most] * (limits.most < math.inf and not limits.below):
            assert getattr(kind(**{name: end}), name) == end


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingSettings(lora_rank=1.5), "lora_rank: expected a whole number of at least 0, got 1.5"),
        (lambda: TrainingSettings(lora_rank=-1), "lora_rank: expected a whole number of at least 0, got -1"),
        (lambda: TrainingSettings(seed=-1), "seed: expected a whole number in 0..18446744073709551615, got -1"),
        (lambda: TrainingSettings(lr=math.nan), "lr: expected a finite number of at least 0, got nan"),
        (lambda: TrainingSettings(dropout=-0.1), "dropout: expected a number in 0..1, got -0.1"),
        (lambda: TrainingSettings(epochs=10**18), f"epochs: expected at most 1000000000, got {10**18}"),
        (
            lambda: TrainingSettings(epochs=10**400),
            "epochs: expected at most 1000000000, got a number of about 401 digits",
        ),
        (
            lambda: TrainingSettings(lr=10**5000),
            "lr: expected a finite number of at least 0, got a number of about 5001 digits",
        ),
        (lambda: TrainingSettings(epochs=True), "epochs: expected a whole number of at least 1, got True"),
        (lambda: TrainingSettings(lora_alpha=0), "lora_alpha: expected a finite number above 0, got 0"),
        (lambda: TrainingSettings(drops=[0.5, 2]), "drops: expected a number in 0..1, got 2"),
        (lambda: TrainingSettings(loss={"alpha": 7}), "alpha: expected a number in 0..1, got 7"),
        (lambda: GroundingDINOConfig(queries=0), "queries: expected a whole number of at least 1, got 0"),
        (lambda: GroundingDINOConfig(points=0), "points: expected a whole number of at least 1, got 0"),
        (lambda: GroundingDINOConfig(short_side=0), "short_side: expected a whole number in 1..10000, got 0"),
        (lambda: GroundingDINOConfig(width=0), "width: expected a whole number of at least 1, got 0"),
        (lambda: GroundingDINOConfig(width=100), "width 100 is not a multiple of heads 8"),
        (lambda: GroundingDINOConfig(width=40), "width: expected a multiple of 32 (groups of the group norm), got 40"),
        (lambda: GroundingDINOConfig(heads=3), "width 256 is not a multiple of heads 3"),
        (lambda: GroundingDINOConfig(fusion_heads=3), "fusion_width 1024 is not a multiple of fusion_heads 3"),
        (lambda: GroundingDINOConfig(swin_heads=(3, 6, 12, 25)), "swin_heads: 25 heads do not divide the 768 channels"),
        (lambda: GroundingDINOConfig(swin_depths=(2, 2)), "swin_depths, swin_heads: expected 4 values, one per stage"),
        (lambda: GroundingDINOConfig(logit_epsilon=0.5), "logit_epsilon: expected a number above 0 and below 0.5, got"),
    ],
)
def test_a_message_names_the_field_its_range_and_the_value(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


def test_a_value_of_several_lines_gives_a_message_of_one_line():
    with pytest.raises(ValueError, match=r"^backbone: expected text, got \['a', 'b\\n'\]$"):
        GroundingDINOConfig(backbone=["a", "b\n"])


def test_presets_recipes_and_defaults_are_accepted():
    for make in PRESETS.values():
        config = make()
        assert GroundingDINOConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for settings in (TrainingSettings(), recipe.NAMING, *(plan.settings for plan in recipe.ROUNDS)):
        assert TrainingSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert LossSettings.from_dict(LossSettings.section_4_1().to_dict()) == LossSettings.section_4_1()


def test_a_float_field_accepts_whole_numbers():
    assert LossSettings(layers=0) == LossSettings(layers=0.0)


def test_settings_keep_a_copy_of_a_mapping():
    rates = {"decoder": 0.5}
    settings = TrainingSettings(lr_scale=rates)
    rates["decoder"] = 9.0
    assert settings.lr_scale == {"decoder": 0.5}
