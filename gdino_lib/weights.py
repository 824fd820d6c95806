"""Weight files: official `.pth`, Hugging Face's (MM-Grounding-DINO's too), our own; each is read, each is written.

One table gives every tensor's name in the three layouts. Loading accounts for every tensor: it is used, or known to be
of no use, or loading fails; and every parameter of the model is filled, or loading fails.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_prep.atomic import atomic_file, atomic_folder
from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO

State = dict[str, Tensor]

FORMATS = ("gdino_lib", "official", "hugging-face")
HUB = {  # name on the hub, and the commit to fetch
    "tiny": ("IDEA-Research/grounding-dino-tiny", "a2bb814dd30d776dcf7e30523b00659f4f141c71"),
    "base": ("IDEA-Research/grounding-dino-base", "12bdfa3120f3e7ec7b434d90674b3396eccf88eb"),
}

# Columns: ours, official, Hugging Face; each row's names follow the group's three prefixes. {i}, {j}: the same numbers
# in each column; *: the rest of the name, the same in each; [a|b|c]: three tensors, stacked by rows in the other
# layouts; -: no such tensor.
TABLE = """
image_backbone.backbone.                       backbone.0.                               model.backbone.conv_encoder.model.
    patch_embedding.projection.*               patch_embed.proj.*                        swin.embeddings.patch_embeddings.projection.*
    patch_embedding.norm.*                     patch_embed.norm.*                        swin.embeddings.norm.*
    stages.{i}.{j}.norm1.*                     layers.{i}.blocks.{j}.norm1.*             swin.encoder.layers.{i}.blocks.{j}.layernorm_before.*
    stages.{i}.{j}.norm2.*                     layers.{i}.blocks.{j}.norm2.*             swin.encoder.layers.{i}.blocks.{j}.layernorm_after.*
    stages.{i}.{j}.attention.qkv.*             layers.{i}.blocks.{j}.attn.qkv.*          swin.encoder.layers.{i}.blocks.{j}.attention.[q_proj|k_proj|v_proj].*
    stages.{i}.{j}.attention.projection.*      layers.{i}.blocks.{j}.attn.proj.*         swin.encoder.layers.{i}.blocks.{j}.attention.o_proj.*
    stages.{i}.{j}.attention.relative_position_bias layers.{i}.blocks.{j}.attn.relative_position_bias_table swin.encoder.layers.{i}.blocks.{j}.attention.relative_position_bias.relative_position_bias_table
    stages.{i}.{j}.mlp.0.*                     layers.{i}.blocks.{j}.mlp.fc1.*           swin.encoder.layers.{i}.blocks.{j}.mlp.fc1.*
    stages.{i}.{j}.mlp.2.*                     layers.{i}.blocks.{j}.mlp.fc2.*           swin.encoder.layers.{i}.blocks.{j}.mlp.fc2.*
    mergings.{i}.*                             layers.{i}.downsample.*                   swin.encoder.layers.{i}.downsample.*
    norms.0.*                                  norm1.*                                   hidden_states_norms.stage2.*
    norms.1.*                                  norm2.*                                   hidden_states_norms.stage3.*
    norms.2.*                                  norm3.*                                   hidden_states_norms.stage4.*
image_backbone.                                .                                         model.
    projections.{i}.*                          input_proj.{i}.*                          input_proj_vision.{i}.*
    level_embedding                            transformer.level_embed                   level_embed
text_encoder.                                  .                                         model.
    bert.*                                     bert.*                                    text_backbone.*
    projection.*                               feat_map.*                                text_projection.*
