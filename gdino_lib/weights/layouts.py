"""Translate between the layouts of weight files: rename the tensors, and read the model's sizes from them.

The layouts are that of the official files and that of Hugging Face, which MM-Grounding-DINO uses, too.
`gdino_lib.weights.names` has the table of all names. A file is refused if one of its tensors is neither used nor known to be
useless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.text_encoder import bert_config
from gdino_lib.weights.files import State
from gdino_lib.weights.names import COPIES, our_name, port_name, their_names, why_unused

FORMATS = ("gdino_lib", "official", "hugging-face")


@dataclass
class Checkpoint:
    """A weight file's contents.

    Attributes:
        state: the model's tensors by our names.
        config: the configuration that the file states, or that the shapes of its tensors show.
        format: the layout of the file, one of `FORMATS`.
        unused: tensors that the model does not use, by their names in the file's layout;
            `gdino_lib.weights.names.why_unused` gives the reasons.
    """

    state: State
    config: GroundingDINOConfig
    format: str
    unused: State = field(default_factory=dict)


def from_layout(
    state: State, layout: str, config: Mapping[str, Any] | None = None, source: str = "the file"
) -> Checkpoint:
    """Translate a state dict from another layout into ours.

    Args:
        config: the `config.json` of a Hugging Face folder; sizes that shapes do not show come from it.
        source: the file's name, for messages.

    Raises:
        ValueError: names that are unexpected or missing, copies that disagree, a `config` that the tensors contradict.
    """
    if layout == "hugging-face":
        renamed = {port_name(name): tensor for name, tensor in state.items()}
        if len(renamed) < len(state):
            raise ValueError(f"{source} holds tensors twice, under an old and a new name of the port's Swin")
        state = renamed
    ours: State = {}
    parts: dict[str, dict[int, Tensor]] = {}
    unused: State = {}
    unexpected: list[str] = []
    for name, tensor in _without_copies(state, layout, source).items():
        if why_unused(name):
            unused[name] = tensor
        elif (known := our_name(name, layout)) is None:
            unexpected.append(name)
        elif known[1] is None:
            ours[known[0]] = tensor
        else:
            parts.setdefault(known[0], {})[known[1]] = tensor
    partial = [f"{name} (only {len(rows)} of 3 parts)" for name, rows in parts.items() if len(rows) < 3]
    raise_faults(source, {"unexpected": unexpected, "missing": partial})
    try:
        # three parts, stacked by rows: 3 x (D, ...) -> (3 D, ...)
        ours |= {name: torch.cat([rows[0], rows[1], rows[2]]) for name, rows in parts.items()}
        ours = _unify_heads(ours, None if config is None else config.get("decoder_bbox_embed_share", True))
        sizes = infer_config(ours, config)
    except KeyError as error:
        raise ValueError(f"{source} does not fit the model: missing {error.args[0]}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{source} does not fit the model: {error}") from None
    return Checkpoint(ours, sizes, layout, unused)


def to_layout(checkpoint: Checkpoint, layout: str) -> State:
    """A checkpoint's tensors by the names of another layout, second copies and unused tensors included.

    Raises:
        ValueError: the layout cannot hold this model.
    """
    config = checkpoint.config
    _check_layout_holds(config, layout)
    state = dict(checkpoint.state)
    if config.shared_box_head:
        for name in [name for name in state if name.startswith("decoder.box_heads.0.")]:
            state |= {name.replace(".0.", f".{layer}.", 1): state[name] for layer in range(1, config.decoder_layers)}
    theirs: State = {}
    for name, tensor in state.items():
        names = their_names(name, layout)
        if not names:
            raise ValueError(f"the {layout} layout has no place for {name}")
        theirs |= zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor], strict=True)
    for first, copy in COPIES[layout].items():
        theirs |= {copy + name.removeprefix(first): tensor for name, tensor in theirs.items() if name.startswith(first)}
    kept = {n: t for n, t in checkpoint.unused.items() if n.startswith("model.") == (layout == "hugging-face")}
    return theirs | (kept or _constants(checkpoint, layout))


def infer_config(state: State, config: Mapping[str, Any] | None = None) -> GroundingDINOConfig:
    """Read a model's sizes from its tensors' shapes.

    Shapes do not show how many heads and points there are. These numbers come from a Hugging Face configuration; without
    one, they are the official model's.

    Args:
        state: tensors by our names, with a Swin backbone.
        config: content of a `config.json`; None: the official model's values.

    Raises:
        KeyError: a tensor that is missing.
        ValueError: `config` is another model's, or contradicts the tensors; or sizes that do not go together.
    """
    official = config is None
    config = {} if official else config
    width, bert_width = state["text_encoder.projection.weight"].shape
    fusion = "feature_enhancer.layers.0.fusion.image_query.weight"
    levels = len(state["image_backbone.level_embedding"])
    points = config.get("encoder_n_points", 4)
    attention = state["feature_enhancer.layers.0.image_layer.attention.attention_weights.weight"]
    heads = len(attention) // (levels * points)
    scaled = "query_selection.contrastive_head.bias" in state
    if not official:
        _check_config_json(config, heads, scaled)
    return GroundingDINOConfig(
        **_swin_sizes(state),
        levels=levels,
        vocabulary=len(state["text_encoder.bert.embeddings.word_embeddings.weight"]),
        bert_width=bert_width,
        bert_layers=_count(state, r"text_encoder\.bert\.encoder\.layer\.(\d+)\."),
        bert_heads=(config.get("text_config") or {}).get("num_attention_heads", 12),
        bert_ffn_width=len(state["text_encoder.bert.encoder.layer.0.intermediate.dense.weight"]),
        max_tokens=config.get("max_text_len", 256),
        width=width,
        heads=heads,
        ffn_width=len(state["feature_enhancer.layers.0.image_layer.linear1.weight"]),
        points=points,
        encoder_layers=_count(state, r"feature_enhancer\.layers\.(\d+)\."),
        decoder_layers=_count(state, r"decoder\.layers\.(\d+)\."),
        queries=len(state["query_selection.contents"]),
        text_heads=4 if official else heads // 2,
        text_ffn_width=len(state["feature_enhancer.layers.0.text_layer.linear1.weight"]),
        fusion_heads=4 if official else heads // 2,
        fusion_width=len(state[fusion]) if fusion in state else GroundingDINOConfig.fusion_width,
        fusion=fusion in state,
        text_cross_attention="decoder.layers.0.text_norm.weight" in state,
        scaled_logits=scaled,
        shared_box_head=_count(state, r"decoder\.box_heads\.(\d+)\.") == 1,
        position_temperature=float(config.get("positional_embedding_temperature", 20)),
    )


def _swin_sizes(state: State) -> dict[str, Any]:
    """The backbone's fields of the configuration."""
    swin = "image_backbone.backbone."
    stages = range(_count(state, rf"{re.escape(swin)}stages\.(\d+)\."))
    bias = [state[f"{swin}stages.{stage}.0.attention.relative_position_bias"] for stage in stages]
    return {
        "swin_width": len(state[f"{swin}patch_embedding.norm.weight"]),
        "swin_depths": tuple(_count(state, rf"{re.escape(swin)}stages\.{stage}\.(\d+)\.") for stage in stages),
        "swin_heads": tuple(table.shape[1] for table in bias),
        "swin_window": (round(len(bias[0]) ** 0.5) + 1) // 2,
        "swin_maps": 4 if f"{swin}finest_norm.weight" in state else 3,
    }


