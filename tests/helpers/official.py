"""Compare with the authors' own code, and record its outputs for the tests.

Run it as `python tests/helpers/official.py --record | --full-size`.

The authors' code is the package groundingdino-py 0.4.0. It needs older libraries than ours, so this script is run by hand
in an environment of its own:

    pip install -e . pytest numpy addict yapf supervision opencv-python-headless pycocotools
    pip install --no-deps groundingdino-py==0.4.0 transformers==4.40.2 tokenizers==0.19.1 huggingface_hub==0.23.4

`--record` writes `tests/data/official.safetensors`, and
`tests/gdino_lib/model/test_parity_official.py` compares our model with
it. Formulas in this file make the weights and images.
"""

import argparse
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch
from peers import ODD, SMALL
from safetensors.torch import save_file

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.text_encoder import bert_config
from gdino_lib.prompts import VOCABULARY
from gdino_lib.weights.layouts import Checkpoint, from_layout, to_layout
from gdino_lib.weights.loading import fill

RECORD = Path(__file__).parents[1] / "data" / "official.safetensors"
# the authors' code supports only the width 256
CONFIGS = {
    name: config.replace(width=256, heads=8, text_heads=4, fusion_heads=4, logit_epsilon=1e-3)
    for name, config in (("small", SMALL), ("odd", ODD))
}
# (configuration, image height and width, size of the second image's real part, prompts)
# All images of a batch have the same prompt, because the authors' code mixes up the masks of different prompts:
# `src_mask.repeat(nhead, 1, 1)` orders them by head, but its attention expects them ordered by image.
CASES = {
    "one image": ("small", (128, 160), None, [["cat", "remote control"]]),
    "odd sizes": ("odd", (151, 203), None, [["a person with an umbrella", "dog", "fire hydrant"]]),
    "padded batch": ("small", (120, 170), (90, 111), [["cat", "tricycle"]] * 2),
}


