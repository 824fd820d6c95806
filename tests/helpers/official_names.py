"""Every name and shape of the official Swin-T model's state dict, written down apart from the library's own table."""

import itertools

Shapes = dict[str, tuple[int, ...]]

D, BERT, FFN = 256, 768, 2048


def official_swin_t() -> Shapes:
    """The 938 entries, the copies of the box heads and the tensors that no forward pass uses included."""
    shapes: Shapes = {"transformer.level_embed": (4, D), "transformer.tgt_embed.weight": (900, D)}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str, width: int = D) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def attention(name: str) -> None:
        shapes.update({f"{name}.in_proj_weight": (3 * D, D), f"{name}.in_proj_bias": (3 * D,)})
        linear(f"{name}.out_proj", D, D)

    def deformable(name: str) -> None:
        linear(f"{name}.sampling_offsets", 8 * 4 * 4 * 2, D)
        linear(f"{name}.attention_weights", 8 * 4 * 4, D)
        linear(f"{name}.value_proj", D, D)
        linear(f"{name}.output_proj", D, D)

    def mlp(name: str, *widths: int) -> None:
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            linear(f"{name}.layers.{layer}", outputs, inputs)

    for i in range(6):
        layer = f"transformer.encoder.layers.{i}"
        deformable(f"{layer}.self_attn")
        linear(f"{layer}.linear1", FFN, D)
        linear(f"{layer}.linear2", D, FFN)
        norm(f"{layer}.norm1")
        norm(f"{layer}.norm2")

        layer = f"transformer.encoder.text_layers.{i}"
        attention(f"{layer}.self_attn")
        linear(f"{layer}.linear1", FFN // 2, D)
        linear(f"{layer}.linear2", D, FFN // 2)
        norm(f"{layer}.norm1")
        norm(f"{layer}.norm2")

        layer = f"transformer.encoder.fusion_layers.{i}"
        shapes.update({f"{layer}.gamma_v": (D,), f"{layer}.gamma_l": (D,)})
        norm(f"{layer}.layer_norm_v")
        norm(f"{layer}.layer_norm_l")
        for projection in ("v_proj", "l_proj", "values_v_proj", "values_l_proj"):
            linear(f"{layer}.attn.{projection}", FFN // 2, D)
        linear(f"{layer}.attn.out_v_proj", D, FFN // 2)
        linear(f"{layer}.attn.out_l_proj", D, FFN // 2)

        layer = f"transformer.decoder.layers.{i}"
        attention(f"{layer}.self_attn")
        attention(f"{layer}.ca_text")
        deformable(f"{layer}.cross_attn")
        linear(f"{layer}.linear1", FFN, D)
        linear(f"{layer}.linear2", D, FFN)
        for name in ("norm1", "norm2", "norm3", "catext_norm"):
            norm(f"{layer}.{name}")
        mlp(f"transformer.decoder.bbox_embed.{i}", D, D, D, 4)
        mlp(f"bbox_embed.{i}", D, D, D, 4)
    mlp("transformer.decoder.ref_point_head", 2 * D, D, D)
    norm("transformer.decoder.norm")
    linear("transformer.enc_output", D, D)
    norm("transformer.enc_output_norm")
    mlp("transformer.enc_out_bbox_embed", D, D, D, 4)

    linear("feat_map", D, BERT)
    linear("bert.pooler.dense", BERT, BERT)
    for table, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        shapes[f"bert.embeddings.{table}_embeddings.weight"] = (rows, BERT)
    norm("bert.embeddings.LayerNorm", BERT)
    for i in range(12):
        layer = f"bert.encoder.layer.{i}"
        for projection in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{projection}", BERT, BERT)
        linear(f"{layer}.intermediate.dense", 4 * BERT, BERT)
        linear(f"{layer}.output.dense", BERT, 4 * BERT)
        norm(f"{layer}.attention.output.LayerNorm", BERT)
        norm(f"{layer}.output.LayerNorm", BERT)

    shapes |= {"backbone.0.patch_embed.proj.weight": (96, 3, 4, 4), "backbone.0.patch_embed.proj.bias": (96,)}
    norm("backbone.0.patch_embed.norm", 96)
    for stage, depth in enumerate((2, 2, 6, 2)):
        width = 96 * 2**stage
        for block in range(depth):
            name = f"backbone.0.layers.{stage}.blocks.{block}"
            norm(f"{name}.norm1", width)
            norm(f"{name}.norm2", width)
            linear(f"{name}.attn.qkv", 3 * width, width)
            linear(f"{name}.attn.proj", width, width)
            shapes[f"{name}.attn.relative_position_bias_table"] = (13 * 13, width // 32)
            shapes[f"{name}.attn.relative_position_index"] = (49, 49)
            linear(f"{name}.mlp.fc1", 4 * width, width)
            linear(f"{name}.mlp.fc2", width, 4 * width)
        if stage < 3:
            norm(f"backbone.0.layers.{stage}.downsample.norm", 4 * width)
            shapes[f"backbone.0.layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            norm(f"backbone.0.norm{stage + 1}", 2 * width)
            shapes |= {f"input_proj.{stage}.0.weight": (D, 2 * width, 1, 1), f"input_proj.{stage}.0.bias": (D,)}
            norm(f"input_proj.{stage}.1")
    shapes |= {"input_proj.3.0.weight": (D, 768, 3, 3), "input_proj.3.0.bias": (D,)}
    norm("input_proj.3.1")
    return shapes
