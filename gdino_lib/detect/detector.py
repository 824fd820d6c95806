"""The detector: from an image and phrases to boxes that each carry exactly one of the phrases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gdino_lib.detect.dtypes import torch_dtype
from gdino_lib.detect.explain import explain_calls, one_prompt, recorded_calls
from gdino_lib.detect.explanation import Explanation
from gdino_lib.detect.frames import FrameSource
from gdino_lib.detect.joining import join_chunks, label_image, to_detections
from gdino_lib.detect.options import DetectOptions, Score
from gdino_lib.detect.postprocess import LabelledBoxes
from gdino_lib.detect.predictions import ImagePredictions
from gdino_lib.detect.text_cache import TextCache
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.detect.tracking import find_in_frames
from gdino_lib.detect.vocabulary import Phrases, Vocabulary, build_vocabularies
from gdino_lib.images import ImageSource, prepare, read_image
from gdino_lib.model.grounding_dino import GroundingDINO
from gdino_lib.model.image_backbone import ImageTokens
from gdino_lib.model.text_encoder import TextTokens
from gdino_lib.model.timm_backbone import fold_batch_norms
from gdino_lib.prompts import Prompt, tokenize
from gdino_lib.weights.loading import load

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True, repr=False)
class ImageEmbedding:
    """An image that has been through the backbone; a `Detector` takes it in place of the image.

    Attributes:
        tokens: the image's tokens, as a batch of one.
        size: (width, height) of the upright original in pixels.
    """

    tokens: ImageTokens
    size: tuple[int, int]

    def __repr__(self) -> str:
        width, height = self.size
        features = self.tokens.features
        return f"<ImageEmbedding: {width} x {height} pixels as {features.shape[1]} tokens, on {features.device}>"


class Detector:
    """Finds what phrases name.

    Any number of threads may use one detector at the same time. In a forked process, such as a worker of PyTorch's
    `DataLoader` on Linux, a copy of the detector finds the same boxes, but PyTorch computes on one thread there. A spawned
    process uses all threads.

    Args:
        model: a `GroundingDINO`; it is put into evaluation mode.
        dtype: "float32", "bfloat16" or "float16", the precision of the computation by autocast; the weights keep theirs.
        batch_size: largest number of images of one resized shape that go through the model at once. None: 4, or 1 on a CPU,
            where larger batches overflow the caches (in batches of 4, nano's backbone takes 1.5 times as long per image).

    Attributes:
        text_cache: BERT's features of the phrases of earlier calls.

    Raises:
        TypeError: `model` is not a model; ValueError: an unknown `dtype`, or a `batch_size` below 1.
    """

    def __init__(self, model: GroundingDINO, dtype: str = "float32", batch_size: int | None = None) -> None:
        if not isinstance(model, nn.Module):  # not `GroundingDINO`, because torch.compile wraps it in another class
            name = repr(model) if isinstance(model, str | os.PathLike) else type(model).__name__
            raise TypeError(
                f"model: expected a GroundingDINO, got {name}; weights: Detector.from_pretrained(path_or_name)"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.dtype = torch_dtype(dtype)
        self.model = model.eval()
        self.batch_size = batch_size
        self.text_cache = TextCache()

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | os.PathLike[str], device: str = "auto", dtype: str = "float32"
    ) -> Detector:
        """A detector with the weights that `gdino_lib.load` finds: "nano", "tiny", "base", a file or a folder.

        "nano", the embedded model, has learned drawn pictograms, but neither photographs nor relations and counts ("three
        cups"). Use "tiny" or "base" for these.

        Raises:
            FileNotFoundError, ValueError: as `gdino_lib.load`; an unknown `dtype`.
        """
        torch_dtype(dtype)  # refused before minutes of loading
        return cls(fold_batch_norms(load(path_or_name, device)), dtype)

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"<Detector: {type(self.model).__name__} of {millions:.1f} million parameters, on {self.device}, {dtype}>"
        )

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.model.parameters()).device

    @overload
    def __call__(
        self,
        image: ImageSource | ImageEmbedding,
        phrases: Phrases,
        box_threshold: float = ...,
        text_threshold: float = ...,
        nms_iou: float | None = ...,
        top_k: int | None = ...,
        score: Score = ...,
        thresholds: Thresholds | None = ...,
        every_phrase: bool = ...,
        negatives: str | Sequence[str] = ...,
    ) -> sv.Detections: ...

    @overload
    def __call__(
        self,
        image: Sequence[ImageSource | ImageEmbedding],
        phrases: Phrases | Sequence[Phrases],
        box_threshold: float = ...,
        text_threshold: float = ...,
        nms_iou: float | None = ...,
        top_k: int | None = ...,
        score: Score = ...,
        thresholds: Thresholds | None = ...,
        every_phrase: bool = ...,
        negatives: str | Sequence[str] = ...,
    ) -> list[sv.Detections]: ...

    def __call__(
        self,
        image: ImageSource | ImageEmbedding | Sequence[ImageSource | ImageEmbedding],
        phrases: Phrases | Sequence[Phrases],
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        nms_iou: float | None = None,
        top_k: int | None = None,
        score: Score = "mean",
        thresholds: Thresholds | None = None,
        every_phrase: bool = False,
        negatives: str | Sequence[str] = (),
    ) -> sv.Detections | list[sv.Detections]:
        """Find the boxes of each phrase.

        Args:
            image: a path, the bytes of an encoded image, a PIL image, a uint8 array [H, W, 3], a tensor [3, H, W], an
                embedding from `encode_image`, or a list of these. `gdino_lib.images.read_image` has the details.
            phrases: a list of phrases; one string "cat . remote control ." (split on "." only); or names with wordings,
                {"car": ["car", "sedan"]}: the score of a name is that of its best wording. With a list of images also a
                list of these, one per image.
            box_threshold: the score of a box's best token must reach it; in 0..1.
            text_threshold: the score of a box's phrase must reach it; in 0..1.
            nms_iou: overlap (IoU) above which the weaker of two boxes of one phrase is removed; None: none is removed.
            top_k: largest number of boxes per image, the surest ones; with `every_phrase`, of pairs of a box and a phrase.
                None: no limit.
            score: the score of a phrase is the "mean" of its tokens' sigmoids, or "max", the sigmoid of its best token.
            thresholds: thresholds per class, chosen on validation data (`gdino_lib.detect.thresholds`). They replace both
                thresholds above: the score of a box's phrase must reach the threshold of the class of this name, or the
                default threshold.
            every_phrase: report a box once for each phrase (or name) whose score suffices, not for its best phrase alone.
                COCO's average precision is measured on such boxes. `data["best"]` marks the best phrase of each box.
            negatives: a list of phrases, or one string, of what is not wanted but easily confused with it. A box is dropped
                if its best phrase is a negative, whatever the score; `nms_iou` and `top_k` choose from the other boxes.

        Returns:
            supervision.Detections, or a list of them for a list of images, by falling confidence. `xyxy`: float32
            pixels inside the upright image; `confidence`: the score of the box's phrase; `class_id`: its index in the
            caller's list (of phrases that tokenise alike, the first), or that of its name; `data["class_name"]`: the phrase
            or the name, letter for letter; `data["wording"]`: the phrase that the score is of.

            Phrases that do not fit into the model's `max_tokens` together are divided into chunks. The boxes of all chunks
            are joined, and of boxes that overlap by more than 0.7 the surest is kept.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image, phrase or threshold that cannot be used; one line.

        Warns:
            UserWarning: a phrase without a word that the model knows.
        """
        options = DetectOptions(box_threshold, text_threshold, nms_iou, top_k, score, thresholds, every_phrase)
        many = isinstance(image, list | tuple)
        images = list(image) if many else [image]
        count = len(images) if many else None
        vocabularies = build_vocabularies(phrases, self.model.config.max_tokens, negatives, count)
        results = self._detect(images, vocabularies, options)
        return results if many else results[0]

    def refer(self, image: ImageSource | ImageEmbedding, phrase: str) -> sv.Detections:
        """The one box that fits a referring expression best, such as "the cup on the left", however low its score.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image or an expression that cannot be used, or a list of them.
        """
        if not isinstance(phrase, str):
            raise TypeError(f"phrase: expected one string, got {type(phrase).__name__}")
        _require_one(image)
        options = DetectOptions(box_threshold=0.0, text_threshold=0.0, top_k=1)
        return self._detect([image], build_vocabularies([phrase], self.model.config.max_tokens), options)[0]

    def track(
        self, source: FrameSource, phrases: Phrases, *, every: int = 1, **options: Any
    ) -> Iterator[tuple[NDArray[np.uint8], sv.Detections]]:
        """Find objects in each frame of a film, and follow them from frame to frame with ByteTrack.

        Args:
            source: a film file, the address of a stream ("rtsp://..."), a camera index, or an iterable of pictures.
            phrases, options: as a call takes them. A box whose confidence reaches `box_threshold` can begin a track.
            every: detect in each `every`-th frame and in the last, and interpolate the boxes between.

        Yields:
            (uint8 [H, W, 3], RGB and upright; its boxes with `tracker_id`, -1 for a box without a track). `metadata` holds
            `number`, `seconds`, and `detected`, False if the boxes are interpolated.

        Raises:
            FileNotFoundError, ModuleNotFoundError, ValueError, TypeError: at the call, the source cannot be opened or the
                extra `video` is missing; at the first frame, as a call.
        """
        found = find_in_frames(self, source, phrases, options, every)
        return ((frame.pixels, boxes) for frame, boxes in found)

    @torch.inference_mode()
    def predict(
        self, image: ImageSource | ImageEmbedding, phrases: Phrases, negatives: str | Sequence[str] = ()
    ) -> ImagePredictions:
        """Run the model once, to choose thresholds afterwards: `detector.predict(image, phrases).detections(**options)`.

        The arguments are those of a call, but for one image.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image or a phrase that cannot be used.
        """
        _require_one(image)
        vocabulary = build_vocabularies(phrases, self.model.config.max_tokens, negatives)[0]
        self._set_eval_mode()
        ((_, tokens, (size,)),) = self._batches([image])
        with self._autocast():
            outputs = [self.model.ground(tokens, self._encode_text([prompt])) for prompt in vocabulary.chunks]
        return ImagePredictions(size, vocabulary, tuple(outputs))

    @torch.no_grad()
    def explain(
        self,
        image: ImageSource | ImageEmbedding,
        phrases: Phrases,
        *,
        image_tokens: Sequence[int] = (),
        negatives: str | Sequence[str] = (),
        **options: Any,
    ) -> Explanation:
        """Detect, and show how the model came to its boxes.

        The explanation holds heat-maps of the phrases, attention weights, sampling points, and each query's box and scores
        after each layer. Its numbers are those of the pass that finds `detections`. For the official model it takes about
        5 MB of memory per text token.

        Args:
            image, phrases, negatives: as a call takes them, but one image. All phrases must fit into one prompt.
            image_tokens: indices of image tokens; the explanation has their sampling points in each enhancer layer.
            options: `box_threshold` and all other options of a call.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image, phrase, option or image token that cannot be used; phrases
                that need several prompts.
        """
        _require_one(image)
        chosen = DetectOptions(**options)
        vocabulary = build_vocabularies(phrases, self.model.config.max_tokens, negatives)[0]
        prompt = one_prompt(vocabulary)
        self._set_eval_mode()
        ((_, tokens, (size,)),) = self._batches([image])
        with self._autocast():
            text = self._encode_text([prompt])
            with recorded_calls(self.model) as calls:
                out = self.model.ground(tokens, text)
        found = join_chunks([label_image(out, 0, vocabulary, 0, size, chosen)], vocabulary, chosen)
        detections = to_detections(found, vocabulary, chosen)
        detections.data["query"] = found.queries.numpy()
        with self._autocast():  # weights and points at the precision of the pass
            return explain_calls(self.model, calls, out, tokens, text, size, vocabulary, image_tokens, detections)

    @torch.inference_mode()
    def encode_image(self, image: ImageSource) -> ImageEmbedding:
        """Run the image backbone once, so that many prompts can use its features.

        Raises:
            FileNotFoundError, ValueError: an image that cannot be read.
        """
        self._set_eval_mode()
        upright = read_image(image)
        return ImageEmbedding(self._encode([self._prepare(upright)]), upright.size)

    def _set_eval_mode(self) -> None:
        """Set evaluation mode again, because the model may have been trained since the last call."""
        if self.model.training:
            self.model.eval()

    def _prepare(self, image: Image.Image) -> Tensor:
        return prepare(image, self.model.config.short_side, self.model.config.long_side)

    def _encode(self, tensors: list[Tensor]) -> ImageTokens:
        pixels = torch.stack(tensors).to(self.device, non_blocking=True)
        with self._autocast():
            return self.model.image_backbone(pixels, pixels.new_ones(pixels[:, 0].shape, dtype=torch.bool))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _detect(self, images: list[Any], vocabularies: list[Vocabulary], options: DetectOptions) -> list[sv.Detections]:
        self._set_eval_mode()
        results: dict[int, sv.Detections] = {}
        for members, tokens, sizes in self._batches(images):
            found = self._detect_batch(tokens, sizes, [vocabularies[number] for number in members], options)
            results |= zip(members, found, strict=True)
        return [results[number] for number in range(len(images))]

    @torch.inference_mode()
    def _batches(self, images: list[Any]) -> Iterator[tuple[list[int], ImageTokens, list[tuple[int, int]]]]:
        """Encode images in batches of equal resized shape, because padding would change their features.

        Yields:
            For each batch, (index of each image; the tokens; (width, height) of each original).
        """
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
    def _detect_batch(
        self, tokens: ImageTokens, sizes: list[tuple[int, int]], vocabularies: list[Vocabulary], options: DetectOptions
    ) -> list[sv.Detections]:
        parts: list[list[LabelledBoxes]] = [[] for _ in sizes]
        for step in range(max(len(vocabulary.chunks) for vocabulary in vocabularies)):
            rows = [row for row, vocabulary in enumerate(vocabularies) if step < len(vocabulary.chunks)]
            with self._autocast():
                text = self._encode_text([vocabularies[row].chunks[step] for row in rows])
                out = self.model.ground(tokens if len(rows) == len(sizes) else tokens.select(rows), text)
            for place, row in enumerate(rows):
                parts[row].append(label_image(out, place, vocabularies[row], step, sizes[row], options))
        return [
            to_detections(join_chunks(chunks, vocabulary, options), vocabulary, options)
            for chunks, vocabulary in zip(parts, vocabularies, strict=True)
        ]

    def _encode_text(self, prompts: list[tuple[str, ...]]) -> TextTokens:
        """Encode one prompt per image. A prompt that all images share is computed once, and BERT reads only new phrases."""
        shared = len(set(prompts)) == 1
        prompt = tokenize(prompts[:1] if shared else prompts, self.model.config.max_tokens).to(self.device)
        text = self.model.text_encoder(prompt, self.text_cache)
        if not shared:
            return text
        count, p = len(prompts), text.prompt
        repeated = Prompt(*(t.expand(count, -1) for t in (p.ids, p.phrases, p.blocks, p.positions)))
        return TextTokens(text.features.expand(count, -1, -1), repeated)


def _require_one(image: Any) -> None:
    if isinstance(image, list | tuple):
        raise TypeError(f"image: expected one image, got {type(image).__name__}")
