"""The two halves of a model as functions of tensors, in a form that exporters can record.

The text part turns word pieces into features. The image part turns pixels and these features into boxes. A program that
detects with one list of phrases in many images runs the text part once. `gdino_lib.model.fixed_prompt` is an image part with the
text of one prompt in it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.text_encoder import TextEncoder, TextTokens
from gdino_lib.model.timm_backbone import BackboneConv2d, fold_batch_norms
from gdino_lib.prompts import Prompt

PRECISIONS = ("fp32", "fp16")


class TextPart(nn.Module):
    """From the word pieces of phrases to the features that the image part takes.

    Args:
        encoder: a model's text encoder.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode S sequences of word pieces; each block of a prompt is a sequence.

        Args:
            input_ids: int64 [S, longest].
            attention_mask: int64 [S, longest], 1 = real, 0 = padding.

        Returns:
            float [S, longest, D].
        """
        encoder = self.encoder
        real = attention_mask > 0
        # transformers uses a mask of four axes as it is; from one of two axes it would make constants in a trace
        mask = torch.zeros_like(real, dtype=torch.float32).masked_fill(~real, -torch.inf)
        mask = mask[:, None, None]  # (S, 1, 1, longest)
        features = encoder.bert(input_ids=input_ids, attention_mask=mask).last_hidden_state
        ids = torch.where(real, input_ids, -1)
        return encoder.projection(encoder.towards_landmarks(features, ids))


class ImagePart(nn.Module):
    """From the pixels of one image, and the text part's features, to boxes.

    Args:
        model: a model that `exportable` has returned.
    """

    def __init__(self, model: GroundingDINO) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixel_values: Tensor, text_features: Tensor, token_blocks: Tensor, token_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find the objects that the phrases name.

        Args:
            pixel_values: float [1, 3, H, W], normalised, without padding.
            text_features: float [1, T, D], the feature of each token of the prompt.
            token_blocks, token_positions: int64 [1, T], `blocks` and `positions` of `gdino_lib.prompts.Prompt`; they keep the
                phrases apart.

        Returns:
            logits, float [1, Q, T], raw; boxes, float [1, Q, 4], cxcywh in 0..1.
        """
        mask = torch.ones_like(pixel_values[:, 0], dtype=torch.bool)
        # the model reads neither ids nor phrases after the text encoder
        prompt = Prompt(token_blocks, token_blocks, token_blocks, token_positions)
        image = self.model.image_backbone(pixel_values, mask)
        out = self.model.ground(image, TextTokens(text_features, prompt))
        return out.logits, out.boxes


class ExplicitlyPaddedConv2d(nn.Conv2d):
    """A convolution with "same" padding that is computed from the size of each image.

    `BackboneConv2d` decides in Python which sides to pad, so an exporter would record the decision for one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C', h', w']."""
        sides: list[Any] = []
        for axis in (1, 0):  # width, then height
            kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            both = dilation * (kernel - 1) - (x.shape[2 + axis] - 1) % stride  # pixels of padding, both sides together
            sides += [both // 2, both - both // 2]
        x = F.pad(x, sides)  # left, right, top, bottom
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ExplicitAttention(nn.Module):
    """`nn.MultiheadAttention` in plain operations, with the same weights and results, for inference.

    In a graph of the original, the length of the keys would be a constant.

    Args:
        attention: the module to replace, with `batch_first`.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.matrices, self.biases = attention.in_proj_weight, attention.in_proj_bias  # of queries, keys and values
        self.output = attention.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Arguments and result are those of `nn.MultiheadAttention` without weights; both masks are bool, True = hidden."""
        assert not need_weights
        q, k, v = (
            F.linear(x, matrix, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, X, D) -> (B, h, X, c)
            for x, matrix, bias in zip((query, key, value), self.matrices.chunk(3), self.biases.chunk(3), strict=True)
        )
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # (B, h, Q, c) x (B, h, c, T) -> (B, h, Q, T)
        if attn_mask is not None:
            scores = scores.masked_fill(attn_mask.unflatten(0, (-1, self.heads)), -torch.inf)  # (B * h, Q, T)
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask[:, None, None], -torch.inf)
        return self.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None


def exportable(model: GroundingDINO, precision: str = "fp32") -> GroundingDINO:
    """A copy of a model for export, on the CPU, in evaluation mode and with folded batch norms.

    The copy gives the results of the model. Its convolutions and attentions are plain ones, which every exporter can record.

    Args:
        precision: one of `PRECISIONS`; "fp16" rounds all weights to values that float16 can hold. They stay float32.

    Raises:
        ValueError: an unknown precision; a weight beyond the range of float16.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    model = fold_batch_norms(copy.deepcopy(model).cpu().eval())
    for name, module in list(model.named_modules()):
        if isinstance(module, BackboneConv2d):
            model.set_submodule(name, _plain(module))
        elif isinstance(module, nn.MultiheadAttention):
            model.set_submodule(name, ExplicitAttention(module))
    if precision == "fp16":
        for name, tensor in model.state_dict().items():
            rounded = tensor.half() if tensor.is_floating_point() else tensor
            if not rounded.isfinite().equal(tensor.isfinite()):
                raise ValueError(f"fp16: {name} holds weights beyond the range of float16; export with fp32")
            tensor.copy_(rounded)
    return model


def _plain(convolution: BackboneConv2d) -> nn.Conv2d:
    options = {name: getattr(convolution, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}
    kind: type[nn.Conv2d] = nn.Conv2d
    if convolution.same_padding and convolution.stride == (1, 1) and all(side % 2 for side in convolution.kernel_size):
        options["padding"] = "same"  # equal on both sides, whatever the size of the image
    elif convolution.same_padding:
        kind = ExplicitlyPaddedConv2d
    plain = kind(convolution.in_channels, convolution.out_channels, **options, bias=False, device="meta")
    plain.weight, plain.bias = convolution.weight, convolution.bias
    return plain.eval()


@contextmanager
def recording() -> Iterator[None]:
    """Make the model compute with standard operators only, and with sizes that an exporter can follow."""
    choice, fast_path = os.environ.get("GDINO_OPS"), torch.backends.mha.get_fastpath_enabled()
    os.environ["GDINO_OPS"] = "reference"  # deformable attention by grid_sample, not by the compiled op
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _TracedSizes():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        if choice is None:
            del os.environ["GDINO_OPS"]
        else:
            os.environ["GDINO_OPS"] = choice


class _TracedSizes(TorchFunctionMode):
    """Lets `new_tensor` keep the sizes of a trace; by itself it would make constants of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.new_tensor or not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return func(*args, **(kwargs or {}))
        like, values = args
        return _stacked(like, values)


def _stacked(like: Tensor, values: Any) -> Tensor:
    if isinstance(values, list | tuple):
        return torch.stack([_stacked(like, value) for value in values])
    return values.to(like) if isinstance(values, Tensor) else like.new_full((), values)
