"""The functions of the official package: same names, signatures and results, so that a script changes one import.

    from groundingdino.util.inference import load_model, load_image, predict, annotate, Model    # before
    from gdino_lib.inference import load_model, load_image, predict, annotate, Model             # after

"Official" is `groundingdino/util/inference.py` of the authors' repository. Labels are made as the official code makes them,
because such a script expects them: a label joins every token that passes `text_threshold`, so it can merge phrases
("cat dog"), cut words ("tri" of "tricycle") and name special tokens ("[SEP]"), and a class is found by substring ("car" in
"carpet"). `gdino_lib.Detector` gives each box exactly one of your phrases instead.

Four things differ, where the official code crashes or hides a fault: without CUDA, `device="cuda"` means the CPU, with one
warning; every tensor of a weight file must fit the model; a caption of more than 256 tokens is refused, not cut; and a
configuration is parsed, not executed. The older package groundingdino-py 0.4.0 differs from the repository in two ways: its
labels can name "[CLS]", and it finds classes by equality.
"""

from __future__ import annotations

import os
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from gdino_lib.images import prepare, unreadable
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.timm_backbone import fold_batch_norms
from gdino_lib.prompts import piece_id, tokenize_captions, tokenizer
from gdino_lib.weights.loading import choose_device, load
from gdino_lib.weights.official_config import FIELDS_SHOWN_BY_TENSORS, read_config

if TYPE_CHECKING:
    import supervision as sv
    from transformers import PreTrainedTokenizerBase

SWIN_FIELDS = ("backbone", "swin_width", "swin_depths", "swin_heads", "swin_window", "swin_maps")
SEPARATORS = ("[CLS]", "[SEP]", ".")  # for `remove_combined`; "?" is no separator here, although it ends a block
LAST_TOKEN = 255  # the official code never puts this token, the last of 256, into a label
SHORT_SIDE, LONG_SIDE = 800, 1333  # for every model, because the official functions fix these sizes


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
        model_config_path: `GroundingDINO_SwinT_OGC.py` and the like; see
            `gdino_lib.weights.official_config`.
        model_checkpoint_path: `groundingdino_swint_ogc.pth`, or anything else that `gdino_lib.load` takes. BERT's
            sizes, and whether the decoder's layers share a box head, are read from its tensors.
        device: where to put the model; without CUDA, "cuda" means the CPU, with one warning.

    Returns:
        The model in float32, in evaluation mode. It is a `gdino_lib.GroundingDINO`: `predict` and `Detector` take it,
        and it is called with phrases, not with `captions=`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a configuration that is not understood, or that the checkpoint contradicts; a checkpoint with
            tensors that are missing, unexpected, or of another shape, which the official code accepts; a device that
            cannot be used.
    """
    fields = read_config(model_config_path)
    model = load(model_checkpoint_path, "cpu")
    has = model.config
    shown = {name: name for name in SWIN_FIELDS} | FIELDS_SHOWN_BY_TENSORS
    compared = {name: (fields[field], getattr(has, field)) for name, field in shown.items()}
    compared["nheads * enc_n_points"] = (fields["heads"] * fields["points"], has.heads * has.points)
    for name, (given, found) in compared.items():
        if given != found:
            raise ValueError(f"{model_config_path}: {name} = {given}, but {model_checkpoint_path} has {found}")
    config = has.replace(**fields)
    if config != has:  # the configuration sets a field that tensors do not show
        model = load(model_checkpoint_path, "cpu", config)
    return fold_batch_norms(model).to(available(device))


def load_image(image_path: str | os.PathLike[str]) -> tuple[np.ndarray, Tensor]:
    """Read an image as the official function does, which differs from `gdino_lib.images.read_image` in two cases.

    First, EXIF orientation is ignored, except in TIFF files, where PIL applies it. A portrait photograph can therefore lie
    on its side; it does so in both results, so boxes fit the array. Second, 16-bit grey is clipped at 255.
    `gdino_lib.Detector` reads both kinds of images correctly.

    Args:
        image_path: a file that PIL can read.

    Returns:
        uint8 [H, W, 3], RGB, as in the file; and float32 [3, h, w], resized to a short side of 800 (a long side of at
        most 1333) and normalised.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not an image, or is damaged.
    """
    name = repr(os.fspath(image_path))
    if not os.path.exists(image_path):
        raise FileNotFoundError(f"{name}: no such file, expected an image")
    try:
        with Image.open(image_path) as image:
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # each of PIL's formats fails in its own way: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{name}: expected an image file that PIL can read, got {unreadable(error)}") from error
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
    """Find what a caption names. Labels follow the official rule, see the top of this module.

    Args:
        model: from `load_model`; it is moved to `device`.
        image: float [3, h, w], from `load_image`.
        caption: "cat . remote control ."; lower-cased, closed with ".", and every "." and "?" ends a block.
        box_threshold: a box is kept if the probability of its best token is above this; special tokens and "." count.
        text_threshold: a label joins all tokens whose probability is above this, of all phrases, without ".".
        device: without CUDA, "cuda" means the CPU, with one warning.
        remove_combined: a label joins only tokens of one block (between "." and "."), the block of the box's best token.
            If the best token is "[CLS]", the label is empty.

    Returns:
        (boxes float32 [n, 4], cxcywh in 0..1; the best token's probability float32 [n]; n labels, "" where no token
        passes), on the CPU, in the order of the model's queries.

    Raises:
        ValueError: a caption that is no string, or of more than 256 tokens; another kind of image; a device that cannot
            be used.
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
    separators = set(map(piece_id, SEPARATORS))
    ends = [place for place, piece in enumerate(ids) if piece in separators]
    phrases = []
    for row in probabilities[keep]:
        left, right = 0, LAST_TOKEN
        if remove_combined:
            place = bisect_left(ends, int(row.argmax()))
            left, right = ends[place - 1], ends[place]  # for [CLS]: the last end and the first, with no token between
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
    """The text of the marked tokens between two positions, which are excluded themselves.

    In the official package this function is in `groundingdino.util.utils`, and changes `posmap`; here `posmap` stays.

    Args:
        posmap: bool [T], True = marked; T may exceed the length of the caption, where `posmap` must be False.
        tokenized: the result of `tokenizer` for the caption; only "input_ids" is read.
        tokenizer: turns the ids back into text.
        left_idx, right_idx: positions in the caption.

    Raises:
        ValueError: `posmap` has another number of dimensions.
    """
    if posmap.dim() != 1:
        raise ValueError(f"posmap: expected one dimension, got {list(posmap.shape)}")
    marked = [place for place in posmap.nonzero()[:, 0].tolist() if left_idx < place < right_idx]
    ids = [tokenized["input_ids"][place] for place in marked]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=True)  # the default differs between transformers 4 and 5
    assert isinstance(text, str), "several texts come only from several lists of ids"
    return text


