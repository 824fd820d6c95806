"""The functions of the official package: same names, signatures and results, so that a script changes one import.

    from groundingdino.util.inference import load_model, load_image, predict, annotate, Model    # before
    from gdino_lib.inference import load_model, load_image, predict, annotate, Model             # after

"Official" is `groundingdino/util/inference.py` of the authors' repository. What it does with words is kept, because that
is what such a script expects: a label joins every token that passes `text_threshold`, so it can merge phrases ("cat dog"),
cut words ("tri" of "tricycle") and name special tokens ("[SEP]"), and a class is found by substring ("car" in "carpet").
Exactly one of your phrases a box: that is `gdino_lib.Detector`.

Four things differ, where the official code crashes or keeps silent: without CUDA, `device="cuda"` means the CPU, with one
warning; every tensor of a weight file must fit the model; a caption of more than 256 tokens is refused, not cut; and a
configuration is read, not executed. The older package groundingdino-py 0.4.0 differs from the repository in two: its labels
can name "[CLS]", and it finds classes by equality.
"""

from __future__ import annotations

import ast
import os
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.images import prepare
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.timm_backbone import fold_batch_norms
from gdino_lib.prompts import tokenize_captions, tokenizer
from gdino_lib.weights.loading import choose_device, load

if TYPE_CHECKING:
    import supervision as sv
    from transformers import PreTrainedTokenizerBase

# (width, heads per stage, depth of the third stage, window) of the official names
BACKBONES = {
    "swin_T_224_1k": (96, (3, 6, 12, 24), 6, 7),
    "swin_B_224_22k": (128, (4, 8, 16, 32), 18, 7),
    "swin_B_384_22k": (128, (4, 8, 16, 32), 18, 12),
    "swin_L_224_22k": (192, (6, 12, 24, 48), 18, 7),
    "swin_L_384_22k": (192, (6, 12, 24, 48), 18, 12),
}
BACKBONE_FIELDS = {name: name for name in ("backbone", "swin_width", "swin_depths", "swin_heads", "swin_window")}
# official name -> ours: what tensors show, so that configuration and checkpoint must agree, ...
SHOWN = {
    "hidden_dim": "width",
    "dim_feedforward": "ffn_width",
    "enc_layers": "encoder_layers",
    "dec_layers": "decoder_layers",
    "num_queries": "queries",
    "num_feature_levels": "levels",
    "use_fusion_layer": "fusion",
    "use_text_cross_attention": "text_cross_attention",
}
# ... and what they don't
TOLD = {
    "nheads": "heads",
    "enc_n_points": "points",
    "pe_temperatureH": "position_temperature",
    "dropout": "dropout",
    "fusion_droppath": "fusion_drop_path",
}
# other values would be other models, which nobody has published and `GroundingDINO` does not have
FIXED = {
    "modelname": ("groundingdino",),
    "position_embedding": ("sine", "v2"),  # two names of one thing
    "return_interm_indices": ([1, 2, 3], (1, 2, 3)),
    "pre_norm": (False,),
    "query_dim": (4,),
    "num_patterns": (0,),
    "two_stage_type": ("standard",),
    "two_stage_bbox_embed_share": (False,),
    "two_stage_class_embed_share": (False,),
    "transformer_activation": ("relu",),
    "embed_init_tgt": (True,),
    "max_text_len": (256,),
    "use_text_enhancer": (True,),
    "sub_sentence_present": (True, False),
}
SEPARATORS = ("[CLS]", "[SEP]", ".")  # for `remove_combined`; "?" is none of them, though it ends a block
LAST_TOKEN = 255  # the official code never names it
SHORT_SIDE, LONG_SIDE = 800, 1333  # whatever the model: the official functions know no other


def preprocess_caption(caption: str) -> str:
    """Lower case, no space at either end, "." at the end."""
    caption = caption.lower().strip()
    return caption if caption.endswith(".") else f"{caption}."


