"""Learning rates by part and step, the moving average."""

import json
import math

import pytest
import torch
from small_runs import model
from torch import nn

from gdino_lib.training.optimization import MovingAverage, parameter_groups, schedule_factor, set_dropout, train_mode
from gdino_lib.training.settings import LossSettings, TrainingSettings


def rates(net, lr_scale):
    """The learning rate of each parameter, as a share of `lr`."""
    groups = parameter_groups(net, 0.5, lr_scale)
    assert all(group["lr"] == group["peak_lr"] for group in groups)
    return {id(p): group["lr"] / 0.5 for group in groups for p in group["params"]}


def test_the_longest_part_decides_and_0_freezes():
    net = model()
    found = rates(net, {"decoder": 0.5, "decoder.layers.1": 0.25, "text_encoder.bert": 0})
    for name, parameter in net.named_parameters():
        wanted = 0.25 if name.startswith("decoder.layers.1.") else 0.5 if name.startswith("decoder.") else 1.0
        if name.startswith("text_encoder.bert."):
            assert id(parameter) not in found
            assert not parameter.requires_grad
        else:
            assert found[id(parameter)] == wanted, name


def test_parameters_that_were_frozen_before_stay_frozen():
    net = model()
    net.image_backbone.backbone.requires_grad_(False)
    found = rates(net, {})
    assert not any(id(p) in found for p in net.image_backbone.backbone.parameters())


def test_the_steps_of_the_learning_rate():
    settings = TrainingSettings(warmup_steps=4, drops=(0.5, 0.75))
    factors = [schedule_factor(settings, step, 40) for step in range(40)]
    assert factors == pytest.approx([0.25, 0.5, 0.75] + [1] * 17 + [0.1] * 10 + [0.01] * 10)


def test_the_cosine_of_the_learning_rate():
    settings = TrainingSettings(warmup_steps=2, schedule="cosine")
    factors = [schedule_factor(settings, step, 22) for step in range(22)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:] == pytest.approx([(1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)])


def test_a_short_run_is_not_all_warm_up():
    settings = TrainingSettings(warmup_steps=100, drops=())
    assert [schedule_factor(settings, step, 20) for step in range(4)] == [0.5, 1, 1, 1]


def test_the_moving_average_by_hand():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    average = MovingAverage(net, 0.5)
    expected = 0.0
    for update, value in enumerate([1.0, 2.0, 4.0, 8.0], start=1):
        nn.init.constant_(net.weight, value)
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert net.weight.item() == pytest.approx(expected)
    assert net.weight.item() == 8.0
    other = MovingAverage(nn.Linear(1, 1, bias=False), 0.5)
    other.load_state_dict(average.state_dict())
    assert other.updates == 4
    assert other.averages["weight"].item() == pytest.approx(expected)


def test_frozen_parameters_have_no_average():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    assert sorted(MovingAverage(net, 0.9).averages) == ["1.bias", "1.weight"]


def test_dropout_is_that_of_enhancer_and_decoder():
    net = model()
    set_dropout(net, 0.25)
    inside = [m.p for part in (net.feature_enhancer, net.decoder) for m in part.modules() if isinstance(m, nn.Dropout)]
    assert inside
    assert set(inside) == {0.25}
    assert all(m.dropout == 0.25 for m in net.decoder.modules() if isinstance(m, nn.MultiheadAttention))
    assert {m.p for m in net.text_encoder.modules() if isinstance(m, nn.Dropout)} == {0.1}  # BERT's own


def test_batch_norms_keep_their_statistics_in_training():
    net = model(backbone="tf_efficientnet_lite0")
    train_mode(net)
    before = {name: buffer.clone() for name, buffer in net.named_buffers() if "running" in name}
    net(torch.randn(2, 3, 64, 64), [["dog"], ["cat"]])
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers() if name in before)


def test_settings_survive_json():
    settings = TrainingSettings(drops=(0.5, 0.9), lr_scale={"decoder": 0.5}, loss=LossSettings(layers=0.5))
    assert TrainingSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(ValueError, match="unknown settings: speed"):
        TrainingSettings.from_dict({"speed": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingSettings(lr=math.inf), "lr: expected a finite number of at least 0, got inf"),
        (lambda: TrainingSettings(clip=math.nan), "clip: expected a finite number of at least 0, got nan"),
        (lambda: TrainingSettings(epochs=2.5), "epochs: expected a whole number of at least 1, got 2.5"),
        (lambda: LossSettings(layers=math.nan), "layers: expected a finite number of at least 0, got nan"),
        (lambda: LossSettings(alpha=7), "alpha: expected a number in 0..1, got 7"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
