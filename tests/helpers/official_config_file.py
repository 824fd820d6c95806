"""A configuration file in the official format for a small model, and a folder that holds what such a model needs."""

import numpy as np
from peers import SMALL, randomise
from PIL import Image

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.weights.files import write_pth
from gdino_lib.weights.loading import Checkpoint, save, to_layout
from gdino_lib.weights.official_config import read_config

CONFIG = '''"""A comment of ours."""
batch_size = 1
modelname = "groundingdino"
backbone = "swin_T_224_1k"
position_embedding = "sine"
pe_temperatureH = 20
pe_temperatureW = 20
return_interm_indices = [1, 2, 3]
backbone_freeze_keywords = None
enc_layers = 1
dec_layers = 2
pre_norm = False
dim_feedforward = 96
hidden_dim = 64
dropout = 0.0
nheads = 4
num_queries = 30
query_dim = 4
num_patterns = 0
num_feature_levels = 4
enc_n_points = 4
dec_n_points = 4
two_stage_type = "standard"
two_stage_bbox_embed_share = False
two_stage_class_embed_share = False
transformer_activation = "relu"
dec_pred_bbox_embed_share = True
dn_label_coef = 1.0
embed_init_tgt = True
max_text_len = 256
text_encoder_type = "bert-base-uncased"
use_text_enhancer = True
use_fusion_layer = True
use_checkpoint = True
use_text_cross_attention = True
text_dropout = 0.0
fusion_droppath = 0.1
sub_sentence_present = True
'''


def write_workplace(folder):
    """Fill a folder with what scripts for the official package expect: a configuration, a weight file and an image."""
    (folder / "config.py").write_text(CONFIG, "utf-8")
    small = {name: getattr(SMALL, name) for name in ("bert_width", "bert_layers", "bert_ffn_width", "text_ffn_width")}
    config = GroundingDINOConfig(**read_config(folder / "config.py") | small | {"fusion_width": 48})
    model = GroundingDINO(config)
    randomise(model)
    write_pth(folder / "weights.pth", to_layout(Checkpoint(dict(model.state_dict()), config, "gdino_lib"), "official"))
    save(model, folder / "ours.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((400, 60), Image.Resampling.BICUBIC)
    image.save(folder / "image.jpg")
    return folder