feature_enhancer.layers.                       transformer.encoder.                      model.encoder.layers.
    {i}.fusion.image_norm.*                    fusion_layers.{i}.layer_norm_v.*          {i}.fusion_layer.layer_norm_vision.*
    {i}.fusion.text_norm.*                     fusion_layers.{i}.layer_norm_l.*          {i}.fusion_layer.layer_norm_text.*
    {i}.fusion.image_query.*                   fusion_layers.{i}.attn.v_proj.*           {i}.fusion_layer.attn.vision_proj.*
    {i}.fusion.text_key.*                      fusion_layers.{i}.attn.l_proj.*           {i}.fusion_layer.attn.text_proj.*
    {i}.fusion.image_value.*                   fusion_layers.{i}.attn.values_v_proj.*    {i}.fusion_layer.attn.values_vision_proj.*
    {i}.fusion.text_value.*                    fusion_layers.{i}.attn.values_l_proj.*    {i}.fusion_layer.attn.values_text_proj.*
    {i}.fusion.image_output.*                  fusion_layers.{i}.attn.out_v_proj.*       {i}.fusion_layer.attn.out_vision_proj.*
    {i}.fusion.text_output.*                   fusion_layers.{i}.attn.out_l_proj.*       {i}.fusion_layer.attn.out_text_proj.*
    {i}.fusion.image_scale                     fusion_layers.{i}.gamma_v                 {i}.fusion_layer.vision_param
    {i}.fusion.text_scale                      fusion_layers.{i}.gamma_l                 {i}.fusion_layer.text_param
    {i}.text_layer.attention.in_proj_*         text_layers.{i}.self_attn.in_proj_*       {i}.text_enhancer_layer.self_attn.[query|key|value].*
    {i}.text_layer.attention.out_proj.*        text_layers.{i}.self_attn.out_proj.*      {i}.text_enhancer_layer.self_attn.out_proj.*
    {i}.text_layer.norm1.*                     text_layers.{i}.norm1.*                   {i}.text_enhancer_layer.layer_norm_before.*
    {i}.text_layer.norm2.*                     text_layers.{i}.norm2.*                   {i}.text_enhancer_layer.layer_norm_after.*
    {i}.text_layer.linear1.*                   text_layers.{i}.linear1.*                 {i}.text_enhancer_layer.fc1.*
    {i}.text_layer.linear2.*                   text_layers.{i}.linear2.*                 {i}.text_enhancer_layer.fc2.*
    {i}.image_layer.attention.sampling_offsets.*  layers.{i}.self_attn.sampling_offsets.*   {i}.deformable_layer.self_attn.sampling_offsets.*
    {i}.image_layer.attention.attention_weights.* layers.{i}.self_attn.attention_weights.*  {i}.deformable_layer.self_attn.attention_weights.*
    {i}.image_layer.attention.value_projection.*  layers.{i}.self_attn.value_proj.*         {i}.deformable_layer.self_attn.value_proj.*
    {i}.image_layer.attention.output_projection.* layers.{i}.self_attn.output_proj.*        {i}.deformable_layer.self_attn.output_proj.*
    {i}.image_layer.norm1.*                    layers.{i}.norm1.*                        {i}.deformable_layer.self_attn_layer_norm.*
    {i}.image_layer.norm2.*                    layers.{i}.norm2.*                        {i}.deformable_layer.final_layer_norm.*
    {i}.image_layer.linear1.*                  layers.{i}.linear1.*                      {i}.deformable_layer.fc1.*
    {i}.image_layer.linear2.*                  layers.{i}.linear2.*                      {i}.deformable_layer.fc2.*
query_selection.                               transformer.                              model.
    contents                                   tgt_embed.weight                          query_position_embeddings.weight
    projection.*                               enc_output.*                              enc_output.*
    norm.*                                     enc_output_norm.*                         enc_output_norm.*
    box_head.*                                 enc_out_bbox_embed.*                      encoder_output_bbox_embed.*
    contrastive_head.bias                      -                                         encoder_output_class_embed.bias
