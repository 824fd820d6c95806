"""Backbones of timm: their maps and gradients, and batch norms folded for inference."""

import copy

import pytest
import timm
import torch
from peers import SMALL, randomise
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

import gdino_lib as gd
from gdino_lib.model.timm_backbone import BackboneConv2d, TimmBackbone, fold_batch_norms, has_folded_batch_norms
from gdino_lib.training.optimization import train_mode
from gdino_lib.weights import loading

CONFIG = SMALL.replace(backbone="tf_efficientnet_lite0", levels=3)


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def learned(name):
    """A backbone in evaluation mode and double precision, with batch norms that change their input."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval().double()
    for norm in norms(backbone):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    return backbone


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
def test_maps_and_gradients_equal_those_of_timm(name):
    torch.manual_seed(0)
    ours = TimmBackbone(name).train().double()  # in float32, rounding moves values across a ReLU's zero
    theirs = (
        timm.create_model(name, features_only=True, out_indices=(1, 2, 3) if "convnext" in name else (2, 3, 4))
        .eval()
        .double()
    )  # batch norms are frozen
    for norm in (m for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.1)
    theirs.load_state_dict(ours.features.state_dict())
    pixels = torch.randn(2, 3, 72, 101, dtype=torch.float64)
    for one, other in zip(ours(pixels), theirs(pixels), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
        weights = torch.randn_like(other)
        (one * weights).sum().backward(retain_graph=True)
        (other * weights).sum().backward(retain_graph=True)
    assert ours.channels == theirs.feature_info.channels()
    for (parameter, one), other in zip(ours.features.named_parameters(), theirs.parameters(), strict=True):
        largest = other.grad.abs().max()
        torch.testing.assert_close(one.grad, other.grad, atol=1e-9 * largest.item(), rtol=1e-8, msg=parameter)


def test_maps_follow_every_change_of_the_weights():
    torch.manual_seed(0)
    ours = TimmBackbone("tf_efficientnet_lite0").eval()
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    pixels = torch.randn(1, 3, 64, 96)
    weight, norm = ours.features.conv_stem.weight, ours.features.bn1

    def same() -> None:
        theirs.load_state_dict(ours.features.state_dict())
        with torch.inference_mode():
            for one, other in zip(ours(pixels), theirs(pixels), strict=True):
                torch.testing.assert_close(one, other, atol=1e-4 * other.abs().max().item(), rtol=1e-4)

    def exchange() -> None:  # as an exponential moving average does
        weight.data = torch.randn_like(weight)

    changes = [
        lambda: torch.nn.init.normal_(weight, std=0.3),
        lambda: norm.running_mean.add_(0.5),
        lambda: ours.features.load_state_dict({**ours.features.state_dict(), "bn1.weight": torch.rand(32) + 0.5}),
        exchange,
    ]
    same()
    for change in changes:
        change()
        same()
    with torch.no_grad():
        plain = ours(pixels)
    again = copy.deepcopy(ours)
    torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), plain)  # a copy has its own weights
    ours(pixels)[-1].sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_efficientnet_lite0", 0),
        ("resnet18", 0),
        ("mobilenetv3_small_050", 0),
        ("convnext_atto", 0),
        ("densenet121", 62),  # batch norms before their convolutions cannot be folded
    ],
)
@pytest.mark.parametrize("size", [(72, 101), (97, 64)])
@torch.no_grad()
def test_folded_batch_norms_give_the_same_maps(name, left, size):
    plain = learned(name)
    folded = fold_batch_norms(copy.deepcopy(plain))
    assert len(norms(folded)) == left
    assert not has_folded_batch_norms(plain)
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    for ours, expected in zip(folded(pixels), plain(pixels), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12 * expected.abs().max().item(), rtol=1e-10)
    for ours, expected in zip(
        fold_batch_norms(folded)(pixels), folded(pixels), strict=True
    ):  # a second call changes nothing
        assert torch.equal(ours, expected)


def test_names_and_random_weights_equal_those_of_timm():
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).state_dict()
    after = torch.rand(1)
    torch.manual_seed(0)
    ours = TimmBackbone("tf_efficientnet_lite0").features.state_dict()
    assert torch.equal(torch.rand(1), after)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folded_model_can_neither_be_trained_nor_saved(tmp_path):
    model = fold_batch_norms(gd.GroundingDINO(CONFIG).eval())
    for train in (model.train, lambda: train_mode(model)):
        with pytest.raises(
            ValueError, match=r"this model is for inference: .*; train the model that gdino_lib\.load returns$"
        ):
            train()
    with pytest.raises(
        ValueError, match=r"cannot write .*: this model is for inference, .*; save the model of gdino_lib\.load$"
    ):
        loading.save(model, tmp_path / "folded.safetensors")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="does not fit the model"):
        loading.fill(model, loading.Checkpoint(gd.GroundingDINO(CONFIG).state_dict(), CONFIG, "gdino_lib"))


def test_a_detector_folds_batch_norms_and_load_does_not(tmp_path):
    model = gd.GroundingDINO(CONFIG)
    randomise(model)
    loading.save(model, tmp_path / "small.safetensors")
    loaded = gd.load(tmp_path / "small.safetensors", "cpu")
    assert not has_folded_batch_norms(loaded)
    assert norms(loaded)
    detector = gd.Detector.from_pretrained(tmp_path / "small.safetensors", "cpu")
    assert has_folded_batch_norms(detector.model)
    pixels = torch.randn(1, 3, 96, 130)
    with torch.no_grad():
        folded, plain = (m(pixels, [["cat"]]) for m in (detector.model, loaded))
    torch.testing.assert_close(folded.boxes, plain.boxes, atol=1e-4, rtol=0)


def test_a_model_without_a_timm_backbone_stays_as_it_is():
    model = gd.GroundingDINO(SMALL)
    before = dict(model.named_modules())
    assert fold_batch_norms(model) is model
    assert dict(model.named_modules()) == before
    assert not has_folded_batch_norms(model)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9), (11, 5)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (4, 1, 1), (1, 2, 1), (3, 2, 2)]
)
def test_same_padding_equals_that_of_timm(size, kernel, stride, dilation):
    theirs = Conv2dSame(4, 4, kernel, stride, dilation=dilation, groups=4).double()
    ours = BackboneConv2d.like(theirs, same_padding=True)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=1e-12)


def test_a_depthwise_convolution_is_computed_in_float32_under_autocast():
    convolution = BackboneConv2d.like(nn.Conv2d(4, 4, 3, groups=4), same_padding=False)
    x = torch.randn(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    exact = convolution(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = convolution(x)
    assert torch.equal(found, exact.bfloat16())  # rounded once, at the end
    upstream = torch.randn_like(found)
    parameters = [x, *convolution.parameters()]
    for ours, expected in zip(
        torch.autograd.grad(found, parameters, upstream),
        torch.autograd.grad(exact, parameters, upstream.float()),
        strict=True,
    ):
        assert torch.equal(ours, expected)