def weights(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights for each official name, the same on every machine."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("relative_position_index"):
            continue
        # the decoder's box heads share one tensor under several names
        source = re.sub(r"^(transformer\.decoder\.)?bbox_embed\.\d+", "bbox_embed", name)
        noise = numpy.random.default_rng(zlib.crc32(source.encode())).standard_normal(tuple(shape))
        if len(shape) > 1:
            scale = 0.2 if "bbox" in name or "sampling_offsets" in name else 0.7
            noise *= scale * numpy.prod(shape[1:]) ** -0.5
        elif "sampling_offsets" in name:
            noise *= 2
        elif "gamma" in name:
            noise *= 0.3
        else:
            noise = noise * 0.1 + (1 if name.endswith("weight") else 0)
        state[name] = torch.from_numpy(noise).float()
    return state


def inputs(case: str) -> tuple[torch.Tensor, torch.Tensor, list[list[str]]]:
    """(images, mask that is True at real pixels, prompts)."""
    _, (height, width), real, prompts = CASES[case]
    noise = numpy.random.default_rng(len(case)).standard_normal((len(prompts), 3, height, width))
    images, mask = torch.from_numpy(noise).float(), torch.ones(len(prompts), height, width, dtype=torch.bool)
    if real is not None:
        mask[1, real[0] :] = False
        mask[1, :, real[1] :] = False
    return images * mask[:, None], mask, prompts


def ours(config: GroundingDINOConfig) -> GroundingDINO:
    """Our model with the weights of `weights`, loaded under their official names."""
    model = GroundingDINO(config)
    names = to_layout(Checkpoint(dict(model.state_dict()), config, "gdino_lib"), "official")
    fill(model, from_layout(weights({name: tensor.shape for name, tensor in names.items()}), "official"))
    return model.eval()


def official(config: GroundingDINOConfig) -> torch.nn.Module:
    """The authors' model with the weights of `weights`."""
    from groundingdino.models.GroundingDINO import groundingdino, transformer
    from groundingdino.models.GroundingDINO.backbone import backbone, position_encoding, swin_transformer
    from groundingdino.util import get_tokenlizer
    from transformers import BertModel, BertTokenizerFast

    c = config
    get_tokenlizer.get_tokenlizer = lambda _: BertTokenizerFast(str(VOCABULARY / "vocab.txt"))
    get_tokenlizer.get_pretrained_language_model = lambda _: BertModel(bert_config(c))
    swin = swin_transformer.SwinTransformer(
        pretrain_img_size=224,
        embed_dim=c.swin_width,
        depths=list(c.swin_depths),
        num_heads=list(c.swin_heads),
        window_size=c.swin_window,
        out_indices=(1, 2, 3),
    )
    joiner = backbone.Joiner(swin, position_encoding.PositionEmbeddingSineHW(c.width // 2, 20, 20, normalize=True))
    joiner.num_channels = [c.swin_width * 2**stage for stage in (1, 2, 3)]
    settings = SimpleNamespace(
        hidden_dim=c.width, dropout=0.0, nheads=c.heads, num_queries=c.queries, dim_feedforward=c.ffn_width,
        enc_layers=c.encoder_layers, dec_layers=c.decoder_layers, pre_norm=False, query_dim=4,
        transformer_activation="relu", num_patterns=0, num_feature_levels=c.levels, enc_n_points=c.points,
        dec_n_points=c.points, two_stage_type="standard", embed_init_tgt=True, use_text_enhancer=True,
        use_fusion_layer=True, use_checkpoint=False, use_transformer_ckpt=False, use_text_cross_attention=True,
        text_dropout=0.0, fusion_dropout=0.0, fusion_droppath=0.0,
    )  # fmt: skip
    model = groundingdino.GroundingDINO(
        joiner, transformer.build_transformer(settings), c.queries, iter_update=True, query_dim=4, num_feature_levels=c.levels,
        nheads=c.heads, two_stage_type="standard", two_stage_bbox_embed_share=False, two_stage_class_embed_share=False,
    )  # fmt: skip
    state = weights({name: tensor.shape for name, tensor in model.state_dict().items()})
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("relative_position_index") for name in missing), missing
    return model.eval()


@torch.no_grad()
def run_official(
    model: torch.nn.Module, images: torch.Tensor, mask: torch.Tensor, prompts: list[list[str]]
) -> dict[str, torch.Tensor]:
    """Logits [B, Q, T] and boxes [B, Q, 4] of the authors' forward pass."""
    from groundingdino.util.misc import NestedTensor

    captions = [" . ".join(phrases) + " ." for phrases in prompts]
    out = model(NestedTensor(images, ~mask), captions=captions)
    length = int(torch.isfinite(out["pred_logits"][0, 0]).sum())
    return {"logits": out["pred_logits"][..., :length].clone(), "boxes": out["pred_boxes"].clone()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--full-size", action="store_true", help="compare the Swin-T model at 480 x 640")
    options = parser.parse_args()
    record = {}
    cases = {name: (CONFIGS[case[0]], inputs(name)) for name, case in CASES.items()}
    if options.full_size:
        images = torch.from_numpy(numpy.random.default_rng(0).standard_normal((1, 3, 480, 640))).float()
        cases["full size"] = (
            GroundingDINOConfig.tiny(),
            (images, torch.ones(1, 480, 640, dtype=torch.bool), [["cat", "remote control"]]),
        )
    for name, (config, arguments) in cases.items():
        theirs = run_official(official(config), *arguments)
        with torch.no_grad():
            mine = ours(config)(arguments[0], arguments[2], arguments[1])
        for what, tensor in theirs.items():
            difference = (getattr(mine, what) - tensor).abs()
            print(f"{name}, {what}: at most {difference.max():.1e}, of values of about {tensor.std():.1e}")
            record[f"{name}/{what}"] = tensor.contiguous()
    if options.record:
        RECORD.parent.mkdir(exist_ok=True)
        save_file({key: tensor for key, tensor in record.items() if not key.startswith("full size")}, RECORD)


if __name__ == "__main__":
    main()
