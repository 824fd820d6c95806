"""Each tensor has one name in each layout, and no two are mixed up."""

import pytest

from gdino_lib.weights import names as weight_names


def test_no_two_tensors_have_one_name(swin_t):
    for layout in ("official", "hugging-face"):
        names = [name for ours in swin_t.state for name in weight_names.their_names(ours, layout)]
        assert len(names) == len(set(names))
        for ours in swin_t.state:
            for part, name in enumerate(theirs := weight_names.their_names(ours, layout)):
                assert weight_names.our_name(name, layout) == (ours, part if len(theirs) > 1 else None)


@pytest.mark.parametrize(
    ("official_name", "port_name"),
    [
        ("transformer.decoder.layers.1.norm1", "model.decoder.layers.1.encoder_attn_layer_norm"),
        ("transformer.decoder.layers.1.norm2", "model.decoder.layers.1.self_attn_layer_norm"),
        ("transformer.decoder.layers.1.norm3", "model.decoder.layers.1.final_layer_norm"),
        ("transformer.decoder.layers.1.catext_norm", "model.decoder.layers.1.encoder_attn_text_layer_norm"),
        ("transformer.decoder.layers.1.ca_text.out_proj", "model.decoder.layers.1.encoder_attn_text.out_proj"),
        ("transformer.decoder.layers.1.self_attn.out_proj", "model.decoder.layers.1.self_attn.out_proj"),
        ("transformer.encoder.layers.1.norm1", "model.encoder.layers.1.deformable_layer.self_attn_layer_norm"),
        ("transformer.encoder.layers.1.norm2", "model.encoder.layers.1.deformable_layer.final_layer_norm"),
        ("transformer.encoder.text_layers.1.norm1", "model.encoder.layers.1.text_enhancer_layer.layer_norm_before"),
        ("transformer.encoder.text_layers.1.norm2", "model.encoder.layers.1.text_enhancer_layer.layer_norm_after"),
        ("transformer.encoder.fusion_layers.1.layer_norm_v", "model.encoder.layers.1.fusion_layer.layer_norm_vision"),
        ("transformer.encoder.fusion_layers.1.layer_norm_l", "model.encoder.layers.1.fusion_layer.layer_norm_text"),
        ("transformer.encoder.fusion_layers.1.attn.v_proj", "model.encoder.layers.1.fusion_layer.attn.vision_proj"),
        ("transformer.encoder.fusion_layers.1.attn.l_proj", "model.encoder.layers.1.fusion_layer.attn.text_proj"),
        (
            "transformer.encoder.fusion_layers.1.attn.values_v_proj",
            "model.encoder.layers.1.fusion_layer.attn.values_vision_proj",
        ),
        (
            "transformer.encoder.fusion_layers.1.attn.values_l_proj",
            "model.encoder.layers.1.fusion_layer.attn.values_text_proj",
        ),
        (
            "transformer.encoder.fusion_layers.1.attn.out_v_proj",
            "model.encoder.layers.1.fusion_layer.attn.out_vision_proj",
        ),
        (
            "transformer.encoder.fusion_layers.1.attn.out_l_proj",
            "model.encoder.layers.1.fusion_layer.attn.out_text_proj",
        ),
        ("transformer.enc_out_bbox_embed.layers.2", "model.encoder_output_bbox_embed.layers.2"),
        ("transformer.decoder.norm", "model.decoder.layer_norm"),
        ("transformer.enc_output_norm", "model.enc_output_norm"),
        ("backbone.0.layers.1.blocks.1.norm1", f"{weight_names._SWIN}swin.encoder.layers.1.blocks.1.layernorm_before"),
        ("backbone.0.layers.1.blocks.1.norm2", f"{weight_names._SWIN}swin.encoder.layers.1.blocks.1.layernorm_after"),
        ("backbone.0.norm1", f"{weight_names._SWIN}hidden_states_norms.stage2"),
    ],
)
def test_tensors_of_one_shape_are_not_mixed_up(official_name, port_name):
    """Shapes would not show it; the pairs are those of transformers' own conversion script."""
    for kind in ("weight", "bias"):
        ours = weight_names.our_name(f"{official_name}.{kind}", "official")
        assert ours is not None
        assert ours == weight_names.our_name(f"{port_name}.{kind}", "hugging-face")


def test_two_spellings_of_the_ports_swin(port):
    for name in port.state_dict():
        old = weight_names.hub_name(name)
        assert weight_names.port_name(old) == name
        assert weight_names.port_name(name) == name
        assert weight_names.hub_name(old) == old
    name = "model.backbone.conv_encoder.model.encoder.layers.0.blocks.0."
    new = "model.backbone.conv_encoder.model.swin.encoder.layers.0.blocks.0."
    assert weight_names.port_name(name + "attention.self.key.bias") == new + "attention.k_proj.bias"
    assert weight_names.port_name(name + "attention.output.dense.bias") == new + "attention.o_proj.bias"
    assert weight_names.port_name(name + "output.dense.bias") == new + "mlp.fc2.bias"
    index = weight_names.port_name(name + "attention.self.relative_position_index")
    assert weight_names.why_unused(index)
