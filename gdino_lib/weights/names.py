"""The names of each tensor in this library, in the official files and in Hugging Face's; and which tensors are not used.

This module handles names alone; `gdino_lib.weights.layouts` handles the tensors.
"""

from __future__ import annotations

import re
from functools import cache

# Columns: our name, the official one, Hugging Face's. A line that is not indented gives the prefixes of the rows below it.
# {i} and {j} are the same numbers in each column, and * is the same rest of the name. [a|b|c] are three tensors, which the
# other layouts stack by rows. A layout with - lacks the tensor.
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
    finest_norm.*                              norm0.*                                   hidden_states_norms.stage1.*
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

# tensors that the other two layouts store twice: {beginning of the first name: beginning of the second}
COPIES = {
    "official": {"transformer.decoder.bbox_embed.": "bbox_embed."},
    "hugging-face": {"model.decoder.bbox_embed.": "bbox_embed.", "model.decoder.class_embed.": "class_embed."},
}

# tensors that published files carry and no forward pass uses, with the reason
UNUSED = {
    r"label_enc\.weight": "an embedding that only the authors' unreleased training code used",
    r"(bert|model\.text_backbone)\.embeddings\.position_ids": "the numbers 0 to 511",
    r"(bert|model\.text_backbone)\.pooler\.dense\.(weight|bias)": "BERT's sentence feature; the model reads its tokens",
    r"(backbone|model\.backbone)\..*\.relative_position_index": "computed from the window's size",
    r"model\.backbone\.conv_encoder\.model\.swin\.layernorm\.(weight|bias)": "the norm of a classifier that is not there",
}

# The Hugging Face port renamed the tensors of its Swin. Files on the hub keep the old names, which every release of
# transformers reads and writes; the table above has the new names. Order matters: the first pair that fits renames a tensor.
_SWIN = "model.backbone.conv_encoder.model."
_OLD_TO_NEW = (
    ("attention.self.query.", "attention.q_proj."),
    ("attention.self.key.", "attention.k_proj."),
    ("attention.self.value.", "attention.v_proj."),
    ("attention.self.relative_position_", "attention.relative_position_bias.relative_position_"),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


def our_name(name: str, layout: str) -> tuple[str, int | None] | None:
    """Our name for a tensor of another layout.

    Returns:
        (our name, index of the part if the tensor is one of three that we stack, else None); None for an unknown name.
    """
    for ours, theirs, part in _RULES[layout]:
        if match := _pattern(theirs).fullmatch(name):
            return ours.format_map(match.groupdict()), part
    return None


def their_names(name: str, layout: str) -> list[str]:
    """The names of one of our tensors in another layout: one, three for a stacked tensor, or none if the layout lacks it."""
    matches = ((theirs, _pattern(ours).fullmatch(name)) for ours, theirs, _ in _RULES[layout])
    return [theirs.format_map(match.groupdict()) for theirs, match in matches if match]


def why_unused(name: str) -> str | None:
    """Why the model does not use a tensor of a published file; None for a tensor that it uses, or an unknown name."""
    return next((reason for pattern, reason in UNUSED.items() if re.fullmatch(pattern, name)), None)


def hub_name(name: str) -> str:
    """The spelling of a Hugging Face name in files."""
    rest = name.removeprefix(_SWIN)
    if rest == name or rest.startswith("swin.layernorm."):
        return name
    rest = rest.removeprefix("swin.")
    return _SWIN + next((rest.replace(new, old) for old, new in _OLD_TO_NEW if new in rest), rest)


def port_name(name: str) -> str:
    """The inverse of `hub_name`: the present name of the port's module. A new name stays as it is."""
    rest = name.removeprefix(_SWIN)
    if rest == name or rest.startswith("hidden_states_norms."):
        return name
    rest = rest.removeprefix("swin.")
    return f"{_SWIN}swin." + next((rest.replace(old, new) for old, new in _OLD_TO_NEW if old in rest), rest)


def _rules(column: int) -> list[tuple[str, str, int | None]]:
    """(our template, theirs, part) of each tensor, or part of one, that both layouts have."""
    rules, ours_prefix, their_prefix = [], "", ""
    for line in TABLE.strip().splitlines():
        ours, theirs = line.split()[0], line.split()[column]
        if not line.startswith(" "):
            ours_prefix, their_prefix = (name.strip(".-") + "." if name.strip(".-") else "" for name in (ours, theirs))
            continue
        if theirs == "-":
            continue
        ours, theirs = (name.replace("*", "{rest}") for name in (ours_prefix + ours, their_prefix + theirs))
        if choice := re.search(r"\[(.+?)\]", theirs):
            parts = choice[1].split("|")
            rules += [(ours, theirs.replace(choice[0], part), number) for number, part in enumerate(parts)]
        else:
            rules.append((ours, theirs, None))
    return rules


@cache
def _pattern(template: str) -> re.Pattern[str]:
    groups = {r"\{i\}": r"(?P<i>\d+)", r"\{j\}": r"(?P<j>\d+)", r"\{rest\}": r"(?P<rest>.+)"}
    text = re.escape(template)
    for field, group in groups.items():
        text = text.replace(field, group)
    return re.compile(text)


_RULES = {"official": _rules(1), "hugging-face": _rules(2)}
