"""What users do to PyTorch models: export, trace, copy, convert, quantise and replicate them."""

import copy
import warnings

import pytest
import torch
from peers import SMALL, randomise
from PIL import Image, ImageDraw
from torch import nn
from torchvision.ops import box_convert, box_iou

import gdino_lib as gd
from gdino_lib.images import prepare
from gdino_lib.model.fixed_prompt import FixedPromptModel
from gdino_lib.model.timm_backbone import fold_batch_norms
from gdino_lib.prompts import tokenize

PHRASES = ["red circle", "blue square", "banana"]


def small():
    model = gd.GroundingDINO(SMALL)
    randomise(model)
    return model.eval()


BUILDERS = {
    "small Swin": small,
    "nano": lambda: gd.load("nano", "cpu"),
    "nano folded": lambda: fold_batch_norms(gd.load("nano", "cpu")),
}


@pytest.fixture(params=BUILDERS.values(), ids=BUILDERS.keys())
def fixed(request):
    return FixedPromptModel(request.param(), PHRASES)


@pytest.fixture(scope="module")
def pixels():
    """A red disc and a blue square on white, float [1, 3, 256, 256]."""
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse([30, 40, 110, 120], fill="red", outline="black", width=3)
    draw.rectangle([150, 140, 220, 210], fill="blue", outline="black", width=3)
    return prepare(image, 256, 512)[None]


def traced(module, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants, and trace is deprecated
        return torch.jit.trace(module, inputs, check_trace=False)


def assert_same(ours, expected, tolerance=1e-4):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def best(fixed, pixels):
    """(score, box) of the best query for each of the first two phrases."""
    with torch.no_grad():
        logits, boxes = fixed(pixels)
    scores = [logits[0, :, fixed.phrase_of_token == phrase].float().sigmoid().mean(-1) for phrase in (0, 1)]
    return [(score.max().item(), boxes[0, score.argmax()].float()) for score in scores]


@torch.no_grad()
def test_a_fixed_prompt_gives_the_same_predictions_as_the_model(fixed):
    images = torch.randn(2, 3, 96, 130, generator=torch.Generator().manual_seed(7))
    mask = torch.ones(2, 96, 130, dtype=torch.bool)
    mask[1, :, 100:] = False
    for arguments in ((), (mask,)):
        out = fixed.model(images, [PHRASES] * 2, *arguments)
        assert_same(fixed(images, *arguments), (out.logits, out.boxes))
    assert torch.equal(fixed.phrase_of_token, out.phrase_of_token[0])


@torch.no_grad()
def test_an_exported_program_equals_the_model(fixed, pixels):
    program = torch.export.export(fixed, (pixels,), strict=False).module()
    for images in (pixels, torch.randn_like(pixels)):
        assert_same(program(images), fixed(images))


@torch.no_grad()
def test_a_trace_equals_the_model(fixed, pixels):
    program = traced(fixed, pixels)
    for images in (pixels, torch.randn_like(pixels)):
        assert_same(program(images), fixed(images))


def test_a_program_made_while_gradients_are_recorded_equals_the_model(pixels):
    fixed = FixedPromptModel(small(), PHRASES)
    for program in (torch.export.export(fixed, (pixels,), strict=False).module(), traced(fixed, pixels)):
        assert_same(program(pixels), fixed(pixels))


@torch.no_grad()
def test_the_whole_model_with_its_text_encoder_is_exported_and_traced(pixels):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.prompt = small(), tokenize([PHRASES])

        def forward(self, images):
            out = self.model(images, self.prompt)
            return out.logits, out.boxes

    whole = Whole()
    assert_same(torch.export.export(whole, (pixels,), strict=False).module()(pixels), whole(pixels))
    assert_same(traced(whole, pixels)(pixels), whole(pixels))


@torch.no_grad()
def test_a_copy_gives_the_same_and_is_independent(fixed, pixels):
    fixed(pixels)  # a model can be copied after a call, too
    other = copy.deepcopy(fixed)
    before = fixed(pixels)
    assert_same(other(pixels), before, tolerance=0)
    for parameter in fixed.parameters():
        parameter.zero_()
    assert_same(other(pixels), before, tolerance=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(fixed, pixels, dtype):
    with torch.no_grad():
        logits, boxes = fixed.to(dtype)(pixels.to(dtype))
    assert (logits.dtype, boxes.dtype) == (dtype, torch.float32)  # half precision is coarser than a token
    assert logits.isfinite().all()
    assert boxes.isfinite().all()


@pytest.mark.parametrize("builder", ["nano", "nano folded"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nano_finds_the_same_in_half_precision(pixels, builder, dtype):
    exact = best(FixedPromptModel(BUILDERS[builder](), PHRASES), pixels)
    found = best(FixedPromptModel(BUILDERS[builder]().to(dtype), PHRASES), pixels.to(dtype))
    for (score, box), (expected_score, expected_box) in zip(found, exact, strict=True):
        assert expected_score > 0.5
        assert abs(score - expected_score) < 0.03
        assert box_iou(*(box_convert(b[None], "cxcywh", "xyxy") for b in (box, expected_box))).item() > 0.95


def test_dynamic_quantisation_works_for_the_text_encoder_and_is_refused_for_the_whole_model():
    model, images = small(), torch.randn(1, 3, 96, 130)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        quantised = torch.ao.quantization.quantize_dynamic(model)
        with pytest.raises(ValueError, match=r'^quantize_dynamic: .*gdino_lib\.Detector\(model, dtype="bfloat16"\)$'):
            quantised(images, [PHRASES])
        exact = model(images, [PHRASES])
        model.text_encoder = torch.ao.quantization.quantize_dynamic(model.text_encoder)
    prompt = tokenize([PHRASES])
    quantised, exact = model.text_encoder(prompt).features, small().text_encoder(prompt).features
    assert 0 < (quantised - exact).abs().max() < 0.1 * exact.abs().max()
    assert torch.isfinite(model(images, [PHRASES]).boxes).all()


def test_data_parallel_works_on_one_device_and_is_refused_on_several():
    model, images = small(), torch.randn(1, 3, 96, 130)
    with torch.no_grad():
        out, expected = nn.DataParallel(model)(images, [PHRASES]), model(images, [PHRASES])
    assert_same((out.logits, out.boxes), (expected.logits, expected.boxes))
    with pytest.raises(RuntimeError, match=r"^nn\.DataParallel cannot split prompts .*: accelerate launch .*$"):
        model._replicate_for_data_parallel()
