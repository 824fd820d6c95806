"""Convolutional backbones of the timm library: maps at strides 8, 16 and 32, with frozen batch norms.

A frozen batch norm only scales and shifts. In training it stays a module of its own, with its learned weight and bias;
`fold_batch_norms` multiplies it into the convolution before it, once, when a model is loaded for inference.
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
    """Maps at strides 8, 16 and 32 of a model of the timm library, batch norms frozen.

    Args:
        name: a model's name in timm, for example "tf_efficientnet_lite0". Weights are random; loading is
            `gdino_lib.weights.loading`' task.

    Attributes:
        channels: of each map.
        folded: whether `fold_batch_norms` has been here; such a backbone can neither learn nor be saved.
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
        # convolutions on a CPU take two thirds of the time in this format
        self.features = features.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Training leaves the batch norms' statistics as they are: detection batches are too small to estimate them.

        Raises:
            ValueError: the batch norms are folded, and training is asked for.
        """
        if mode and self.folded:
            raise ValueError(
                "this model is for inference: its batch norms are folded into its convolutions and cannot learn; "
                "train the model of gdino_lib.load"
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
    """A convolution with the same results as timm's, and two measures that make it fast on a CPU.

    Depthwise: under autocast it is computed in the weights' own precision, and its result is rounded, because the backward pass
    of a bfloat16 depthwise convolution takes three to ten times as long.

    "Same" padding, as TensorFlow has it, can ask for one more pixel at the right and the bottom than at the left and the top.
    The kernel then gets a row and a column of zeros in front, which is cheaper than a padded copy of the map.

    Args:
        same_padding: pad as TensorFlow does, by the image's size, instead of by `padding`.
        options: those of `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, same_padding: bool = False, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.same_padding = same_padding

    @classmethod
    def like(cls, other: nn.Conv2d, same_padding: bool) -> BackboneConv2d:
        """A convolution of this class with the parameters of another one; no random number is drawn."""
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
    """A 1x1 convolution as the matrix product that it is: on a CPU a tenth of an EfficientNet's time is saved.

    For inference only: in the backward pass of large maps a convolution is faster. So it is in float16, for which PyTorch
    has no fast matrix product of such rows (2.14: a hundred times as slow).
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h, w]."""
        if x.device.type != "cpu" or x.dtype == torch.float16:
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)  # pixels as rows


@torch.no_grad()
def fold_batch_norms(model: Model) -> Model:
    """Multiply each frozen batch norm of a timm backbone into the convolution before it: the same maps in less time.

    Args:
        model: any module; it is changed. Its `TimmBackbone`s can neither learn nor be saved afterwards: `train` and
            `gdino_lib.weights.loading.save` refuse. A model without one stays as it is.

    Returns:
        The same model.
    """
    for backbone in [module for module in model.modules() if isinstance(module, TimmBackbone) and not module.folded]:
        features = backbone.features
        for convolution_name, norm_name in _normed_convolutions(features):
            convolution, norm = features.get_submodule(convolution_name), features.get_submodule(norm_name)
            features.set_submodule(convolution_name, _folded(convolution, norm))
            # timm's batch norms have their activation inside
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
    """Follows a model's calls down to its convolutions and batch norms."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - the base class' signature
        return not list(m.children()) or isinstance(m, _BatchNorm)


def _normed_convolutions(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution whose output goes nowhere but into a batch norm, and of that batch norm.

    None where the way through the model depends on the image.
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
    """Pixels of "same" padding for `F.pad`: left, right, top, bottom; the odd one stands at the right and the bottom."""
    height, width = both
    return width // 2, width - width // 2, height // 2, height - height // 2
