"""How `Detector.explain` obtains its result.

The model runs once, as in any detection. Meanwhile forward hooks record what goes into its layers. From these inputs the
model's own functions compute attention weights and sampling points. The hooks are removed afterwards, and the model's code
knows nothing of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdino_lib.detect.explanation import DecoderAttention, EnhancerAttention, Explanation, Stage, checked_index
from gdino_lib.detect.postprocess import to_pixels
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.model.grounding_dino import GroundingDINO, GroundingDINOOutput
from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.query_selection import QuerySelection, token_anchors
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.ops.deform_attn import MultiScaleDeformableAttention
from gdino_lib.prompts import NO_PHRASE, tokenizer

if TYPE_CHECKING:
    import supervision as sv

Calls: TypeAlias = dict[nn.Module, tuple[tuple[Any, ...], Any]]  # positional arguments and result of each module's call


def one_prompt(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The prompt of a vocabulary that the model reads at once.

    Raises:
        ValueError: no phrase has a token, or the phrases need several prompts.
    """
    if len(vocabulary.chunks) != 1:
        needed = f"{len(vocabulary.chunks)} prompts" if vocabulary.chunks else "no prompt: no phrase has a token"
        raise ValueError(f"explain: expected phrases that fit into one prompt, got {needed}")
    return vocabulary.chunks[0]