def load_model(
    model_config_path: str | os.PathLike[str],
    model_checkpoint_path: str | os.PathLike[str],
    device: str | torch.device = "cuda",
) -> GroundingDINO:
    """The model that an official configuration describes, with a checkpoint's weights.

    Args:
        model_config_path: `GroundingDINO_SwinT_OGC.py` and the like; see `read_config`.
        model_checkpoint_path: `groundingdino_swint_ogc.pth`, or anything else that `gdino_lib.load` takes. BERT's
            sizes, and whether the decoder's layers share a box head, are as its tensors show.
        device: where to put the model; without CUDA, "cuda" means the CPU, with one warning.

    Returns:
        The model in float32, in evaluation mode. It is a `gdino_lib.GroundingDINO`: `predict` and `Detector` take it,
        and it is called with phrases, not with `captions=`.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a configuration that is not understood, or that the checkpoint contradicts; a checkpoint with
            tensors that are missing, unexpected, or of another shape. The official code ignores the latter.
    """
    said = read_config(model_config_path)
    model = load(model_checkpoint_path, "cpu")
    has = model.config
    compared = {name: (said[ours], getattr(has, ours)) for name, ours in (BACKBONE_FIELDS | SHOWN).items()}
    compared["nheads * enc_n_points"] = (said["heads"] * said["points"], has.heads * has.points)
    for name, (given, found) in compared.items():
        if given != found:
            raise ValueError(f"{model_config_path}: {name} = {given}, but {model_checkpoint_path} has {found}")
    config = has.replace(**said)
    if config != has:  # something that tensors don't show
        model = load(model_checkpoint_path, "cpu", config)
    return fold_batch_norms(model).to(available(device))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of `GroundingDINOConfig` that an official configuration file sets.

    The file is Python with nothing but `name = value` lines. It is parsed, never executed. Names that say nothing of the
    model (`batch_size`, `dn_number`, ...) are passed over, as the official code does.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another statement, a value that is computed, a model that is not ours; with the line.
    """
    values = _assignments(path)

    def fail(name: str, expected: str) -> ValueError:
        value, line = values[name]
        return ValueError(f"{os.fspath(path)}, line {line}: {name}: expected {expected}, got {_short(repr(value))}")

    if "_base_" in values:
        raise fail("_base_", "a file that stands alone")
    wanted = ["backbone", *SHOWN, *TOLD]
    if missing := [name for name in wanted if name not in values]:
        raise ValueError(f"{os.fspath(path)} is no configuration of Grounding DINO: missing {', '.join(missing)}")
    for name, allowed in FIXED.items():
        if name in values and not any(type(values[name][0]) is type(one) and values[name][0] == one for one in allowed):
            raise fail(name, " or ".join(map(repr, allowed)))
    for name, twin in (("dec_n_points", "enc_n_points"), ("pe_temperatureW", "pe_temperatureH")):
        if name in values and values[name][0] != values[twin][0]:
            raise fail(name, f"{values[twin][0]!r}, as {twin}")
    text = values.get("text_encoder_type", ("bert-base-uncased", 0))[0]  # or a folder with it
    if not isinstance(text, str) or Path(text).name != "bert-base-uncased":
        raise fail("text_encoder_type", "'bert-base-uncased'")
    backbone = values["backbone"][0]
    if not isinstance(backbone, str) or backbone not in BACKBONES:
        raise fail("backbone", f"one of {', '.join(BACKBONES)}")
    width, heads, depth, window = BACKBONES[backbone]
    said = {
        "backbone": "swin",
        "swin_width": width,
        "swin_depths": (2, 2, depth, 2),
        "swin_heads": heads,
        "swin_window": window,
        "text_mode": "sub-sentence" if values.get("sub_sentence_present", (True, 0))[0] else "whole-sentence",
    }
    for name, field in (SHOWN | TOLD).items():
        value, kind = values[name][0], type(getattr(GroundingDINOConfig, field))
        if kind is float and type(value) in (int, float) and 0 <= value < 1e6:
            said[field] = float(value)
        elif type(value) is kind and (kind is bool or 0 < value < 1e6):
            said[field] = value
        else:
            raise fail(name, {bool: "True or False", int: "a positive whole number", float: "a number"}[kind])
    try:
        GroundingDINOConfig(**said)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    return said


def load_image(image_path: str | os.PathLike[str]) -> tuple[np.ndarray, Tensor]:
    """Read an image as the official function does, which differs from `gdino_lib.images.read_image` in two cases.

    EXIF orientation is ignored (but in TIFF files, where PIL applies it): a photograph taken upright can come in lying,
    in both results alike, so that boxes fit the array. And 16-bit grey is clipped at 255. `gdino_lib.Detector` does
    better on both.

    Args:
        image_path: a file that PIL can read.

    Returns:
        uint8 [H, W, 3], RGB, as in the file; and float32 [3, h, w], resized to a short side of 800 (a long side of at
        most 1333) and normalised.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or a damaged one.
    """
    name = repr(os.fspath(image_path))
    if not os.path.exists(image_path):
        raise FileNotFoundError(f"{name}: no such file, expected an image")
    try:
        with Image.open(image_path) as image:
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # each of PIL's formats fails in its own way: OSError, SyntaxError, struct.error, ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{name}: expected an image file that PIL can read, got {reason}") from error
    return pixels, prepare(pixels, SHORT_SIDE, LONG_SIDE)


def predict(
    model: GroundingDINO,
    image: Tensor,
    caption: str,
    box_threshold: float,
    text_threshold: float,
    device: str | torch.device = "cuda",
    remove_combined: bool = False,
) -> tuple[Tensor, Tensor, list[str]]:
    """Find what a caption names; labels by the official rule, see the top of this module.

    Args:
        model: from `load_model`; it is moved to `device`.
        image: float [3, h, w], from `load_image`.
        caption: "cat . remote control ."; lower-cased, closed with ".", and every "." and "?" ends a block.
        box_threshold: a box stays if its best token is above it, special tokens and "." included.
        text_threshold: a label joins the tokens above it, of all phrases, without ".".
        device: without CUDA, "cuda" means the CPU, with one warning.
        remove_combined: a label joins only tokens of the block (between "." and ".") of the box's best token; none if
            that is "[CLS]".

    Returns:
        boxes float32 [n, 4], cxcywh in 0..1; the best token's probability float32 [n]; n labels, "" where no token
        passes. In the model's order, on the CPU.

    Raises:
        ValueError: a caption that is no string, or of more than 256 tokens; another kind of image.
    """
    if not isinstance(caption, str):
        raise ValueError(f'caption: expected one string, "cat . remote control .", got {type(caption).__name__}')
    if not isinstance(image, Tensor) or image.shape[:-2] != (3,) or not image.is_floating_point():
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor | np.ndarray) else type(image).__name__
        raise ValueError(f"image: expected a float tensor [3, h, w], the second result of load_image, got {given}")
    caption = preprocess_caption(caption)
    prompt = tokenize_captions([caption], model.config.max_tokens)
    device = available(device)
    model, image = model.to(device), image.to(device)
    with torch.no_grad():
        out = model(image[None], prompt)
    probabilities = out.logits[0].float().cpu().sigmoid()  # (Q, T)
    best = probabilities.amax(1)
    keep = best > box_threshold
    ids = prompt.ids[0].tolist()
    tokenized = {"input_ids": ids}
    separators = set(tokenizer().convert_tokens_to_ids(list(SEPARATORS)))
    ends = [place for place, piece in enumerate(ids) if piece in separators]
    phrases = []
    for row in probabilities[keep]:
        left, right = 0, LAST_TOKEN
        if remove_combined:
            place = bisect_left(ends, int(row.argmax()))
            left, right = ends[place - 1], ends[place]  # the best is [CLS]: from the last end on, which leaves nothing
        phrase = get_phrases_from_posmap(row > text_threshold, tokenized, tokenizer(), left, right)
        phrases.append(phrase.replace(".", ""))
    return out.boxes[0].float().cpu()[keep], best[keep], phrases


def get_phrases_from_posmap(
    posmap: Tensor,
    tokenized: Mapping[str, Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    left_idx: int = 0,
    right_idx: int = LAST_TOKEN,
) -> str:
    """The text of the tokens that are marked, between two places and without these.

    Of the official package's `groundingdino.util.utils`; unlike there, `posmap` stays as it is.

    Args:
        posmap: bool [T], True = marked; may be longer than the caption where it is False.
        tokenized: what `tokenizer` makes of the caption; "input_ids" is read.

    Raises:
        ValueError: `posmap` has another number of dimensions.
    """
    if posmap.dim() != 1:
        raise ValueError(f"posmap: expected one dimension, got {list(posmap.shape)}")
    marked = [place for place in posmap.nonzero()[:, 0].tolist() if left_idx < place < right_idx]
    # said aloud, since transformers 5 has another default than 4
    return tokenizer.decode([tokenized["input_ids"][place] for place in marked], clean_up_tokenization_spaces=True)


def annotate(image_source: np.ndarray, boxes: Tensor, logits: Tensor, phrases: list[str]) -> np.ndarray:
    """Draw what `predict` found, each box in a colour of its own, "cat 0.87" above it.

    Args:
        image_source: uint8 [H, W, 3], RGB; it is not drawn upon.
        boxes: float [n, 4], cxcywh in 0..1; logits: float [n]; phrases: n labels.

    Returns:
        uint8 [H, W, 3], BGR, as `cv2.imwrite` takes it. The look is that of the installed supervision.
    """
    import supervision as sv

    height, width, _ = image_source.shape
    detections = sv.Detections(xyxy=_to_corners(boxes, width, height))
    labels = [f"{phrase} {logit:.2f}" for phrase, logit in zip(phrases, logits, strict=True)]
    frame = np.ascontiguousarray(image_source[..., ::-1])
    frame = sv.BoxAnnotator(color_lookup=sv.ColorLookup.INDEX).annotate(frame, detections)
    return sv.LabelAnnotator(color_lookup=sv.ColorLookup.INDEX).annotate(frame, detections, labels)


class Model:
    """A model and its device, for images as OpenCV reads them: BGR.

    Args:
        model_config_path, model_checkpoint_path, device: as `load_model` takes them.

    Attributes:
        model: from `load_model`; device: where it is.
    """

    def __init__(
        self,
        model_config_path: str | os.PathLike[str],
        model_checkpoint_path: str | os.PathLike[str],
        device: str | torch.device = "cuda",
    ) -> None:
        self.device = str(available(device))
        self.model = load_model(model_config_path, model_checkpoint_path, self.device)

    def predict_with_caption(
        self, image: np.ndarray, caption: str, box_threshold: float = 0.35, text_threshold: float = 0.25
    ) -> tuple[sv.Detections, list[str]]:
        """`predict` on a BGR image.

        Args:
            image: uint8 [H, W, 3], BGR.

        Returns:
            Detections with `xyxy` in pixels and `confidence`; a label each.

        Raises:
            ValueError: another kind of image; a caption of more than 256 tokens.
        """
        tensor = Model.preprocess_image(image)
        boxes, logits, phrases = predict(self.model, tensor, caption, box_threshold, text_threshold, self.device)
        height, width, _ = image.shape
        return Model.post_process_result(height, width, boxes, logits), phrases

    def predict_with_classes(
        self, image: np.ndarray, classes: list[str], box_threshold: float, text_threshold: float
    ) -> sv.Detections:
        """`predict_with_caption`, with labels turned into classes by `phrases2classes`.

        Args:
            image: uint8 [H, W, 3], BGR.
            classes: in lower case; others are never found.

        Returns:
            Detections with `xyxy`, `confidence`, and `class_id`, which holds None where no class is found.

        Raises:
            ValueError: as `predict_with_caption`.
        """
        detections, phrases = self.predict_with_caption(image, ". ".join(classes), box_threshold, text_threshold)
        detections.class_id = Model.phrases2classes(phrases, classes)
        return detections

    @staticmethod
    def preprocess_image(image_bgr: np.ndarray) -> Tensor:
        """uint8 [H, W, 3], BGR -> float32 [3, h, w], as `load_image` resizes and normalises.

        Raises:
            ValueError: another kind of image; None, which `cv2.imread` returns where it finds no image.
        """
        if not isinstance(image_bgr, np.ndarray) or image_bgr.dtype != np.uint8 or image_bgr.shape[2:] != (3,):
            kind = type(image_bgr).__name__
            given = f"{image_bgr.dtype} {list(image_bgr.shape)}" if isinstance(image_bgr, np.ndarray) else kind
            raise ValueError(f"image: expected a BGR uint8 array [H, W, 3], got {given}")
        return prepare(np.ascontiguousarray(image_bgr[..., ::-1]), SHORT_SIDE, LONG_SIDE)

    @staticmethod
    def post_process_result(source_h: int, source_w: int, boxes: Tensor, logits: Tensor) -> sv.Detections:
        """What `predict` returns, as Detections: `xyxy` in pixels of an image of that size, not clipped to it."""
        import supervision as sv

        return sv.Detections(xyxy=_to_corners(boxes, source_w, source_h), confidence=logits.numpy())

    @staticmethod
    def phrases2classes(phrases: list[str], classes: list[str]) -> np.ndarray:
        """For each label, the index of the first class that is a substring of it, letter case included; or None."""
        found = []
        for phrase in phrases:
            inside = [index for index, name in enumerate(classes) if name in phrase]
            found.append(inside[0] if inside else None)
        return np.array(found)


def available(device: str | torch.device) -> torch.device:
    """The device of that name; the CPU in place of CUDA where there is none, with a warning the first time.

    Raises:
        ValueError: no device has this name, or it cannot be used here.
    """
    if str(device).partition(":")[0] == "cuda" and not torch.cuda.is_available():
        _warn_once(str(device))
        return torch.device("cpu")
    return choose_device(device)


@cache
def _warn_once(device: str) -> None:
    warnings.warn(f"device {device!r}: this machine has no CUDA device, going on with the CPU", stacklevel=4)


def _to_corners(boxes: Tensor, width: int, height: int) -> np.ndarray:
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return box_convert(boxes * scale, "cxcywh", "xyxy").numpy()


def _assignments(path: str | os.PathLike[str]) -> dict[str, tuple[Any, int]]:
    """name -> (value, line) of a file of plain assignments."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        text = path.read_text("utf-8")
        statements, lines = ast.parse(text).body, text.split("\n")
    except (MemoryError, RecursionError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else f"{path}"
        raise ValueError(f"{where}: expected `name = value` lines, got {type(error).__name__}") from None
    values: dict[str, tuple[Any, int]] = {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        try:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                raise ValueError
            if not all(isinstance(target, ast.Name) for target in targets):
                raise ValueError
            value = ast.literal_eval(statement.value)
        except (MemoryError, RecursionError, TypeError, ValueError):
            raise ValueError(
                f"{path}, line {statement.lineno}: expected `name = value` with a plain value, "
                f"got `{_short(lines[statement.lineno - 1])}`; nothing of the file was run"
            ) from None
        values |= {target.id: (value, statement.lineno) for target in targets}
    return values


def _short(text: str) -> str:
    """One line of at most 60 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
