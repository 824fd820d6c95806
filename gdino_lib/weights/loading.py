"""Weights: official files, Hugging Face's (MM-Grounding-DINO's too) and our own; each is read, each is written.

`weight_names` has the table of every tensor's name, `weight_files` reads and writes. Loading accounts for every tensor:
it is used, or known to be of no use, or loading fails; and every parameter of the model is filled, or loading fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from data_prep.atomic import atomic_folder
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.timm_backbone import has_folded_batch_norms
from gdino_lib.weights.files import State, read_json, read_tensors, write_pth, write_safetensors
from gdino_lib.weights.hub import find
from gdino_lib.weights.names import COPIES, hub_name, our_name, port_name, their_names, why_unused

FORMATS = ("gdino_lib", "official", "hugging-face")
_METADATA = "gdino_lib"  # where our own files keep their configuration
SCALE = ".scale"  # of a tensor in 8 bits, one a row: the embedded model's word embeddings
_UNUSED_PREFIX = "unused."  # our own files keep such tensors, too, so that nothing is lost on the way back


@dataclass
class Checkpoint:
    """A weight file's contents.

    Attributes:
        state: the model's tensors by our names.
        config: as the file says, or as its shapes show.
        format: the layout it was in, one of `FORMATS`.
        unused: tensors that the model has no use for, by the names of the layout that they come from;
            `weight_names.why_unused` gives the reasons.
    """

    state: State
    config: GroundingDINOConfig
    format: str
    unused: State = field(default_factory=dict)


def load(
    path_or_name: str | Path, device: str | torch.device = "auto", config: GroundingDINOConfig | None = None
) -> GroundingDINO:
    """Build a model and fill it from a weight file.

    Args:
        path_or_name: "nano" (embedded; drawn pictograms only), "tiny" or "base" (fetched from the Hugging Face hub), or a
            `.pth` or `.safetensors` file, or a Hugging Face folder. Never unpickles code.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU; see `choose_device`.
        config: in place of the file's own.

    Returns:
        The model in float32, in evaluation mode, ready to be trained. For inference alone,
        `gdino_lib.model.timm_backbone.fold_batch_norms` makes a timm backbone such as nano's faster;
        `Detector.from_pretrained` does so.

    Raises:
        FileNotFoundError: no such file; weights that cannot be fetched, or were never released.
        ValueError: not a weight file of Grounding DINO, or one that does not fit `config`; the message lists the names;
            a device that cannot be used.
    """
    place = choose_device(device)  # refused before minutes of fetching and reading
    checkpoint = read(find(path_or_name))
    model = _unfilled(config or checkpoint.config, str(path_or_name))
    fill(model, checkpoint, str(path_or_name))
    return model.eval().to(place)


def choose_device(device: str | torch.device) -> torch.device:
    """What "auto" means here and now, or the device of that name.

    Raises:
        ValueError: no device has this name, or it cannot be used here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected auto, cpu, cuda, cuda:1 or mps, got {device!r}") from None
    try:
        torch.zeros(1, device=chosen).item()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"device: {str(chosen)!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return chosen


def fill(model: GroundingDINO, checkpoint: Checkpoint, source: str = "the file") -> None:
    """Copy a checkpoint's tensors into a model, all of them into all of it; half precision becomes the model's own.

    Raises:
        ValueError: names that are missing, unexpected, or of another shape or kind; the model is left as it was.
    """
    _check(model, checkpoint.state, source)
    model.load_state_dict(checkpoint.state)


def save(model: GroundingDINO, path: str | Path, about: Mapping[str, str] | None = None) -> None:
    """Write a model as our own `.safetensors`, its configuration inside.

    Args:
        about: more to keep in the file's metadata, for people; loading ignores it.

    Raises:
        ValueError: `path` has another suffix; the model's batch norms are folded.
        OSError: not writable; nothing half-written is left.
    """
    if has_folded_batch_norms(model):
        raise ValueError(
            f"cannot write {path}: this model is for inference, its batch norms are folded into its convolutions; "
            "save the model of gdino_lib.load"
        )
    _check_target(Path(path), "gdino_lib")
    _write_ours(Checkpoint(dict(model.state_dict()), model.config, "gdino_lib"), Path(path), about)


