"""The page for users of the official package names each of its imports, and every replacement exists."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "book" / "from_the_official_package.md").read_text("utf-8")
NAMES = re.findall(r"`([^`\n]+)`", PAGE)
MODEL = "groundingdino.models.GroundingDINO"

# what scripts import from the official repository: its demonstrations, its own modules, and well-known notebooks
OFFICIAL = {
    "groundingdino.util.inference": "load_model load_image predict annotate preprocess_caption Model",
    "groundingdino.models": "build_model",
    f"{MODEL}": "build_groundingdino",
    f"{MODEL}.groundingdino": "GroundingDINO",
    "groundingdino.models.registry": "MODULE_BUILD_FUNCS",
    "groundingdino.config": "GroundingDINO_SwinT_OGC GroundingDINO_SwinB_cfg",
    "groundingdino": "_C",
    "groundingdino.version": "__version__",
    "groundingdino.util.slconfig": "SLConfig DictAction ConfigDict",
    "groundingdino.util.get_tokenlizer": "get_tokenlizer get_pretrained_language_model",
    "groundingdino.util.vl_utils": "create_positive_map_from_span build_captions_and_token_span "
    "build_id2posspan_and_caption",
    "groundingdino.util.utils": "clean_state_dict get_phrases_from_posmap slprint renorm CocoClassMapper to_device "
    "targets_to Embedder inverse_sigmoid get_raw_dict stat_tensors NiceRepr random_boxes ModelEma BestMetricSingle "
    "BestMetricHolder",
    "groundingdino.util.misc": "NestedTensor nested_tensor_from_tensor_list collate_fn interpolate inverse_sigmoid "
    "clean_state_dict SmoothedValue MetricLogger accuracy accuracy_onehot all_gather reduce_dict init_distributed_mode "
    "get_world_size get_rank is_main_process",
    "groundingdino.util.box_ops": "box_cxcywh_to_xyxy box_xyxy_to_cxcywh box_iou generalized_box_iou box_iou_pairwise "
    "generalized_box_iou_pairwise masks_to_boxes",
    "groundingdino.util.visualizer": "COCOVisualizer ColorMap",
    "groundingdino.util.logger": "setup_logger",
    "groundingdino.util.time_counter": "TimeCounter",
    "groundingdino.util.slio": "slload sldump",
    "groundingdino.datasets.transforms": "Compose RandomResize ToTensor Normalize RandomHorizontalFlip RandomSizeCrop "
    "RandomSelect CenterCrop RandomCrop RandomPad RandomErasing ResizeDebug",
    "groundingdino.datasets.cocogrounding_eval": "CocoGroundingEvaluator",
    f"{MODEL}.ms_deform_attn": "MultiScaleDeformableAttention MultiScaleDeformableAttnFunction "
    "multi_scale_deformable_attn_pytorch",
    f"{MODEL}.fuse_modules": "BiAttentionBlock BiMultiHeadAttention FeatureResizer",
    f"{MODEL}.bertwarper": "BertModelWarper TextEncoderShell generate_masks_with_special_tokens "
    "generate_masks_with_special_tokens_and_transfer_map",
    f"{MODEL}.transformer": "Transformer build_transformer TransformerEncoder DeformableTransformerEncoderLayer "
    "TransformerDecoder DeformableTransformerDecoderLayer",
    f"{MODEL}.transformer_vanilla": "TextTransformer TransformerEncoderLayer",
    f"{MODEL}.utils": "gen_encoder_output_proposals gen_sineembed_for_position get_sine_pos_embed MLP ContrastiveEmbed "
    "sigmoid_focal_loss RandomBoxPerturber",
    f"{MODEL}.backbone.backbone": "build_backbone Joiner Backbone FrozenBatchNorm2d",
    f"{MODEL}.backbone.swin_transformer": "SwinTransformer build_swin_transformer",
    f"{MODEL}.backbone.position_encoding": "PositionEmbeddingSineHW PositionEmbeddingSine PositionEmbeddingLearned "
    "build_position_encoding",
}


@pytest.mark.parametrize("module", OFFICIAL)
def test_each_official_import_has_a_row(module):
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name.rpartition(".")[2] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(OFFICIAL[module].split()) <= named


def test_no_row_names_an_import_that_the_official_package_lacks():
    known = {name for names in OFFICIAL.values() for name in names.split()}
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert {name.rpartition(".")[2] for row in rows for name in re.findall(r"`([^`]+)`", row)} == known


OURS = sorted({name for name in NAMES if re.fullmatch(r"(gdino_lib|data_prep|torch|torchvision)(\.\w+)+", name)})


@pytest.mark.parametrize("name", OURS)
def test_each_replacement_exists(name):
    module, rest = name, []
    while True:
        try:
            found = import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for attribute in rest:
        found = getattr(found, attribute)


def test_each_option_named_exists():
    from gdino_lib.cli.parser import build_parser

    parser = build_parser()
    (commands,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    for text in NAMES:
        words = text.replace("accelerate launch -m gdino_lib", "gdino").split()
        if words[0] == "gdino":
            flags = {word for word in words[2:] if word.startswith("--")}
            assert flags <= set(commands[words[1]]._option_string_actions)