def annotate(image_source: np.ndarray, boxes: Tensor, logits: Tensor, phrases: list[str]) -> np.ndarray:
    """Draw the boxes that `predict` found, each in a colour of its own, with a label such as "cat 0.87" above it.

    Args:
        image_source: uint8 [H, W, 3], RGB; it is not changed.
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
        model: from `load_model`; device: the name of the device that the model is on.
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
            (Detections with `xyxy` in pixels and `confidence`, a label for each of them).

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
            classes: names in lower case. A name with a capital letter is never found, because labels are in lower case.

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
            ValueError: another kind of image, or None, which `cv2.imread` returns for a file that it cannot read.
        """
        if not isinstance(image_bgr, np.ndarray) or image_bgr.dtype != np.uint8 or image_bgr.shape[2:] != (3,):
            kind = type(image_bgr).__name__
            given = f"{image_bgr.dtype} {list(image_bgr.shape)}" if isinstance(image_bgr, np.ndarray) else kind
            raise ValueError(f"image: expected a BGR uint8 array [H, W, 3], got {given}")
        return prepare(np.ascontiguousarray(image_bgr[..., ::-1]), SHORT_SIDE, LONG_SIDE)

    @staticmethod
    def post_process_result(source_h: int, source_w: int, boxes: Tensor, logits: Tensor) -> sv.Detections:
        """The boxes of `predict` as Detections: `xyxy` in pixels of an image of that size, not clipped to the image."""
        import supervision as sv

        return sv.Detections(xyxy=_to_corners(boxes, source_w, source_h), confidence=logits.numpy())

    @staticmethod
    def phrases2classes(phrases: list[str], classes: list[str]) -> np.ndarray:
        """For each label, the index of the first class that is a substring of it (letter case counts), or None."""
        found = []
        for phrase in phrases:
            inside = [index for index, name in enumerate(classes) if name in phrase]
            found.append(inside[0] if inside else None)
        return np.array(found)


def available(device: str | torch.device) -> torch.device:
    """The device of that name. On a machine without CUDA, "cuda" gives the CPU, with a warning the first time.

    Raises:
        ValueError: no device has this name, or it cannot be used here.
    """
    if str(device).partition(":")[0] == "cuda" and not torch.cuda.is_available():
        _warn_once(str(device))
        return torch.device("cpu")
    return choose_device(device)


@cache
def _warn_once(device: str) -> None:
    warnings.warn(f"device {device!r}: this machine has no CUDA device, using the CPU", stacklevel=4)


def _to_corners(boxes: Tensor, width: int, height: int) -> np.ndarray:
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return box_convert(boxes * scale, "cxcywh", "xyxy").numpy()
