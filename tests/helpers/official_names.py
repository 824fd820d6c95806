"""Names and shapes of the official Swin-T model's state dict, written independently of the library's own table."""

import itertools

Shapes = dict[str, tuple[int, ...]]

D, BERT, FFN = 256, 768, 2048


def official_swin_t() -> Shapes:
    """All 938 entries, including the copies of the box heads and the tensors that no forward pass uses."""
    shapes: Shapes = {"transformer.level_embed": (4, D), "transformer.tgt_embed.weight": (900, D)}
    for i in range(6):
        shapes |= _encoder_layer(i) | _decoder_layer(i)
    shapes |= _mlp("transformer.decoder.ref_point_head", 2 * D, D, D)
    shapes |= _norm("transformer.decoder.norm")
    shapes |= _linear("transformer.enc_output", D, D)
    shapes |= _norm("transformer.enc_output_norm")
    shapes |= _mlp("transformer.enc_out_bbox_embed", D, D, D, 4)
    shapes |= _linear("feat_map", D, BERT)
    return shapes | _bert() | _swin()


def _encoder_layer(i: int) -> Shapes:
    layer = f"transformer.encoder.layers.{i}"
    shapes = _deformable(f"{layer}.self_attn")
    shapes |= _linear(f"{layer}.linear1", FFN, D) | _linear(f"{layer}.linear2", D, FFN)
    shapes |= _norm(f"{layer}.norm1") | _norm(f"{layer}.norm2")

    layer = f"transformer.encoder.text_layers.{i}"
    shapes |= _attention(f"{layer}.self_attn")
    shapes |= _linear(f"{layer}.linear1", FFN // 2, D) | _linear(f"{layer}.linear2", D, FFN // 2)
    shapes |= _norm(f"{layer}.norm1") | _norm(f"{layer}.norm2")

    layer = f"transformer.encoder.fusion_layers.{i}"
    shapes |= {f"{layer}.gamma_v": (D,), f"{layer}.gamma_l": (D,)}
    shapes |= _norm(f"{layer}.layer_norm_v") | _norm(f"{layer}.layer_norm_l")
    for projection in ("v_proj", "l_proj", "values_v_proj", "values_l_proj"):
        shapes |= _linear(f"{layer}.attn.{projection}", FFN // 2, D)
    return shapes | _linear(f"{layer}.attn.out_v_proj", D, FFN // 2) | _linear(f"{layer}.attn.out_l_proj", D, FFN // 2)


def _decoder_layer(i: int) -> Shapes:
    layer = f"transformer.decoder.layers.{i}"
    shapes = _attention(f"{layer}.self_attn") | _attention(f"{layer}.ca_text") | _deformable(f"{layer}.cross_attn")
    shapes |= _linear(f"{layer}.linear1", FFN, D) | _linear(f"{layer}.linear2", D, FFN)
    for name in ("norm1", "norm2", "norm3", "catext_norm"):
        shapes |= _norm(f"{layer}.{name}")
    return shapes | _mlp(f"transformer.decoder.bbox_embed.{i}", D, D, D, 4) | _mlp(f"bbox_embed.{i}", D, D, D, 4)


def _bert() -> Shapes:
    shapes = _linear("bert.pooler.dense", BERT, BERT) | _norm("bert.embeddings.LayerNorm", BERT)
    for table, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        shapes[f"bert.embeddings.{table}_embeddings.weight"] = (rows, BERT)
    for i in range(12):
        layer = f"bert.encoder.layer.{i}"
        for projection in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{layer}.attention.{projection}", BERT, BERT)
        shapes |= _linear(f"{layer}.intermediate.dense", 4 * BERT, BERT)
        shapes |= _linear(f"{layer}.output.dense", BERT, 4 * BERT)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm", BERT) | _norm(f"{layer}.output.LayerNorm", BERT)
    return shapes


def _swin() -> Shapes:
    """The backbone and the projections of its feature maps."""
    shapes: Shapes = {"backbone.0.patch_embed.proj.weight": (96, 3, 4, 4), "backbone.0.patch_embed.proj.bias": (96,)}
    shapes |= _norm("backbone.0.patch_embed.norm", 96)
    for stage, depth in enumerate((2, 2, 6, 2)):
        width = 96 * 2**stage
        for block in range(depth):
            name = f"backbone.0.layers.{stage}.blocks.{block}"
            shapes |= _norm(f"{name}.norm1", width) | _norm(f"{name}.norm2", width)
            shapes |= _linear(f"{name}.attn.qkv", 3 * width, width) | _linear(f"{name}.attn.proj", width, width)
            shapes[f"{name}.attn.relative_position_bias_table"] = (13 * 13, width // 32)
            shapes[f"{name}.attn.relative_position_index"] = (49, 49)
            shapes |= _linear(f"{name}.mlp.fc1", 4 * width, width) | _linear(f"{name}.mlp.fc2", width, 4 * width)
        if stage < 3:
            shapes |= _norm(f"backbone.0.layers.{stage}.downsample.norm", 4 * width)
            shapes[f"backbone.0.layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= _norm(f"backbone.0.norm{stage + 1}", 2 * width)
            shapes |= {f"input_proj.{stage}.0.weight": (D, 2 * width, 1, 1), f"input_proj.{stage}.0.bias": (D,)}
            shapes |= _norm(f"input_proj.{stage}.1")
    shapes |= {"input_proj.3.0.weight": (D, 768, 3, 3), "input_proj.3.0.bias": (D,)}
    return shapes | _norm("input_proj.3.1")


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int = D) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str) -> Shapes:
    projections = {f"{name}.in_proj_weight": (3 * D, D), f"{name}.in_proj_bias": (3 * D,)}
    return projections | _linear(f"{name}.out_proj", D, D)


def _deformable(name: str) -> Shapes:
    shapes = _linear(f"{name}.sampling_offsets", 8 * 4 * 4 * 2, D) | _linear(f"{name}.attention_weights", 8 * 4 * 4, D)
    return shapes | _linear(f"{name}.value_proj", D, D) | _linear(f"{name}.output_proj", D, D)


def _mlp(name: str, *widths: int) -> Shapes:
    shapes: Shapes = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= _linear(f"{name}.layers.{layer}", outputs, inputs)
    return shapes
