"""The image side of the input: a backbone's maps become one sequence of tokens over several levels (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from gdino_lib.model.position import image_positions

SMALL = 400  # pixels of a map up to which a 1 x 1 convolution is computed as a matrix product in training, too


@dataclass(frozen=True)
class ImageTokens:
    """An image as the transformer sees it: all levels in one sequence, the finest first, each row by row.

    Attributes:
        features: float [B, N, D].
        positions: float [B, N, D], sine positions plus the level's embedding.
        mask: bool [B, N], True = real.
        shapes: (height, width) of each of the L levels in tokens.
        valid_ratios: float32 or float64 [B, L, 2], the real part of each level's (width, height), in 0..1.
    """

    features: Tensor
    positions: Tensor
    mask: Tensor
    shapes: list[tuple[int, int]]
    valid_ratios: Tensor

    def with_features(self, features: Tensor) -> ImageTokens:
        """The same tokens with new features."""
        return replace(self, features=features)

    def select(self, images: list[int]) -> ImageTokens:
        """Some images of the batch."""
        names = ("features", "positions", "mask", "valid_ratios")
        return replace(self, **{name: getattr(self, name)[images] for name in names})


class ImageBackbone(nn.Module):
    """Backbone, projections to one width, positions.

    Args:
        backbone: a module from images to maps at strides 8, 16, 32, with their channels in `channels`.
        width: D; levels: L, at least as many as the backbone has maps; each further one is a stride-2 convolution.
        temperature: of the sine positions.
    """

    def __init__(self, backbone: nn.Module, width: int, levels: int, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.temperature = temperature
        channels = list(backbone.channels)
        projections = [nn.Conv2d(c, width, kernel_size=1) for c in channels]
        # the first extra level looks at the raw last map, not at the projected one
        for inputs in [channels[-1], *[width] * levels][: levels - len(channels)]:
            projections.append(nn.Conv2d(inputs, width, kernel_size=3, stride=2, padding=1))
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        self.projections = nn.ModuleList(nn.Sequential(p, nn.GroupNorm(32, width)) for p in projections)
        self.level_embedding = nn.Parameter(torch.randn(levels, width))

    def forward(self, images: Tensor, mask: Tensor) -> ImageTokens:
        """Encode images.

        Args:
            images: float [B, 3, H, W], normalised, padded at the right and the bottom.
            mask: bool [B, H, W], True = real.
        """
        maps = self.backbone(images)
        projected = [projection(m) for projection, m in zip(self.projections, maps, strict=False)]
        for projection in self.projections[len(maps) :]:
            projected.append(projection(maps[-1] if len(projected) == len(maps) else projected[-1]))

        masks = [F.interpolate(mask[None].float(), size=m.shape[-2:])[0].bool() for m in projected]  # (B, h, w) each
        positions = [
            image_positions(m, level.shape[-1], self.temperature).to(images.dtype) + level
            for m, level in zip(masks, self.level_embedding, strict=True)
        ]
        exact = torch.promote_types(images.dtype, torch.float32)  # locations need more than half precision
        valid = [
            torch.stack([m[:, 0].to(exact).mean(1), m[:, :, 0].to(exact).mean(1)], dim=-1) for m in masks
        ]  # (B, 2)
        return ImageTokens(
            features=torch.cat([m.flatten(2).transpose(1, 2) for m in projected], dim=1),  # (B, D, h, w) -> (B, hw, D)
            positions=torch.cat(positions, dim=1),
            mask=torch.cat([m.flatten(1) for m in masks], dim=1),
            shapes=[tuple(m.shape[-2:]) for m in projected],
            valid_ratios=torch.stack(valid, dim=1),
        )


class TimmBackbone(nn.Module):
    """Maps at strides 8, 16 and 32 of a model of the timm library, batch norms frozen.

    A frozen batch norm only scales and shifts. On a CPU it is folded into the convolution before it, anew where anything learns
    or has changed, so that both remain what they are in files and in training ("tune mode", arXiv 2305.11624).

    Args:
        name: a model's name in timm, for example "tf_efficientnet_lite0". Weights are random; loading is
            `gdino_lib.weights.loading`' task.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        features = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-3, -2, -1))
        self.features = features.to(
            memory_format=torch.channels_last
        )  # convolutions on a CPU take two thirds of the time
        for convolution, norm in _normed_convolutions(self.features):
            c = convolution
            same = isinstance(c, timm.layers.Conv2dSame)  # pads as TensorFlow does, depending on the image's size
            c.folded = None
            c.forward = partial(_convolve, c, norm, timm.layers.get_same_padding if same else None)
            norm.forward = partial(_normalise, norm)
        self.channels = self.features.feature_info.channels()
        strides = self.features.feature_info.reduction()
        if strides != [8, 16, 32]:
            raise ValueError(f"backbone {name!r}: expected features at strides 8, 16 and 32, got {strides}")

    def train(self, mode: bool = True) -> TimmBackbone:
        """Training leaves the batch norms' statistics as they are: detection batches are too small to estimate them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> three maps [B, C, h, w]."""
        return self.features(images.contiguous(memory_format=torch.channels_last))