decoder.                                       transformer.decoder.                      model.decoder.
    layers.{i}.self_attention.in_proj_*        layers.{i}.self_attn.in_proj_*            layers.{i}.self_attn.[query|key|value].*
    layers.{i}.self_attention.out_proj.*       layers.{i}.self_attn.out_proj.*           layers.{i}.self_attn.out_proj.*
    layers.{i}.self_norm.*                     layers.{i}.norm2.*                        layers.{i}.self_attn_layer_norm.*
    layers.{i}.text_attention.in_proj_*        layers.{i}.ca_text.in_proj_*              layers.{i}.encoder_attn_text.[query|key|value].*
    layers.{i}.text_attention.out_proj.*       layers.{i}.ca_text.out_proj.*             layers.{i}.encoder_attn_text.out_proj.*
    layers.{i}.text_norm.*                     layers.{i}.catext_norm.*                  layers.{i}.encoder_attn_text_layer_norm.*
    layers.{i}.image_attention.sampling_offsets.*  layers.{i}.cross_attn.sampling_offsets.*  layers.{i}.encoder_attn.sampling_offsets.*
    layers.{i}.image_attention.attention_weights.* layers.{i}.cross_attn.attention_weights.* layers.{i}.encoder_attn.attention_weights.*
    layers.{i}.image_attention.value_projection.*  layers.{i}.cross_attn.value_proj.*        layers.{i}.encoder_attn.value_proj.*
    layers.{i}.image_attention.output_projection.* layers.{i}.cross_attn.output_proj.*       layers.{i}.encoder_attn.output_proj.*
    layers.{i}.image_norm.*                    layers.{i}.norm1.*                        layers.{i}.encoder_attn_layer_norm.*
    layers.{i}.linear1.*                       layers.{i}.linear1.*                      layers.{i}.fc1.*
    layers.{i}.linear2.*                       layers.{i}.linear2.*                      layers.{i}.fc2.*
    layers.{i}.ffn_norm.*                      layers.{i}.norm3.*                        layers.{i}.final_layer_norm.*
    norm.*                                     norm.*                                    layer_norm.*
    position_head.*                            ref_point_head.*                          reference_points_head.*
    box_heads.{i}.*                            bbox_embed.{i}.*                          bbox_embed.{i}.*
.                                              -                                         model.decoder.
    contrastive_heads.{i}.bias                 -                                         class_embed.{i}.bias
