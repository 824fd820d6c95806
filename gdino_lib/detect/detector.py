"""Give an image and phrases, get boxes that each carry exactly one of those phrases."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import nms

from gdino_lib.detect.postprocess import Score, label_boxes, label_every, phrase_wise_nms, to_pixels
from gdino_lib.images import ImageSource, prepare, read_image
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.model.timm_backbone import fold_batch_norms
from gdino_lib.prompts import Prompt, chunk, split_phrases, tokenize, tokenizer, word_pieces
from gdino_lib.weights.loading import load

if TYPE_CHECKING:
    import supervision as sv

    from gdino_lib.detect.thresholds import Thresholds

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT_TOKENS = 16_384  # of phrases that BERT need not read again; 50 MB with BERT-base in float32
CHUNK_IOU = 0.7  # boxes of several chunks that overlap more are one object


@dataclass(frozen=True, repr=False)
class ImageEmbedding:
    """An image that has been through the backbone; a `Detector` takes it in place of the image.

    Attributes:
        tokens: of a batch of one.
        size: (width, height) of the upright original in pixels.
    """

    tokens: ImageTokens
    size: tuple[int, int]

    def __repr__(self) -> str:
        width, height = self.size
        features = self.tokens.features
        return f"<ImageEmbedding: {width} x {height} pixels as {features.shape[1]} tokens, on {features.device}>"


@dataclass(frozen=True)
class Vocabulary:
    """A caller's phrases, ready for the model.

    Attributes:
        phrases: as given.
        chunks: prompts of at most the model's number of tokens: distinct phrases in canonical order (that of their word
            pieces), so that the caller's order, letter case and repetitions change nothing.
        indices: for each chunk, the first index in `phrases` of each of its phrases.
    """

    phrases: tuple[str, ...]
    chunks: tuple[tuple[str, ...], ...]
    indices: tuple[tuple[int, ...], ...]

    @classmethod
    def build(cls, phrases: str | Sequence[str], max_tokens: int) -> Vocabulary:
        """Read phrases: a list, or one string "cat . remote control .".

        Raises:
            TypeError: something else; ValueError: no phrases, an empty one, or one that is too long.
        """
        phrases = tuple(split_phrases(phrases) if isinstance(phrases, str) else phrases)
        for number, phrase in enumerate(phrases):
            if not isinstance(phrase, str):
                raise TypeError(f"phrase {number}: expected a string, got {type(phrase).__name__}")
            if not phrase.strip():
                raise ValueError(f"phrase {number} is empty; expected words")
        if not phrases:
            raise ValueError("no phrases; expected at least one")
        first: dict[tuple[int, ...], int] = {}
        for number, phrase in enumerate(phrases):
            pieces = word_pieces(phrase)
            if not set(pieces) - {tokenizer().unk_token_id}:
                shown = phrase if len(phrase) <= 40 else f"{phrase[:40]}..."
                message = f"phrase {number}, {shown!r}, has no word that the model knows: its boxes mean nothing"
                warnings.warn(message, stacklevel=_callers_level())
            if pieces:  # nothing is left of control characters: such a phrase is never found
                first.setdefault(pieces, number)
        canonical = sorted(first)
        try:
            chunks = chunk(canonical, max_tokens)
        except ValueError:
            longest = max(range(len(phrases)), key=lambda number: len(word_pieces(phrases[number])))
            count = len(word_pieces(phrases[longest]))
            shown = phrases[longest][:40]
            raise ValueError(
                f"phrase {longest}, '{shown}...', has {count} tokens; expected at most {max_tokens - 3}"
            ) from None
        indices = tuple(tuple(first[canonical[number]] for number in members) for members in chunks)
        return cls(phrases, tuple(tuple(phrases[n] for n in members) for members in indices), indices)


class Detector:
    """Finds what phrases name.

    Args:
        model: a `GroundingDINO`; it is put into evaluation mode.
        dtype: "float32", "bfloat16" or "float16", by autocast: weights stay as they are.
        batch_size: at most so many images of one resized shape go through the model at once. None: 4, and 1 on a CPU,
            where larger batches leave its caches (nano, batches of 4: the backbone takes 1.5 times as long an image).
    """

    def __init__(self, model: GroundingDINO, dtype: str = "float32", batch_size: int | None = None) -> None:
        if not isinstance(model, nn.Module):  # no GroundingDINO either where it is compiled
            name = repr(model) if isinstance(model, str | os.PathLike) else type(model).__name__
            raise TypeError(
                f"model: expected a GroundingDINO, got {name}; weights: Detector.from_pretrained(path_or_name)"
            )
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.model = model.eval()
        self.dtype = DTYPES[dtype]
        self.batch_size = batch_size
        self._known: dict[tuple[int, ...], Tensor] = {}  # what BERT made of phrases, by their ids ...
        self._known_by: list[tuple[int, int]] = []  # ... and the state of its weights then
        self._held: list[Tensor] = []  # these weights

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | os.PathLike[str], device: str = "auto", dtype: str = "float32"
    ) -> Detector:
        """A detector with the weights that `gdino_lib.load` finds: "nano", "tiny", "base", a file or a folder.

        "nano", the embedded model, has learnt drawn pictograms, and neither photographs nor relations or counts: those are for
        "tiny" and "base".
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        return cls(fold_batch_norms(load(path_or_name, device)), dtype)

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"<Detector: {type(self.model).__name__} of {millions:.1f} million parameters, on {self.device}, {dtype}>"
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def __call__(
        self,
        image: ImageSource | ImageEmbedding | Sequence[ImageSource | ImageEmbedding],
        phrases: str | Sequence[str] | Sequence[Sequence[str]],
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        nms_iou: float | None = None,
        top_k: int | None = None,
        score: Score = "mean",
        thresholds: Thresholds | None = None,
        every_phrase: bool = False,
    ) -> sv.Detections | list[sv.Detections]:
        """Detect.

        Args:
            image: a path, PIL image, RGB uint8 array [H, W, 3], an embedding from `encode_image`, or a list of these.
            phrases: a list of phrases, one string "cat . remote control ." (split on "." only), or, with a list of
                images, a list of phrase lists, one per image.
            box_threshold: the best token of a box must reach it, 0..1.
            text_threshold: the score of the box's phrase must reach it, 0..1.
            nms_iou: phrase-wise non-maximum suppression above this overlap; None: none.
            top_k: at most so many boxes per image, the surest; with `every_phrase`, pairs of a box and a phrase.
            score: of a phrase: "mean" of its tokens' sigmoids, or "max", the best token's.
            thresholds: chosen on validation data (`gdino_lib.detect.thresholds`), in place of both thresholds: the
                score of a box's phrase must reach the threshold of the class that is called so, or the default one.
            every_phrase: report a box once for every phrase that it may carry, not for its best alone: what COCO's precision
                is measured on. `data["best"]` tells which is its best.

        Returns:
            supervision.Detections, or a list of them for a list of images, by falling confidence. `xyxy`: float32
            pixels inside the upright image; `confidence`: the score of the box's phrase; `class_id`: its index in the
            caller's list (of phrases that tokenise alike, the first); `data["class_name"]`: the phrase, letter for
            letter.

            More phrases than fit into the model's 256 tokens are dealt into chunks; the boxes of all chunks are joined,
            and of those that overlap by more than 0.7 the surest stays.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image, phrase or threshold that cannot be used; one line.
        """
        check_options(box_threshold, text_threshold, nms_iou, top_k, score, thresholds)
        self._look_after()
        many = isinstance(image, (list, tuple))
        images = list(image) if many else [image]
        vocabularies = self._vocabularies(phrases, len(images), many)
        found: list[Any] = [None] * len(images)
        for members, tokens, sizes in self._batches(images):
            options = (box_threshold, text_threshold, nms_iou, top_k, score, thresholds, every_phrase)
            results = self._detect(tokens, sizes, [vocabularies[number] for number in members], options)
            for number, result in zip(members, results, strict=True):
                found[number] = result
        return found if many else found[0]

    def refer(self, image: ImageSource | ImageEmbedding, phrase: str) -> sv.Detections:
        """The one box that fits a referring expression best, however unsure: "the cup on the left".

        Raises:
            FileNotFoundError, ValueError, TypeError: an image or an expression that cannot be used, a list among them.
        """
        if not isinstance(phrase, str):
            raise TypeError(f"phrase: expected one string, got {type(phrase).__name__}")
        if isinstance(image, list | tuple):
            raise TypeError(f"image: expected one image, got {type(image).__name__}")
        return self(image, [phrase], box_threshold=0.0, text_threshold=0.0, top_k=1)

    @torch.inference_mode()
    def encode_image(self, image: ImageSource) -> ImageEmbedding:
        """Run the backbone once, for many prompts.

        Raises:
            FileNotFoundError, ValueError: an image that cannot be read.
        """
        self._look_after()
        upright = read_image(image)
        return ImageEmbedding(self._encode([self._prepare(upright)]), upright.size)

    def _look_after(self) -> None:
        """The model may have been trained, loaded or moved since the last call."""
        if self.model.training:
            self.model.eval()
        text = self.model.text_encoder
        read_by = [*text.bert.parameters(), *text.buffers(recurse=False)]  # with its landmarks
        now = [(tensor.data_ptr(), tensor._version) for tensor in read_by]
        if now != self._known_by:
            self._known.clear()
            self._known_by, self._held = now, read_by  # else new landmarks could take the address of these

    def _prepare(self, image: Image.Image) -> Tensor:
        return prepare(image, self.model.config.short_side, self.model.config.long_side)

    def _encode(self, tensors: list[Tensor]) -> ImageTokens:
        pixels = torch.stack(tensors).to(self.device, non_blocking=True)
        with self._autocast():
            return self.model.image_backbone(pixels, pixels.new_ones(pixels[:, 0].shape, dtype=torch.bool))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _vocabularies(self, phrases: Any, count: int, many: bool) -> list[Vocabulary]:
        limit = self.model.config.max_tokens
        if not isinstance(phrases, str | list | tuple):
            raise TypeError(f"phrases: expected a string or a list, got {type(phrases).__name__}")
        nested = not isinstance(phrases, str) and any(not isinstance(phrase, str) for phrase in phrases)
        if not nested:
            return [Vocabulary.build(phrases, limit)] * count
        if not many or len(phrases) != count:
            wanted = f"{count} lists of phrases, one per image" if many else "strings: lists go with a list of images"
            raise ValueError(f"phrases: expected {wanted}, got {len(phrases)} entries that are not all strings")
        return [Vocabulary.build(own, limit) for own in phrases]

    @torch.inference_mode()
    def _batches(self, images: list[Any]) -> Iterable[tuple[list[int], ImageTokens, list[tuple[int, int]]]]:
        """Encode images, those of equal resized shape together: padding would change their features."""
        waiting: dict[torch.Size, list[tuple[int, Tensor, tuple[int, int]]]] = {}
        batch_size = self.batch_size or (1 if self.device.type == "cpu" else 4)

        def encoded(
            group: list[tuple[int, Tensor, tuple[int, int]]],
        ) -> tuple[list[int], ImageTokens, list[tuple[int, int]]]:
            return [n for n, _, _ in group], self._encode([t for _, t, _ in group]), [s for _, _, s in group]

        for number, image in enumerate(images):
            if isinstance(image, ImageEmbedding):
                yield [number], image.tokens, [image.size]
                continue
            upright = read_image(image)
            tensor = self._prepare(upright)
            group = waiting.setdefault(tensor.shape, [])
            group.append((number, tensor, upright.size))
            if len(group) == batch_size:
                yield encoded(waiting.pop(tensor.shape))
        for group in waiting.values():
            yield encoded(group)

    @torch.inference_mode()
    def _detect(
        self, tokens: ImageTokens, sizes: list[tuple[int, int]], vocabularies: list[Vocabulary], options: tuple
    ) -> list[sv.Detections]:
        box_threshold, text_threshold, nms_iou, top_k, score, thresholds, every_phrase = options
        label = label_every if every_phrase else label_boxes
        parts: list[list[tuple[Tensor, ...]]] = [[] for _ in sizes]
        for step in range(max(len(vocabulary.chunks) for vocabulary in vocabularies)):
            rows = [row for row, vocabulary in enumerate(vocabularies) if step < len(vocabulary.chunks)]
            with self._autocast():
                text = self._text([vocabularies[row].chunks[step] for row in rows])
                out = self.model.ground(tokens if len(rows) == len(sizes) else tokens.select(rows), text)
            for place, row in enumerate(rows):
                indices = vocabularies[row].indices[step]
                if thresholds is not None:  # in place of both
                    text_threshold = _of_phrases(thresholds, vocabularies[row].chunks[step]).to(out.logits.device)
                boxes, phrase, scores, *best = label(
                    out.logits[place],
                    out.boxes[place],
                    out.phrase_of_token[place],
                    len(indices),
                    box_threshold if thresholds is None else 0.0,
                    text_threshold,
                    score,
                )
                class_ids = torch.tensor(indices, device=phrase.device)[phrase]
                parts[row].append((to_pixels(boxes, *sizes[row]), class_ids, scores, *best))
        return [
            _detections(part, vocabulary.phrases, nms_iou, top_k)
            for part, vocabulary in zip(parts, vocabularies, strict=True)
        ]

    def _text(self, prompts: list[tuple[str, ...]]) -> TextTokens:
        """Encode one prompt per image; one that all share is computed once, and BERT reads the phrases that are new."""
        shared = len(set(prompts)) == 1
        prompt = tokenize(prompts[:1] if shared else prompts, self.model.config.max_tokens).to(self.device)
        text = self.model.text_encoder(prompt, self._known)
        tokens = sum(map(len, self._known))
        while tokens > KEPT_TOKENS:
            oldest = next(iter(self._known))
            tokens -= len(oldest)
            del self._known[oldest]
        if not shared:
            return text
        count, p = len(prompts), text.prompt
        repeated = Prompt(*(t.expand(count, -1) for t in (p.ids, p.phrases, p.blocks, p.positions)))
        return TextTokens(text.features.expand(count, -1, -1), repeated)