def _count(state: State, pattern: str) -> int:
    """How many layers there are: the number of different beginnings of names that match the pattern."""
    return len({match[0] for name in state if (match := re.match(pattern, name))})


def hugging_face_config(config: GroundingDINOConfig) -> Any:
    """The configuration of transformers' port with the same sizes.

    Raises:
        ValueError: the port has no such model.
    """
    from transformers import GroundingDinoConfig, MMGroundingDinoConfig, SwinConfig

    c = config
    _check_layout_holds(c, "hugging-face")
    swin = SwinConfig(
        embed_dim=c.swin_width,
        depths=list(c.swin_depths),
        num_heads=list(c.swin_heads),
        window_size=c.swin_window,
        image_size=384 if c.swin_window == 12 else 224,
        drop_path_rate=c.backbone_drop_path,
        out_indices=[1, 2, 3, 4][-c.swin_maps :],  # pyright: ignore[reportCallIssue]  # a keyword of the backbone mixin, not a field
    )
    shared = {
        "backbone_config": swin,
        "text_config": bert_config(c),
        "num_queries": c.queries,
        "encoder_layers": c.encoder_layers,
        "encoder_ffn_dim": c.ffn_width,
        "encoder_attention_heads": c.heads,
        "decoder_layers": c.decoder_layers,
        "decoder_ffn_dim": c.ffn_width,
        "decoder_attention_heads": c.heads,
        "d_model": c.width,
        "dropout": c.dropout,
        "num_feature_levels": c.levels,
        "encoder_n_points": c.points,
        "decoder_n_points": c.points,
        "max_text_len": c.max_tokens,
        "fusion_droppath": c.fusion_drop_path,
        "positional_embedding_temperature": int(c.position_temperature),
        "decoder_bbox_embed_share": c.shared_box_head,
    }
    if c.scaled_logits:
        return MMGroundingDinoConfig(**shared, decoder_cls_embed_share=False)
    return GroundingDinoConfig(**shared)


def raise_faults(source: str, faults: Mapping[str, list[str]], shown: int = 4) -> None:
    """Refuse a file with faulty tensors, in one line with their numbers and the first names.

    Args:
        faults: {fault, such as "missing": names of the tensors that have it}.
        shown: how many names of each fault the message lists.

    Raises:
        ValueError: a tensor has a fault.
    """
    texts = []
    for fault, names in faults.items():
        if names:
            more = f", ... ({len(names) - shown} more)" if len(names) > shown else ""
            texts.append(f"{len(names)} {fault}: {', '.join(names[:shown])}{more}")
    if texts:
        raise ValueError(f"{source} does not fit the model: {'; '.join(texts)}")