@contextmanager
def recorded_calls(model: GroundingDINO) -> Iterator[Calls]:
    """Record what this thread's next pass through the model hands to its layers; calls by other threads are left out."""
    calls: Calls = {}
    thread = threading.get_ident()

    def record(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        if threading.get_ident() == thread:
            calls[module] = arguments, result

    with ExitStack() as hooks:
        for module in _recorded_modules(model):
            hooks.callback(module.register_forward_hook(record).remove)
        yield calls


def _recorded_modules(model: GroundingDINO) -> list[nn.Module]:
    enhancer, decoder = _layers(model)
    attentions = [layer.image_layer.attention for layer in enhancer]
    attentions += [attention for layer in decoder for attention in (layer.text_attention, layer.image_attention)]
    modules = [*enhancer, model.query_selection, *attentions]
    return [module for module in modules if module is not None]  # None: an ablation without text cross-attention


def _layers(model: GroundingDINO) -> tuple[list[Any], list[Any]]:
    """The layers of enhancer and decoder; as Any, because parts of a model can be replaced by modules of another type."""
    enhancer: Any = model.feature_enhancer.layers
    decoder: Any = model.decoder.layers
    return list(enhancer), list(decoder)


def explain_calls(
    model: GroundingDINO,
    calls: Calls,
    out: GroundingDINOOutput,
    image: ImageTokens,
    text: TextTokens,
    size: tuple[int, int],
    vocabulary: Vocabulary,
    image_tokens: Sequence[int],
    detections: sv.Detections,
) -> Explanation:
    """Explain one recorded pass.

    Args:
        calls, out: of `model.ground(image, text)`, for one image without padding.
        image_tokens: image tokens whose sampling points in the enhancer are wanted.
        detections: of `out`, with `data["query"]`.

    Raises:
        TypeError, ValueError: no such image token; the calls of some layers are missing.
    """
    if not all(module in calls for module in _recorded_modules(model)):
        raise ValueError("explain: expected a model that calls each of its layers, got one that passes over some")
    chosen = [checked_index("image_tokens", token, image.features.shape[1]) for token in image_tokens]
    enhancer, decoder = _layers(model)
    features = [(image, text), *(calls[layer][1] for layer in enhancer)]  # after the backbone, then after each layer
    names = ["backbone", *(f"enhancer layer {number}" for number in range(1, len(features)))]
    query_tokens = calls[model.query_selection][1].image_tokens
    predictions = [*out.layers, out]
    proposals = calls[model.query_selection][1].boxes, _proposal_logits(out)
    boxes = [proposals[0], *(stage.boxes for stage in predictions)]
    logits = [proposals[1], *(stage.logits for stage in predictions)]
    first_index = torch.tensor([*vocabulary.indices[0], NO_PHRASE])  # -1, "no phrase", is the index of the last entry
    return Explanation(
        size=size,
        phrases=vocabulary.phrases,
        pieces=tuple(tokenizer().convert_ids_to_tokens(text.prompt.ids[0].tolist())),
        phrase_of_token=first_index[text.prompt.phrases[0].cpu()],
        shapes=tuple((int(height), int(width)) for height, width in image.shapes),
        stages=tuple(_stage(model, name, *pair) for name, pair in zip(names, features, strict=True)),
        enhancer=tuple(_enhancer_attention(layer, calls, chosen, size) for layer in enhancer),
        image_tokens=tuple(chosen),
        query_tokens=None if query_tokens is None else query_tokens[0].cpu(),
        boxes=torch.stack([to_pixels(stage[0].float(), *size) for stage in boxes]).cpu(),
        logits=torch.stack([stage[0].float() for stage in logits]).cpu(),
        decoder=tuple(_decoder_attention(layer, calls, text, size) for layer in decoder),
        detections=detections,
    )


def _stage(model: GroundingDINO, name: str, image: ImageTokens, text: TextTokens) -> Stage:
    with torch.autocast(image.features.device.type, enabled=False):
        image_features, text_features = (F.normalize(each.features[0].float(), dim=-1) for each in (image, text))
        similarity = image_features @ text_features.T  # (N, D) x (D, T) -> (N, T)
    logits = None
    if isinstance(model.query_selection, QuerySelection):  # static queries compare nothing
        _, usable = token_anchors(image)
        logits = model.query_selection.compare(image, text, usable)[1][0].float().cpu()
    return Stage(name, similarity.cpu(), logits)


def _enhancer_attention(layer: Any, calls: Calls, image_tokens: list[int], size: tuple[int, int]) -> EnhancerAttention:
    (image, text, *_), _ = calls[layer]
    over_text = over_image = None
    if layer.fusion is not None:
        with torch.autocast(image.features.device.type, enabled=False):  # as the layer itself: float16 could overflow
            weights = layer.fusion.attention_weights(
                image.features.float(), text.features.float(), image.mask, text.mask
            )
        over_text, over_image = (each[0].cpu() for each in weights)  # (1, h, N, T) -> (h, N, T)
    attention = layer.image_layer.attention
    (query, reference, *_), _ = calls[attention]
    points = _sample(attention, query[:, image_tokens], reference[:, image_tokens], image.shapes, size)
    return EnhancerAttention(over_text, over_image, *points)


def _decoder_attention(layer: Any, calls: Calls, text: TextTokens, size: tuple[int, int]) -> DecoderAttention:
    over_text = None
    if layer.text_attention is not None:
        (query, key, value), _ = calls[layer.text_attention]
        _, weights = layer.text_attention(
            query, key, value, key_padding_mask=~text.mask, need_weights=True, average_attn_weights=False
        )
        over_text = weights[0].transpose(0, 1).float().cpu()  # (1, H, Q, T) -> (Q, H, T)
    (query, reference, _, shapes, _), _ = calls[layer.image_attention]
    return DecoderAttention(over_text, *_sample(layer.image_attention, query, reference, shapes, size))


def _sample(
    attention: MultiScaleDeformableAttention,
    query: Tensor,
    reference: Tensor,
    shapes: list[tuple[int, int]],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Sampling points in pixels, [Q, H, L, P, 2], and their weights, [Q, H, L, P]."""
    locations, weights = attention.sample(query, reference, shapes)
    # without padding, the same locations hold in 0..1 of the image
    return (locations[0].float() * locations.new_tensor(size)).float().cpu(), weights[0].float().cpu()


def _proposal_logits(out: GroundingDINOOutput) -> Tensor:
    return torch.full_like(out.logits, torch.nan) if out.proposals is None else out.proposals.logits