def _callers_level() -> int:
    """The `stacklevel` of a warning that points to whoever called this package."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == __name__.split(".")[0]:
        level, frame = level + 1, frame.f_back
    return level


def check_options(
    box_threshold: float,
    text_threshold: float,
    nms_iou: float | None,
    top_k: int | None,
    score: str,
    thresholds: Thresholds | None = None,
) -> None:
    """Refuse what makes no sense.

    Raises:
        TypeError: `thresholds` is none of `gdino_lib.detect.thresholds`.
        ValueError: a threshold or overlap that is no number in 0..1, a `top_k` that is no number from 1, another score.
    """
    for name, value in (("box_threshold", box_threshold), ("text_threshold", text_threshold), ("nms_iou", nms_iou)):
        if value is None and name == "nms_iou":
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a number in 0..1, got {value!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1):
        raise ValueError(f"top_k: expected a whole number of at least 1, got {top_k!r}")
    if score not in Score.__args__:
        raise ValueError(f"score: expected one of {', '.join(Score.__args__)}, got {score!r}")
    if thresholds is not None and not hasattr(thresholds, "classes"):
        raise TypeError(f"thresholds: expected calibration.Thresholds, got {type(thresholds).__name__}")


def _of_phrases(thresholds: Thresholds, phrases: Sequence[str]) -> Tensor:
    """The threshold of each phrase, float32 [P], by what the words become: "with_mask" is "With mask", too."""
    own = {word_pieces(name): value for name, value in thresholds.classes.items()}
    return torch.tensor([own.get(word_pieces(phrase), thresholds.default) for phrase in phrases], dtype=torch.float32)


def _detections(
    parts: list[tuple[Tensor, ...]], phrases: tuple[str, ...], nms_iou: float | None, top_k: int | None
) -> sv.Detections:
    """Join the chunks' (boxes, class ids, scores), with `every_phrase` also which are a box's best."""
    import supervision as sv

    parts = parts or [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    if len(parts) > 1:
        columns = _across_chunks(*columns)
    if nms_iou is not None:
        boxes, class_ids, scores = columns[:3]
        keep = phrase_wise_nms(boxes, scores, class_ids, nms_iou)
        columns = [column[keep] for column in columns]
    boxes, class_ids, scores, *best = (column[:top_k].cpu().numpy() for column in columns)
    names = np.array([phrases[index] for index in class_ids.tolist()], dtype=str)
    return sv.Detections(
        xyxy=boxes.reshape(-1, 4),
        confidence=scores,
        class_id=class_ids,
        data={"class_name": names} | ({"best": best[0]} if best else {}),
    )


def _across_chunks(boxes: Tensor, class_ids: Tensor, scores: Tensor, *best: Tensor) -> list[Tensor]:
    """Of boxes of several chunks that overlap the surest stays; where each comes with every phrase, it stays the best one."""
    if not best:
        keep = nms(boxes, scores, CHUNK_IOU)
        return [boxes[keep], class_ids[keep], scores[keep]]
    candidates = best[0].nonzero().squeeze(1)
    chosen = torch.zeros_like(best[0])
    chosen[candidates[nms(boxes[candidates], scores[candidates], CHUNK_IOU)]] = True
    order = scores.argsort(descending=True, stable=True)
    return [boxes[order], class_ids[order], scores[order], chosen[order]]
