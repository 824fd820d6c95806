"""Convolutional backbones of the timm library: feature maps at strides 8, 16 and 32, with frozen batch norms.

A frozen batch norm only scales and shifts. In training it stays a module of its own, with a learned weight and bias. For
inference, `fold_batch_norms` merges it into the convolution before it, once, when the model is loaded.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, TypeVar

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn.modules.batchnorm import _BatchNorm

Model = TypeVar("Model", bound=nn.Module)


class TimmBackbone(nn.Module):
    """Feature maps at strides 8, 16 and 32 of a timm model whose batch norms are frozen.

    Args:
        name: a model's name in timm, for example "tf_efficientnet_lite0". Its weights are random;
            `gdino_lib.weights.loading` loads trained ones.

    Attributes:
        channels: number of channels of each map.
        folded: whether `fold_batch_norms` has changed this backbone; if so, it can neither be trained nor saved.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm
        from timm.layers.conv2d_same import Conv2dSame

        features: Any = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-3, -2, -1))
        self.channels: list[int] = features.feature_info.channels()
        self.folded = False
        strides = features.feature_info.reduction()
        if strides != [8, 16, 32]:
            raise ValueError(f"backbone {name!r}: expected features at strides 8, 16 and 32, got {strides}")
        for place, module in list(features.named_modules()):
            same = type(module) is Conv2dSame
            if isinstance(module, nn.Conv2d) and (same or (type(module) is nn.Conv2d and module.groups > 1)):
                features.set_submodule(place, BackboneConv2d.like(module, same_padding=same))
        # in this memory format, convolutions on a CPU take two thirds of the time
        self.features = features.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode of all modules but the batch norms: detection batches are too small to estimate their statistics.

        Raises:
            ValueError: training mode, although the batch norms are folded.
        """
        if mode and self.folded:
            raise ValueError(
                "this model is for inference: its batch norms are folded into its convolutions and cannot learn; "
                "train the model that gdino_lib.load returns"
            )
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> three maps [B, C, h, w]."""
        return self.features(images.contiguous(memory_format=torch.channels_last))


class BackboneConv2d(nn.Conv2d):
    """A convolution that gives timm's results and is faster on a CPU in two cases.

    Depthwise convolutions under autocast: they are computed in the precision of their weights, and the result is rounded. In
    bfloat16 their backward pass would take three to ten times as long.

    "Same" padding as in TensorFlow: it can need one more pixel at the right and the bottom than at the left and the top. The
    kernel then gets an extra row and column of zeros in front, which costs less than a padded copy of the map.

    Args:
        same_padding: pad as TensorFlow does, by the image's size, instead of by `padding`.
        options: further arguments of `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, same_padding: bool = False, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.same_padding = same_padding

    @classmethod
    def like(cls, other: nn.Conv2d, same_padding: bool) -> BackboneConv2d:
        """A convolution of this class with the parameters of `other`; draws no random numbers."""
        options = {name: getattr(other, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}
        convolution = cls(other.in_channels, other.out_channels, same_padding, **options, bias=False, device="meta")
        convolution.weight, convolution.bias = other.weight, other.bias
        return convolution.train(other.training)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h', w']."""
        on_cpu = x.device.type == "cpu"
        weight, padding = self.weight, self.padding
        if self.same_padding:
            both = self._same_padding(x)  # pixels of padding in height and width, both sides together
            padding, odd = [(pixels + 1) // 2 for pixels in both], [pixels % 2 for pixels in both]
            if any(odd) and on_cpu and self.dilation == (1, 1):
                weight = F.pad(weight, (odd[1], 0, odd[0], 0))
            elif any(odd):
                x, padding = F.pad(x, _sides(both)), (0, 0)
        if not (on_cpu and self.groups > 1 and torch.is_autocast_enabled("cpu")):
            return F.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)
        with torch.autocast("cpu", enabled=False):
            x = F.conv2d(x.to(weight.dtype), weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return x.to(torch.get_autocast_dtype("cpu"))

    def _same_padding(self, x: Tensor) -> list[int]:
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        return [max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0) for size, k, s, d in axes]


class PointwiseConv2d(BackboneConv2d):
    """A 1x1 convolution computed as a matrix product, which saves a tenth of an EfficientNet's time on a CPU.

    For inference only: in the backward pass of large maps a convolution is faster. In float16, too, a convolution is faster:
    PyTorch's matrix product of these shapes takes a hundred times as long there (measured with 2.14).
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h, w]."""
        if x.device.type != "cpu" or x.dtype == torch.float16:
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)  # pixels as rows


@torch.no_grad()
def fold_batch_norms(model: Model) -> Model:
    """Fold each frozen batch norm of a timm backbone into the convolution before it: the same maps in less time.

    Args:
        model: any module; it is changed. Afterwards its `TimmBackbone`s can neither be trained nor saved: `train` and
            `gdino_lib.weights.loading.save` refuse. A model without a `TimmBackbone` stays as it is.

    Returns:
        The same model.
    """
    for backbone in [module for module in model.modules() if isinstance(module, TimmBackbone) and not module.folded]:
        features = backbone.features
        for convolution_name, norm_name in _normed_convolutions(features):
            convolution, norm = features.get_submodule(convolution_name), features.get_submodule(norm_name)
            features.set_submodule(convolution_name, _folded(convolution, norm))
            # a batch norm of timm contains the activation that follows it, which must stay
            features.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
        backbone.folded = True
    return model


def has_folded_batch_norms(model: nn.Module) -> bool:
    """Whether `fold_batch_norms` has changed a model."""
    return any(isinstance(module, TimmBackbone) and module.folded for module in model.modules())


def _folded(convolution: Any, norm: Any) -> BackboneConv2d:
    """norm(convolution(x)) as one convolution."""
    same = getattr(convolution, "same_padding", False)
    plain = (convolution.kernel_size, convolution.stride, convolution.padding) == ((1, 1), (1, 1), (0, 0))
    kind = PointwiseConv2d if plain and convolution.groups == 1 else BackboneConv2d
    result = kind.like(convolution, same_padding=same)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    result.weight = nn.Parameter(convolution.weight * scale[:, None, None, None], requires_grad=False)
    result.bias = nn.Parameter(shift, requires_grad=False)
    return result


class _Layers(torch.fx.Tracer):
    """Traces a model down to its convolutions and batch norms."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - the base class' signature
        return not list(m.children()) or isinstance(m, _BatchNorm)


def _normed_convolutions(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of names: a convolution whose output goes into a batch norm alone, and this batch norm.

    The list is empty if the model cannot be traced, because its control flow depends on the image.
    """
    try:
        nodes = list(_Layers().trace(model).nodes)
    except TraceError:
        return []
    calls = [node for node in nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    modules = dict(model.named_modules())
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = str(before.target), str(node.target)
        if any(times[name] > 1 for name in names):  # a shared module would be folded twice
            continue
        convolution, norm = (modules[name] for name in names)
        if type(convolution) in (nn.Conv2d, BackboneConv2d) and isinstance(norm, _BatchNorm):
            pairs.append(names)
    return pairs


def _sides(both: list[int]) -> tuple[int, int, int, int]:
    """Pixels of "same" padding for `F.pad`: left, right, top, bottom; an odd pixel goes to the right and the bottom."""
    height, width = both
    return width // 2, width - width // 2, height // 2, height - height // 2