def convert(source: str | Path, target: str | Path, to: str, overwrite: bool = False) -> Checkpoint:
    """Write a weight file in another layout; tensors stay bit for bit, half precision stays half.

    Args:
        source: anything that `load` takes.
        target: a `.safetensors` file ("gdino_lib"), a `.pth` file ("official") or a folder ("hugging-face").
        to: one of `FORMATS`.
        overwrite: replace what stands at `target`.

    Returns:
        What was read.

    Raises:
        ValueError: an unknown layout, a model that the layout cannot hold, or a source that `load` would refuse.
        FileNotFoundError: as `load`.
        FileExistsError: `target` exists; or, with `overwrite`, is no such file, or a folder with other things in it.
        OSError: not writable; nothing half-written is left, and what stood at `target` stays.
    """
    if to not in FORMATS:
        raise ValueError(f"unknown layout {to!r}; expected one of {', '.join(FORMATS)}")
    target = Path(target)
    _check_target(target, to)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name, or pass --overwrite to replace it")
    checkpoint = read(find(source))
    _check(_unfilled(checkpoint.config, str(source)), checkpoint.state, str(source))
    if to == "gdino_lib":
        _write_ours(checkpoint, target)
    elif to == "official":
        write_pth(target, to_layout(checkpoint, to))
    else:
        state = {hub_name(name): tensor for name, tensor in to_layout(checkpoint, to).items()}
        with atomic_folder(target, overwrite) as folder:
            write_safetensors(folder / "model.safetensors", state)
            hugging_face_config(checkpoint.config).save_pretrained(folder)
    return checkpoint


def read(path: str | Path) -> Checkpoint:
    """Read a weight file of any layout. Whether it fills a whole model is for `fill` to say.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, pickled code, another model's, a training checkpoint, or a tensor that is neither used nor
            known to be of no use.
    """
    path = Path(path)
    state, metadata = read_tensors(path)
    if _METADATA in metadata:
        return _from_ours(state, metadata[_METADATA], str(path))
    if "feat_map.weight" in state:
        return from_layout(state, "official", source=str(path))
    if "model.text_projection.weight" in state:
        file = (path if path.is_dir() else path.parent) / "config.json"
        return from_layout(state, "hugging-face", read_json(file) if file.is_file() else None, str(path))
    if any(name.startswith("feature_enhancer.") for name in state):
        raise ValueError(
            f"{path} has our tensors and no configuration, as a training checkpoint does: finish its run with --resume, "
            "or use the run's best.safetensors or last.safetensors; gdino_lib.weights.loading.save writes both"
        )
    raise ValueError(f"{path} holds no Grounding DINO: none of its {len(state)} tensors is a text projection")


def from_layout(
    state: State, layout: str, config: Mapping[str, Any] | None = None, source: str = "the file"
) -> Checkpoint:
    """Our names for a state dict in another layout.

    Args:
        config: the `config.json` of a Hugging Face folder; sizes that shapes do not show come from it.
        source: for messages.

    Raises:
        ValueError: names that are unexpected or missing, copies that disagree, a `config` that the tensors contradict.
    """
    if layout == "hugging-face":
        state = {port_name(name): tensor for name, tensor in state.items()}
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
    _complain(source, {"unexpected": unexpected, "missing": partial})
    try:
        # three parts, stacked by rows: 3 x (D, ...) -> (3 D, ...)
        ours |= {name: torch.cat([rows[0], rows[1], rows[2]]) for name, rows in parts.items()}
        ours = _heads(ours, None if config is None else config.get("decoder_bbox_embed_share", True))
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
    _check_layout(config, layout)
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
    """A model's sizes from its tensors' shapes; heads and points, which shapes do not show, from a Hugging Face
    configuration or the official model.

    Args:
        state: by our names, with a Swin backbone.
        config: a `config.json`'s content; None: as the official model.

    Raises:
        KeyError: a tensor that is missing.
        ValueError: `config` is another model's, or contradicts the tensors; or sizes that do not go together.
    """
    official = config is None
    config = {} if official else config

    def count(pattern: str) -> int:
        return len({m[0] for name in state if (m := re.match(pattern, name))})

    swin = "image_backbone.backbone."
    stages = count(rf"{re.escape(swin)}stages\.(\d+)\.")
    bias = [state[f"{swin}stages.{stage}.0.attention.relative_position_bias"] for stage in range(stages)]
    width, bert_width = state["text_encoder.projection.weight"].shape
    fusion = "feature_enhancer.layers.0.fusion.image_query.weight"
    levels = len(state["image_backbone.level_embedding"])
    points = config.get("encoder_n_points", 4)
    attention = state["feature_enhancer.layers.0.image_layer.attention.attention_weights.weight"]
    heads = len(attention) // (levels * points)
    scaled = "query_selection.contrastive_head.bias" in state
    if not official:
        _check_json(config, heads, scaled)
    return GroundingDINOConfig(
        swin_width=len(state[f"{swin}patch_embedding.norm.weight"]),
        swin_depths=tuple(count(rf"{re.escape(swin)}stages\.{stage}\.(\d+)\.") for stage in range(stages)),
        swin_heads=tuple(table.shape[1] for table in bias),
        swin_window=(round(len(bias[0]) ** 0.5) + 1) // 2,
        levels=levels,
        vocabulary=len(state["text_encoder.bert.embeddings.word_embeddings.weight"]),
        bert_width=bert_width,
        bert_layers=count(r"text_encoder\.bert\.encoder\.layer\.(\d+)\."),
        bert_heads=(config.get("text_config") or {}).get("num_attention_heads", 12),
        bert_ffn_width=len(state["text_encoder.bert.encoder.layer.0.intermediate.dense.weight"]),
        max_tokens=config.get("max_text_len", 256),
        width=width,
        heads=heads,
        ffn_width=len(state["feature_enhancer.layers.0.image_layer.linear1.weight"]),
        points=points,
        encoder_layers=count(r"feature_enhancer\.layers\.(\d+)\."),
        decoder_layers=count(r"decoder\.layers\.(\d+)\."),
        queries=len(state["query_selection.contents"]),
        text_heads=4 if official else heads // 2,
        text_ffn_width=len(state["feature_enhancer.layers.0.text_layer.linear1.weight"]),
        fusion_heads=4 if official else heads // 2,
        fusion_width=len(state[fusion]) if fusion in state else GroundingDINOConfig.fusion_width,
        fusion=fusion in state,
        text_cross_attention="decoder.layers.0.text_norm.weight" in state,
        scaled_logits=scaled,
        shared_box_head=count(r"decoder\.box_heads\.(\d+)\.") == 1,
        position_temperature=float(config.get("positional_embedding_temperature", 20)),
    )