"""  # noqa: E501

# second copies that the two other layouts keep of the same tensors
COPIES = {
    "official": {"transformer.decoder.bbox_embed.": "bbox_embed."},
    "hugging-face": {"model.decoder.bbox_embed.": "bbox_embed.", "model.decoder.class_embed.": "class_embed."},
}

# names in the hub's files, written by older releases of transformers, to those of its present state_dict
_OLD_SWIN = [
    (r"^(model\.backbone\.conv_encoder\.model\.)(encoder|embeddings|layernorm)\.", r"\1swin.\2."),
    (r"(swin\..*)attention\.self\.(query|key|value)\.", lambda m: f"{m[1]}attention.{m[2][0]}_proj."),
    (
        r"(swin\..*attention\.)self\.(relative_position_bias_table|relative_position_index)",
        r"\1relative_position_bias.\2",
    ),
    (r"(swin\..*attention\.)output\.dense\.", r"\1o_proj."),
    (r"(swin\..*)intermediate\.dense\.", r"\1mlp.fc1."),
    (r"(swin\..*)output\.dense\.", r"\1mlp.fc2."),
]

# tensors that published files carry and no forward pass uses, with the reason
UNUSED = {
    r"label_enc\.weight": "an embedding that only the authors' unreleased training code used",
    r"(bert|model\.text_backbone)\.embeddings\.position_ids": "the numbers 0 to 511",
    r"(bert|model\.text_backbone)\.pooler\.dense\.(weight|bias)": "BERT's sentence feature; the model reads its tokens",
    r".*\.relative_position_index": "computed from the window's size",
    r"model\.backbone\.conv_encoder\.model\.swin\.layernorm\.(weight|bias)": "the norm of a classifier that is not there",
}
_UNUSED_PREFIX = "unused."  # keeps them in our own files, so that nothing is lost on the way back


@dataclass
class Checkpoint:
    """A weight file's contents.

    Attributes:
        state: the model's tensors by our names.
        config: as the file says, or as its shapes show.
        format: the layout it was in, one of `FORMATS`.
        unused: tensors that the model has no use for, by their names in that layout; `why_unused` gives the reasons.
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
        path_or_name: "nano", "tiny" or "base" (the latter two are fetched from the Hugging Face hub), or a `.pth` or
            `.safetensors` file, or a Hugging Face folder. Never unpickles code.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        config: in place of the file's own.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: no such file; weights that cannot be fetched, or were never released.
        ValueError: not a weight file of Grounding DINO, or one that does not fit `config`; the message lists the names.
    """
    checkpoint = read(_find(path_or_name))
    model = GroundingDINO(config or checkpoint.config)
    fill(model, checkpoint, str(path_or_name))
    return model.eval().to(choose_device(device))


def choose_device(device: str | torch.device) -> torch.device:
    """What "auto" means here and now; other names as torch understands them."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fill(model: GroundingDINO, checkpoint: Checkpoint, source: str = "the file") -> None:
    """Copy a checkpoint's tensors into a model, all of them into all of it.

    Raises:
        ValueError: names that are missing, unexpected, or of another shape; the model is left as it was.
    """
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(checkpoint.state))
    unexpected = sorted(set(checkpoint.state) - set(wanted))
    misshapen = [
        f"{name} {list(tensor.shape)} instead of {list(wanted[name].shape)}"
        for name, tensor in checkpoint.state.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        raise ValueError(f"{source} does not fit the model: {_summary(faults)}")
    model.load_state_dict(checkpoint.state)


def save(model: GroundingDINO, path: str | Path) -> None:
    """Write a model as our own `.safetensors`, its configuration inside."""
    _write_ours(Checkpoint(dict(model.state_dict()), model.config, "gdino_lib"), Path(path))


def convert(source: str | Path, target: str | Path, to: str, overwrite: bool = False) -> Checkpoint:
    """Write a weight file in another layout; tensors stay bit for bit.

    Args:
        source: anything that `load` takes; target: a `.safetensors` file ("gdino_lib"), a `.pth` file ("official") or a folder
            ("hugging-face").
        to: one of `FORMATS`.
        overwrite: replace what stands at `target`.

    Returns:
        What was read.

    Raises:
        ValueError: an unknown layout, or a model that the layout cannot hold.
        FileExistsError: `target` exists.
    """
    if to not in FORMATS:
        raise ValueError(f"unknown layout {to!r}; expected one of {', '.join(FORMATS)}")
    target = Path(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name, or pass --overwrite to replace it")
    checkpoint = read(_find(source))
    if to == "gdino_lib":
        _write_ours(checkpoint, target)
    elif to == "official":
        state = {"model": to_layout(checkpoint, "official")}
        with atomic_file(target, "wb") as file:
            torch.save(state, file)
    else:
        state = to_layout(checkpoint, "hugging-face")
        with atomic_folder(target, overwrite) as folder:
            save_file(
                {name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"}
            )
            hugging_face_config(checkpoint.config).save_pretrained(folder)
    return checkpoint


def read(path: Path) -> Checkpoint:
    """Read a weight file of any layout.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, pickled code, another model's, or a tensor that is neither used nor known to be of no use.
    """
    state, stored = _read_tensors(path)
    if "gdino_lib" in stored:
        config = GroundingDINOConfig.from_dict(json.loads(stored["gdino_lib"]))
        unused = {
            name.removeprefix(_UNUSED_PREFIX): state.pop(name)
            for name in list(state)
            if name.startswith(_UNUSED_PREFIX)
        }
        return Checkpoint(state, config, "gdino_lib", unused)
    for layout, mark in (("official", "feat_map.weight"), ("hugging-face", "model.text_projection.weight")):
        if mark in state:
            return from_layout(state, layout, stored.get("config.json"), str(path))
    raise ValueError(f"{path} holds no Grounding DINO: none of its {len(state)} tensors is a text projection")


def from_layout(
    state: State, layout: str, config: Mapping[str, Any] | None = None, source: str = "the file"
) -> Checkpoint:
    """Our names for a state dict in another layout.

    Args:
        config: the `config.json` of a Hugging Face folder; sizes that shapes do not show come from it.
    """
    if layout == "hugging-face":
        state = {_modern(name): tensor for name, tensor in state.items()}
    ours: State = {}
    parts: dict[str, dict[int, Tensor]] = {}
    unused: State = {}
    unexpected: list[str] = []
    for name, tensor in _without_copies(state, layout, source).items():
        if any(re.fullmatch(pattern, name) for pattern in UNUSED):
            unused[name] = tensor
        elif (match := next((m for row in _ROWS[layout] if (m := row.to_ours(name))), None)) is None:
            unexpected.append(name)
        elif match[1] is None:
            ours[match[0]] = tensor
        else:
            parts.setdefault(match[0], {})[match[1]] = tensor
    for name, rows in parts.items():
        if len(rows) < 3:
            unexpected.append(f"{name} in {len(rows)} of 3 parts")
        else:
            ours[name] = torch.cat([rows[0], rows[1], rows[2]])
    if unexpected:
        raise ValueError(f"{source} does not fit the model: {_summary({'unexpected': unexpected})}")
    _share_box_head(ours)
    try:
        return Checkpoint(ours, infer_config(ours, config or {}), layout, unused)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{source} does not fit the model: missing, or of another shape, around {error}") from None


def to_layout(checkpoint: Checkpoint, layout: str) -> State:
    """A checkpoint's tensors by the names of another layout, second copies and unused tensors included.

    Raises:
        ValueError: the layout has no name for a tensor.
    """
    state = dict(checkpoint.state)
    if checkpoint.config.shared_box_head:
        for name in [name for name in state if name.startswith("decoder.box_heads.0.")]:
            for layer in range(1, checkpoint.config.decoder_layers):
                state[name.replace(".0.", f".{layer}.", 1)] = state[name]
    theirs: State = {}
    for name, tensor in state.items():
        names = next((n for row in _ROWS[layout] if (n := row.from_ours(name))), None)
        if names is None:
            raise ValueError(f"the {layout} layout has no place for {name}")
        theirs.update(zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor], strict=True))
    for first, copy in COPIES[layout].items():
        theirs |= {copy + name.removeprefix(first): tensor for name, tensor in theirs.items() if name.startswith(first)}
    kept = checkpoint.unused if checkpoint.format in (layout, "gdino_lib") else {}
    return _constants(checkpoint, layout) | theirs | {n: t for n, t in kept.items() if _belongs(n, layout)}


def why_unused(name: str) -> str:
    """Why the model has no use for a tensor of a published file."""
    return next(reason for pattern, reason in UNUSED.items() if re.fullmatch(pattern, name))


def infer_config(state: State, config: Mapping[str, Any]) -> GroundingDINOConfig:
    """A model's sizes from its tensors' shapes; heads and points, which shapes do not show, from a Hugging Face
    configuration or the official model.

    Args:
        state: by our names, with a Swin backbone.
    """

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
    return GroundingDINOConfig(
        swin_width=len(state[f"{swin}patch_embedding.norm.weight"]),
        swin_depths=tuple(count(rf"{re.escape(swin)}stages\.{stage}\.(\d+)\.") for stage in range(stages)),
        swin_heads=tuple(table.shape[1] for table in bias),
        swin_window=(round(len(bias[0]) ** 0.5) + 1) // 2,
        levels=levels,
        vocabulary=len(state["text_encoder.bert.embeddings.word_embeddings.weight"]),
        bert_width=bert_width,
        bert_layers=count(r"text_encoder\.bert\.encoder\.layer\.(\d+)\."),
        bert_heads=config.get("text_config", {}).get("num_attention_heads", 12),
        bert_ffn_width=len(state["text_encoder.bert.encoder.layer.0.intermediate.dense.weight"]),
        max_tokens=config.get("max_text_len", 256),
        width=width,
        heads=len(attention) // (levels * points),
        ffn_width=len(state["feature_enhancer.layers.0.image_layer.linear1.weight"]),
        points=points,
        encoder_layers=count(r"feature_enhancer\.layers\.(\d+)\."),
        decoder_layers=count(r"decoder\.layers\.(\d+)\."),
        queries=len(state["query_selection.contents"]),
        text_heads=config.get("encoder_attention_heads", 8) // 2,
        text_ffn_width=len(state["feature_enhancer.layers.0.text_layer.linear1.weight"]),
        fusion_heads=config.get("encoder_attention_heads", 8) // 2,
        fusion_width=len(state[fusion]) if fusion in state else GroundingDINOConfig.fusion_width,
        fusion=fusion in state,
        text_cross_attention="decoder.layers.0.text_norm.weight" in state,
        scaled_logits="query_selection.contrastive_head.bias" in state,
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
    if c.backbone != "swin" or not (c.fusion and c.language_guided and c.text_cross_attention):
        raise ValueError("Hugging Face's port has Swin backbones and no ablations: this model cannot be written for it")
    if c.text_heads != c.heads // 2 or c.fusion_heads != c.heads // 2 or c.fusion_width != c.ffn_width // 2:
        raise ValueError(
            "Hugging Face's port ties the enhancer's heads and widths to half of the image's: this model differs"
        )
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


@dataclass(frozen=True)
class _Row:
    """One line of the table: patterns both ways."""

    ours: str
    theirs: str

    def to_ours(self, name: str) -> tuple[str, int | None] | None:
        """(our name, which of three parts or None), or None if the line does not speak of `name`."""
        match = _pattern(self.theirs).fullmatch(name)
        if match is None:
            return None
        parts = _parts(self.theirs)
        values = match.groupdict()
        return _fill_in(self.ours, values), parts.index(values["part"]) if parts else None

    def from_ours(self, name: str) -> list[str] | None:
        """Their name, or their three names."""
        match = _pattern(self.ours).fullmatch(name)
        if match is None:
            return None
        parts = _parts(self.theirs)
        return [_fill_in(self.theirs, match.groupdict() | {"part": part}) for part in parts or [""]]


def _table() -> Iterator[tuple[str, str, str]]:
    prefixes = ["", "", ""]
    for line in TABLE.strip().splitlines():
        columns = line.split()
        if not line.startswith(" "):
            prefixes = [column.strip(".") + "." if column.strip(".-") else "" for column in columns]
        else:
            yield tuple("-" if c == "-" else prefix + c for prefix, c in zip(prefixes, columns, strict=True))


_LINES = tuple(_table())
_ROWS = {
    layout: [_Row(line[0], line[column]) for line in _LINES if line[column] != "-"]
    for column, layout in ((1, "official"), (2, "hugging-face"))
}
_PATTERNS: dict[str, re.Pattern[str]] = {}


def _pattern(template: str) -> re.Pattern[str]:
    if template not in _PATTERNS:
        text = re.escape(template)
        text = text.replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)").replace(r"\*", "(?P<rest>.+)")
        text = re.sub(r"\\\[(.+?)\\\]", lambda m: f"(?P<part>{m[1]})".replace(r"\|", "|"), text)
        _PATTERNS[template] = re.compile(text)
    return _PATTERNS[template]


def _parts(template: str) -> list[str]:
    match = re.search(r"\[(.+?)\]", template)
    return match[1].split("|") if match else []


def _fill_in(template: str, values: Mapping[str, str]) -> str:
    text = template.replace("{i}", values.get("i", "")).replace("{j}", values.get("j", ""))
    return re.sub(r"\[.+?\]", values.get("part", ""), text).replace("*", values.get("rest", ""))


def _modern(name: str) -> str:
    for pattern, new in _OLD_SWIN:
        name = re.sub(pattern, new, name)
    return name


def _belongs(name: str, layout: str) -> bool:
    return name.startswith("model.") == (layout == "hugging-face")


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


def _share_box_head(ours: State) -> None:
    """Keep one box head where all layers have the same; layers that a file leaves out are copies, too."""
    heads: dict[str, State] = {}
    for name, tensor in ours.items():
        if match := re.match(r"decoder\.box_heads\.(\d+)\.", name):
            heads.setdefault(match[1], {})[name[match.end() :]] = tensor
    first = heads.get("0", {})
    if all(
        head.keys() == first.keys() and all(torch.equal(head[k], first[k]) for k in first) for head in heads.values()
    ):
        for name in [name for name in ours if re.match(r"decoder\.box_heads\.[1-9]", name)]:
            del ours[name]


def _constants(checkpoint: Checkpoint, layout: str) -> State:
    """Tensors that a layout has and no forward pass uses, as they would be in a new file."""
    config, state = checkpoint.config, checkpoint.state
    result: State = {}
    if layout == "hugging-face":
        width = config.swin_width * 2 ** (len(config.swin_depths) - 1)
        for name, tensor in (("weight", torch.ones(width)), ("bias", torch.zeros(width))):
            result[f"model.backbone.conv_encoder.model.swin.layernorm.{name}"] = tensor
        return result
    result["bert.pooler.dense.weight"] = torch.zeros(config.bert_width, config.bert_width)
    result["bert.pooler.dense.bias"] = torch.zeros(config.bert_width)
    side = torch.arange(config.swin_window)
    y, x = torch.meshgrid(side, side, indexing="ij")
    y, x = (axis.flatten()[:, None] - axis.flatten() + config.swin_window - 1 for axis in (y, x))
    for name in state:
        if match := re.fullmatch(
            r"image_backbone\.backbone\.stages\.(\d+)\.(\d+)\.attention\.relative_position_bias", name
        ):
            result[f"backbone.0.layers.{match[1]}.blocks.{match[2]}.attn.relative_position_index"] = (
                y * (2 * config.swin_window - 1) + x
            )
    return result


def _write_ours(checkpoint: Checkpoint, path: Path) -> None:
    # clones: safetensors refuses tensors that share memory
    state = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint.state.items()}
    state |= {_UNUSED_PREFIX + name: tensor.clone() for name, tensor in checkpoint.unused.items()}
    with atomic_file(path, "wb") as file:
        save_file(state, file.name, {"format": "pt", "gdino_lib": json.dumps(checkpoint.config.to_dict())})