class _Layers(torch.fx.Tracer):
    """Follows a model's calls down to its convolutions and batch norms."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not list(module.children()) or isinstance(module, nn.modules.batchnorm._BatchNorm)


def _normed_convolutions(model: nn.Module) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Each convolution that goes nowhere but into a batch norm, and that batch norm; none where the way depends on the image."""
    try:
        nodes = _Layers().trace(model).nodes
    except torch.fx.proxy.TraceError:
        return []
    modules, pairs = dict(model.named_modules()), []
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        first, second = modules[before.target], modules[node.target]
        plain = isinstance(first, nn.Conv2d) and first.bias is None and first.dilation == (1, 1)
        if plain and isinstance(second, nn.modules.batchnorm._BatchNorm):
            pairs.append((first, second))
    return pairs


def _convolve(
    convolution: nn.Conv2d, norm: nn.Module, same_padding: Callable[[int, int, int, int], int] | None, x: Tensor
) -> Tensor:
    """A convolution, on a CPU with the frozen batch norm after it.

    A depthwise one is computed there in the weights' precision whatever autocast wants: the gradients of bfloat16 ones take
    three to ten times as long. A 1 x 1 one, which is a matrix product, is faster as one, by a tenth of the backbone's time
    (PyTorch 2.14), but for the gradients of large maps. Where one more pixel of padding is asked for at the right and the bottom
    than at the left and the top, the kernel gets zeros in front in place of the map, which would be copied.
    """
    c = convolution
    if x.device.type != "cpu":
        return type(c).forward(c, x)
    padding, front = c.padding, (0, 0)  # of height and width; rows and columns of zeros
    if same_padding:
        both = [same_padding(*sizes) for sizes in zip(x.shape[2:], c.kernel_size, c.stride, c.dilation, strict=True)]
        padding, front = tuple((pixels + 1) // 2 for pixels in both), tuple(pixels % 2 for pixels in both)
    weight, bias = _folded(c, norm, front)
    plain = (c.kernel_size, c.stride, padding, c.groups) == ((1, 1), (1, 1), (0, 0), 1)
    if plain and (x.shape[2] * x.shape[3] <= SMALL or not torch.is_grad_enabled()):
        return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)  # pixels as rows
    exact = c.groups > 1 and torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False) if exact else nullcontext():
        x = x.to(weight.dtype) if exact else x
        return F.conv2d(x, weight, bias, c.stride, padding, c.dilation, c.groups)


def _folded(convolution: nn.Conv2d, norm: nn.Module, front: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Kernel and bias of both; kept until one of their parts changes, unless gradients are to flow.

    Args:
        front: how many rows and columns of zeros the kernel has before its own.
    """
    parts = (convolution.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)

    def fold() -> tuple[Tensor, Tensor]:
        kernel, scale, shift, mean, variance = parts
        scale = scale * (variance + norm.eps).rsqrt()
        kernel = kernel * scale[:, None, None, None]
        return F.pad(kernel, (front[1], 0, front[0], 0)) if any(front) else kernel, shift - mean * scale

    if torch.is_grad_enabled():
        return fold()
    state = (front, *((part.data_ptr(), part._version) for part in parts))
    if convolution.folded is None or convolution.folded[0] != state:
        with torch.inference_mode(False), torch.no_grad():
            held = [part.detach() for part in parts]  # so that nothing else comes to lie at their addresses
            convolution.folded = state, fold(), held
    return convolution.folded[1]


def _normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """What is left of the batch norm: timm's have their activation inside."""
    if x.device.type != "cpu":
        return type(norm).forward(norm, x)
    return norm.act(x) if hasattr(norm, "act") else x