def hugging_face_config(config: GroundingDINOConfig) -> Any:
    """The same sizes as a configuration of transformers' port.

    Raises:
        ValueError: the port has no such model.
    """
    from transformers import BertConfig, GroundingDinoConfig, MMGroundingDinoConfig, SwinConfig

    c = config
    _check_layout(c, "hugging-face")
    swin = SwinConfig(
        embed_dim=c.swin_width,
        depths=list(c.swin_depths),
        num_heads=list(c.swin_heads),
        window_size=c.swin_window,
        image_size=384 if c.swin_window == 12 else 224,
        drop_path_rate=c.backbone_drop_path,
        out_indices=[2, 3, 4],
    )
    bert = BertConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.bert_width,
        num_hidden_layers=c.bert_layers,
        num_attention_heads=c.bert_heads,
        intermediate_size=c.bert_ffn_width,
    )
    shared = {
        "backbone_config": swin,
        "text_config": bert,
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


def _check(model: GroundingDINO, state: State, source: str) -> None:
    wanted = model.state_dict()
    both = [(name, state[name], wanted[name]) for name in sorted(wanted.keys() & state.keys())]
    _complain(
        source,
        {
            "missing": sorted(wanted.keys() - state.keys()),
            "unexpected": sorted(state.keys() - wanted.keys()),
            "of another shape": [
                f"{n} {list(given.shape)} instead of {list(own.shape)}"
                for n, given, own in both
                if given.shape != own.shape
            ],
            "of another kind": [
                f"{n} {given.dtype}" for n, given, own in both if given.is_floating_point() != own.is_floating_point()
            ],
        },
    )


def _complain(source: str, faults: Mapping[str, list[str]], shown: int = 4) -> None:
    """One line with counts and the first names of each fault, if there is any."""
    texts = []
    for fault, names in faults.items():
        if names:
            more = f", ... ({len(names) - shown} more)" if len(names) > shown else ""
            texts.append(f"{len(names)} {fault}: {', '.join(names[:shown])}{more}")
    if texts:
        raise ValueError(f"{source} does not fit the model: {'; '.join(texts)}")


def _check_target(target: Path, layout: str) -> None:
    if layout != "hugging-face":
        if (target.suffix == ".safetensors") != (layout == "gdino_lib"):
            expected = "a .safetensors file" if layout == "gdino_lib" else "a .pth file"
            raise ValueError(f"cannot write {target}: the {layout} layout is {expected}")
        if target.is_dir():
            raise FileExistsError(f"{target} is a folder; expected a file to write")
        return
    others = {file.name for file in target.iterdir()} if target.is_dir() else set()
    if others := others - {"config.json", "model.safetensors"}:  # a folder is replaced whole: this one is somebody's
        raise FileExistsError(f"{target} holds other things ({min(others)}); choose another folder")


class _NoRandomWeights(TorchFunctionMode):
    """Parameters stay as memory happens to be: drawing 172 million numbers takes ten times as long as all the rest."""

    SKIPPED = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"})

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _unfilled(config: GroundingDINOConfig, source: str) -> GroundingDINO:
    """A model to be filled, or to compare with; its weights are arbitrary."""
    try:
        with _NoRandomWeights():
            return GroundingDINO(config)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: no model can be built as its configuration says: {error}") from None


def _write_ours(checkpoint: Checkpoint, path: Path, about: Mapping[str, str] | None = None) -> None:
    state = checkpoint.state | {_UNUSED_PREFIX + name: tensor for name, tensor in checkpoint.unused.items()}
    write_safetensors(path, state, {**(about or {}), **our_metadata(checkpoint.config)})


def our_metadata(config: GroundingDINOConfig) -> dict[str, str]:
    """What makes a safetensors file one of ours."""
    return {_METADATA: json.dumps(config.to_dict())}


def _from_ours(state: State, config: str, source: str) -> Checkpoint:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no size")

    try:
        sizes = GroundingDINOConfig.from_dict(json.loads(config, parse_constant=refuse))
        if ":" in sizes.backbone:  # timm would look for it on the network
            raise ValueError(f"backbone {sizes.backbone!r}")
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{source}: its configuration is damaged, or of another version: {reason}") from None
    for name in [name for name in state if name.endswith(SCALE) and name.removesuffix(SCALE) in state]:
        state[name.removesuffix(SCALE)] = state[name.removesuffix(SCALE)].float() * state.pop(name).float()
    unused = {
        name.removeprefix(_UNUSED_PREFIX): state.pop(name) for name in list(state) if name.startswith(_UNUSED_PREFIX)
    }
    _complain(source, {"unexpected": [_UNUSED_PREFIX + name for name in unused if not why_unused(name)]})
    return Checkpoint(state, sizes, "gdino_lib", unused)


def _without_copies(state: State, layout: str, source: str) -> State:
    """One of each two copies, under the first name; they must agree."""
    result = dict(state)
    for first, copy in COPIES[layout].items():
        for name in [name for name in result if name.startswith(copy)]:
            tensor, other = result.pop(name), first + name.removeprefix(copy)
            if other in result and not torch.equal(result[other], tensor):
                raise ValueError(f"{source}: {name} and {other} must be the same tensor and differ")
            result[other] = tensor
    return result


def _heads(ours: State, shared: bool | None) -> State:
    """One box head where all layers share it, one contrastive head for each layer, however the file has them.

    Args:
        shared: as a configuration says; None: shared if all box heads are alike.
    """
    result = dict(ours)
    layers = 1 + max((int(m[1]) for name in ours if (m := re.match(r"decoder\.layers\.(\d+)\.", name))), default=0)
    for layer in range(1, layers):  # MM-Grounding-DINO's heads can be one for all layers
        if (only := ours.get("contrastive_heads.0.bias")) is not None:
            result.setdefault(f"contrastive_heads.{layer}.bias", only)
    others = {name: re.sub(r"^(decoder\.box_heads)\.[1-9]\d*\.", r"\1.0.", name) for name in ours}
    others = {name: first for name, first in others.items() if name != first}
    different = [n for n, first in others.items() if first not in ours or not torch.equal(ours[n], ours[first])]
    if shared and different:
        raise ValueError(f"config.json says that all layers share one box head, and {different[0]} differs")
    if shared or (shared is None and not different):
        return {name: tensor for name, tensor in result.items() if name not in others}
    return result


def _constants(checkpoint: Checkpoint, layout: str) -> State:
    """Tensors that a layout has and no forward pass uses, as they would be in a new file."""
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


def _check_json(config: Mapping[str, Any], heads: int, scaled: bool) -> None:
    """A `config.json` must be that of the model that the tensors are, as far as shapes do not show it anyway."""
    kind = config.get("model_type")
    if kind not in ("grounding-dino", "mm-grounding-dino"):
        raise ValueError(f"config.json describes a {kind!r} model")
    if scaled != (kind == "mm-grounding-dino"):
        raise ValueError(f"config.json describes a {kind!r} model, and the tensors are another's")
    if (activation := config.get("activation_function", "relu")) != "relu":
        raise ValueError(f"config.json asks for the activation {activation!r}, not relu")
    said = [config.get(f"{part}_attention_heads", 8) for part in ("encoder", "decoder")]
    if said != [heads, heads]:
        raise ValueError(f"config.json says {said} attention heads, and the tensors have {heads}")


def _check_layout(config: GroundingDINOConfig, layout: str) -> None:
    """A layout holds the models of the code that it belongs to; what its files do not say must be what that code does."""
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
