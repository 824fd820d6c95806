"""The fusion layer against a plain implementation, in double precision."""

import copy

import pytest
import torch

from gdino_lib.model.feature_enhancer import FusionLayer
from gdino_lib.training import lora

WIDTH, HEADS = 32, 4


def randn(*shape, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def randomised(module):
    module = module.double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=number) / WIDTH**0.5)
    return module


def grads(outputs, inputs, module):
    loss = sum((output * randn(*output.shape, seed=9)).sum() for output in outputs)
    return torch.autograd.grad(loss, [*inputs, *module.parameters()])


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


PADDING = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])  # (2, 7)


def plain_fusion(layer, image, text, image_mask, text_mask):
    """GLIP's formula, head by head."""
    image, text = layer.image_norm(image), layer.text_norm(text)
    queries, keys = layer.image_query(image).chunk(layer.heads, -1), layer.text_key(text).chunk(layer.heads, -1)
    image_values, text_values = (x.chunk(layer.heads, -1) for x in (layer.image_value(image), layer.text_value(text)))
    seen_by_image, seen_by_text = [], []
    for query, key, image_value, text_value in zip(queries, keys, image_values, text_values, strict=True):
        scores = query @ key.transpose(1, 2) / key.shape[-1] ** 0.5  # (B, N, T)
        of_text = scores.masked_fill(~text_mask[:, None], -torch.inf).softmax(2)
        of_image = scores.masked_fill(~image_mask[..., None], -torch.inf).softmax(1)
        seen_by_image.append(of_text @ text_value)
        seen_by_text.append(of_image.transpose(1, 2) @ image_value)
    image = image + layer.image_scale * layer.image_output(torch.cat(seen_by_image, -1))
    return image, text + layer.text_scale * layer.text_output(torch.cat(seen_by_text, -1))


def fusion_inputs():
    image, text = randn(2, 30, WIDTH, seed=1, grad=True), randn(2, 7, WIDTH, seed=2, grad=True)
    image_mask = torch.arange(30) < torch.tensor([[30], [22]])
    return image, text, image_mask, PADDING


def test_fusion_and_its_gradients_equal_the_plain_implementation():
    layer = randomised(FusionLayer(WIDTH, HEADS, 24))
    inputs = fusion_inputs()
    ours, plain = layer(*inputs), plain_fusion(layer, *inputs)
    assert_same(ours, plain)
    assert_same(grads(ours, inputs[:2], layer), grads(plain, inputs[:2], layer))


def test_fusion_and_its_gradients_equal_the_readable_form():
    layer = randomised(FusionLayer(WIDTH, HEADS, 24))
    inputs = fusion_inputs()  # both masks hide something
    fast, readable = layer(*inputs), layer.readable_forward(*inputs)
    assert_same(fast, readable)
    assert_same(grads(fast, inputs[:2], layer), grads(readable, inputs[:2], layer))


@pytest.mark.parametrize("tokens", [1, 7])
def test_fusion_equals_the_readable_form_without_padding(tokens):
    layer = randomised(FusionLayer(WIDTH, HEADS, 24))
    image, text = randn(1, 30, WIDTH, seed=1), randn(1, tokens, WIDTH, seed=2)
    inputs = image, text, torch.ones(1, 30, dtype=torch.bool), torch.ones(1, tokens, dtype=torch.bool)
    assert_same(layer(*inputs), layer.readable_forward(*inputs))


def test_fusion_includes_its_lora_adapters():
    pytest.importorskip("peft")
    layer = lora.add(randomised(FusionLayer(WIDTH, HEADS, 24)), rank=2)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "lora_" in name:
                parameter.copy_(randn(*parameter.shape, seed=len(name)) / WIDTH)
    inputs = fusion_inputs()
    ours, plain = layer(*inputs), plain_fusion(layer, *inputs)  # the plain one calls each adapter's forward pass
    assert_same(ours, plain)
    learning = [p for p in layer.parameters() if p.requires_grad]
    for a, b in zip(*(torch.autograd.grad(sum(o.sum() for o in out), learning) for out in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert_same(lora.merge(copy.deepcopy(layer))(*inputs), ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_scores_survive_half_precision(dtype):
    """In float16, scores beyond 65,504 would be infinite, and their softmax NaN."""
    layer = randomised(FusionLayer(WIDTH, HEADS, 24)).float()
    with torch.no_grad():
        layer.image_query.weight.mul_(1e3)
        layer.text_key.weight.mul_(1e3)
        layer.image_scale.fill_(1)
        layer.text_scale.fill_(1)
    image, text, image_mask, text_mask = fusion_inputs()
    inputs = image.detach().float(), text.detach().float(), image_mask, text_mask
    with torch.no_grad():
        exact = layer(*inputs)
        with torch.autocast("cpu", dtype):
            found = layer(*inputs)
        converted = layer.to(dtype)(*(each.to(dtype) for each in inputs[:2]), image_mask, text_mask)
    for results in (found, converted):
        for ours, expected, mask in zip(results, exact, (image_mask, text_mask), strict=True):
            assert ours.isfinite().all()
            assert (ours - expected).abs()[mask].median() < 0.02