def _without_copies(state: State, layout: str, source: str) -> State:
    """Keep one copy of each tensor that the layout stores twice, under its first name; the copies must be equal."""
    result = dict(state)
    for first, copy in COPIES[layout].items():
        for name in [name for name in result if name.startswith(copy)]:
            tensor, other = result.pop(name), first + name.removeprefix(copy)
            if other in result and not torch.equal(result[other], tensor):
                raise ValueError(f"{source}: {name} and {other} must be the same tensor and differ")
            result[other] = tensor
    return result


def _unify_heads(ours: State, shared: bool | None) -> State:
    """Bring the heads into our layout: one box head if all layers share it, and one contrastive head for each layer.

    Args:
        shared: whether the layers share one box head, by the configuration; None: they do if all box heads are alike.
    """
    result = dict(ours)
    layers = _count(ours, r"decoder\.layers\.(\d+)\.")  # counted, because a name may hold any number
    for layer in range(1, layers):  # in MM-Grounding-DINO, all layers may share one contrastive head
        if (only := ours.get("contrastive_heads.0.bias")) is not None:
            result.setdefault(f"contrastive_heads.{layer}.bias", only)
    others = {name: re.sub(r"^(decoder\.box_heads)\.[1-9]\d*\.", r"\1.0.", name) for name in ours}
    others = {name: first for name, first in others.items() if name != first}
    different = [n for n, first in others.items() if first not in ours or not torch.equal(ours[n], ours[first])]
    if shared and different:
        raise ValueError(f"config.json says that all layers share one box head, but {different[0]} differs")
    if shared or (shared is None and not different):
        return {name: tensor for name, tensor in result.items() if name not in others}
    return result


def _constants(checkpoint: Checkpoint, layout: str) -> State:
    """The tensors of a layout that no forward pass uses, with the values of a new file."""
    config, state = checkpoint.config, checkpoint.state
    if layout == "hugging-face":
        width = config.swin_width * 2 ** (len(config.swin_depths) - 1)
        norm = "model.backbone.conv_encoder.model.swin.layernorm."
        return {norm + "weight": torch.ones(width), norm + "bias": torch.zeros(width)}
    pooler = "bert.pooler.dense."
    result = {
        pooler + "weight": torch.zeros(config.bert_width, config.bert_width),
        pooler + "bias": torch.zeros(config.bert_width),
    }
    side = torch.arange(config.swin_window)
    y, x = torch.meshgrid(side, side, indexing="ij")
    y, x = (axis.flatten()[:, None] - axis.flatten() + config.swin_window - 1 for axis in (y, x))  # offsets from 0
    for name in state:
        if name.startswith("image_backbone.") and name.endswith(".relative_position_bias"):
            table = their_names(name, "official")[0]
            result[table.replace("_bias_table", "_index")] = y * (2 * config.swin_window - 1) + x
    return result


def _check_config_json(config: Mapping[str, Any], heads: int, scaled: bool) -> None:
    """Refuse a `config.json` that belongs to another model than the tensors."""
    kind = config.get("model_type")
    if kind not in ("grounding-dino", "mm-grounding-dino"):
        raise ValueError(f"config.json describes a {kind!r} model")
    if scaled != (kind == "mm-grounding-dino"):
        raise ValueError(f"config.json describes a {kind!r} model, but the tensors are of the other kind")
    if (activation := config.get("activation_function", "relu")) != "relu":
        raise ValueError(f"config.json asks for the activation {activation!r}, not relu")
    said = [config.get(f"{part}_attention_heads", 8) for part in ("encoder", "decoder")]
    if said != [heads, heads]:
        raise ValueError(f"config.json says {said} attention heads, but the tensors have {heads}")


def _check_layout_holds(config: GroundingDINOConfig, layout: str) -> None:
    """Refuse a model that the code of a layout cannot run: its files do not state these fields, so the values are fixed."""
    c = config
    demands: dict[str, Any] = {"backbone": "swin", "language_guided": True, "text_mode": "sub-sentence"}
    demands |= {"text_framed": False, "landmarks": 0}
    if layout == "official":
        demands |= {"scaled_logits": False, "bert_heads": 12, "points": 4, "text_heads": 4, "fusion_heads": 4}
        demands |= {"position_temperature": 20}
    else:
        demands |= {"fusion": True, "text_cross_attention": True, "text_heads": c.heads // 2}
        demands |= {"fusion_heads": c.heads // 2, "fusion_width": c.ffn_width // 2, "text_ffn_width": c.ffn_width // 2}
        demands |= {"position_temperature": round(c.position_temperature)}
    wrong = [
        f"{name} must be {value!r}, is {getattr(c, name)!r}"
        for name, value in demands.items()
        if getattr(c, name) != value
    ]
    if wrong:
        raise ValueError(f"the {layout} layout cannot hold this model: {'; '.join(wrong)}")