def _read_tensors(path: Path) -> tuple[State, dict[str, Any]]:
    """(tensors, what the file says beside them)."""
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0].split("Re-running")[0].strip().rstrip(".")
        raise ValueError(
            f"{path} holds more than tensors, or no tensors at all, and is not opened further: {reason}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no file of PyTorch's: {str(error).splitlines()[0]}") from None
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}, {}


def _read_folder(path: Path) -> tuple[State, dict[str, Any]]:
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"no .safetensors file in the folder {path}")
    state: State = {}
    stored: dict[str, Any] = {}
    for file in files:
        tensors, more = _read_tensors(file)
        state |= tensors
        stored |= more
    if (path / "config.json").is_file():
        try:
            stored["config.json"] = json.loads((path / "config.json").read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path / 'config.json'} is not readable as JSON: {error}") from None
    return state, stored


def _find(path_or_name: str | Path) -> Path:
    """The file or folder behind a path or a name; names in the hub are fetched, with progress, into its cache."""
    name = str(path_or_name)
    if Path(name).exists():
        return Path(name)
    if name == "large":
        raise FileNotFoundError("the weights of 'large' (Swin-L) were never released; use 'base', or train your own")
    if name == "nano":
        path = Path(__file__).parent / "assets" / "nano"
        if not path.exists():
            raise FileNotFoundError(
                "this version carries no weights for 'nano'; GroundingDINO.nano() builds it with random ones"
            )
        return path
    if name not in HUB:
        raise FileNotFoundError(
            f"no weight file at {name}, and no model of that name; names are nano, {', '.join(HUB)}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, revision = HUB[name]
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=["config.json", "model.safetensors"])
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"cannot fetch {name!r} ({repository}): {type(error).__name__}; without a network, copy config.json and "
            "model.safetensors of that repository into a folder and pass its path"
        ) from None


def _summary(faults: Mapping[str, list[str]], shown: int = 4) -> str:
    """Counts and the first names of each fault, in one line."""
    texts = []
    for fault, names in faults.items():
        if names:
            more = f", ... ({len(names) - shown} more)" if len(names) > shown else ""
            texts.append(f"{len(names)} {fault}: {', '.join(names[:shown])}{more}")
    return "; ".join(texts)
