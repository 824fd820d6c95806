"""A detector that runs exported files: it needs ONNX Runtime, but neither PyTorch nor transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gdino_lib.detect.options import DetectOptions, Score
from gdino_lib.detect.thresholds import Thresholds
from gdino_lib.detect.vocabulary import Phrases, Vocabulary, build_vocabularies
from gdino_lib.export.postprocess import join_chunks, label_image, to_detections
from gdino_lib.images import IMAGE_MEAN, IMAGE_STD, ImageSource, read_image, resized_size
from gdino_lib.messages import first_line
from gdino_lib.prompts import piece_id, prompt_rows, word_pieces

if TYPE_CHECKING:
    import onnxruntime
    import supervision as sv

METADATA = "gdino_lib"  # the metadata's key under which an exported file keeps what the detector must know
KEPT_PROMPTS = 64  # features of so many prompts are kept


def text_file(path: str | os.PathLike[str]) -> Path:
    """The file of the text part that belongs to the file of an image part: nano.onnx -> nano.text.onnx."""
    return Path(path).with_suffix(".text.onnx")


@dataclass(frozen=True)
class PromptInputs:
    """A prompt as the image part takes it, and the phrase of each of its tokens.

    Attributes:
        text_features: float32 [1, T, D].
        token_blocks, token_positions: int64 [1, T].
        phrase_of_token: int64 [T], -1 for special tokens and closing ".".
    """

    text_features: np.ndarray
    token_blocks: np.ndarray
    token_positions: np.ndarray
    phrase_of_token: np.ndarray


class OnnxDetector:
    """Finds what phrases name, as `gdino_lib.Detector` does, with the files of `gdino export`.

    Any number of threads may use one detector at the same time.

    Args:
        path: the exported file. The text part of a file with `--dynamic-text` must lie beside it: nano.text.onnx beside
            nano.onnx.
        threads: number of threads that compute; None: one for each core.
        providers: ONNX Runtime's execution providers, in order of preference.

    Attributes:
        phrases: the phrases that the file was exported with; None if it takes any phrases.

    Raises:
        ModuleNotFoundError: ONNX Runtime is not installed.
        FileNotFoundError: no such file, or no text part beside it.
        ValueError: a file that `gdino export` did not write, or a damaged one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self._image, about = _open(Path(path), threads, providers)
        self.path = Path(path)
        self.phrases: tuple[str, ...] | None = tuple(about["phrases"]) if about["phrases"] is not None else None
        self._about = about
        self._text = None
        if self.phrases is None:
            self._text, _ = _open(text_file(path), threads, providers)
        self._prompt = lru_cache(maxsize=KEPT_PROMPTS)(self._encode_text)

    def __repr__(self) -> str:
        text = "any phrases" if self.phrases is None else f"{len(self.phrases)} phrases"
        return f"<OnnxDetector: {self.path}, for {text}>"

    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        phrases: Phrases | Sequence[Phrases] | None = None,
        box_threshold: float = 0.35,
        text_threshold: float = 0.25,
        nms_iou: float | None = None,
        top_k: int | None = None,
        score: Score = "mean",
        thresholds: Thresholds | None = None,
        every_phrase: bool = False,
        negatives: str | Sequence[str] = (),
    ) -> sv.Detections | list[sv.Detections]:
        """Find the boxes of each phrase. Arguments and result are those of `gdino_lib.Detector`.

        Args:
            image: as `gdino_lib.images.read_image` takes it, or a list of images.
            phrases, negatives: as the Detector takes them. If the file was exported with phrases, `phrases` is None, or names
                together with `negatives` the same phrases in any order.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image, phrase or threshold that cannot be used; phrases that the file
                was not exported with; one line.
        """
        options = DetectOptions(box_threshold, text_threshold, nms_iou, top_k, score, thresholds, every_phrase)
        many = isinstance(image, list | tuple)
        images: list[Any] = list(image) if many else [image]
        own = self._vocabularies(phrases, negatives, len(images) if many else None)
        results = [self._detect(each, vocabulary, options) for each, vocabulary in zip(images, own, strict=True)]
        return results if many else results[0]

    def refer(self, image: ImageSource, phrase: str) -> sv.Detections:
        """The one box that fits a referring expression best, however low its score.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image or an expression that cannot be used, or a list of them.
        """
        if not isinstance(phrase, str):
            raise TypeError(f"phrase: expected one string, got {type(phrase).__name__}")
        if isinstance(image, list | tuple):
            raise TypeError(f"image: expected one image, got {type(image).__name__}")
        options = DetectOptions(box_threshold=0.0, text_threshold=0.0, top_k=1)
        return self._detect(image, self._vocabularies([phrase])[0], options)

    def inputs(self, image: ImageSource, phrases: Sequence[str] | None) -> dict[str, np.ndarray]:
        """The inputs of the file's graph for one image, by name, for phrases that fit into one prompt.

        The tokens are those of the phrases in the canonical order of `gdino_lib.detect.vocabulary.Vocabulary`.

        Raises:
            As a call; ValueError: phrases that need several prompts.
        """
        (vocabulary,) = self._vocabularies(phrases)
        if len(vocabulary.chunks) != 1:
            raise ValueError(f"phrases: expected one prompt, got phrases for {len(vocabulary.chunks)} prompts")
        return self._inputs(self.pixels(read_image(image)), self._prompt(vocabulary.chunks[0]))

    def predict(self, image: ImageSource, phrases: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of the graph: logits float32 [Q, T], boxes float32 [Q, 4] (cxcywh in 0..1); arguments as `inputs`."""
        return self._run(self.inputs(image, phrases))

    def _vocabularies(
        self,
        phrases: Phrases | Sequence[Phrases] | None,
        negatives: str | Sequence[str] = (),
        images: int | None = None,
    ) -> list[Vocabulary]:
        """As `build_vocabularies`."""
        most = self._about["max_tokens"]
        if phrases is None:
            if self.phrases is None:
                raise TypeError("phrases: expected phrases to look for, got None; this file takes any phrases")
            return build_vocabularies(self.phrases, most, negatives, images)
        given = build_vocabularies(phrases, most, negatives, images)
        if self.phrases is None:
            return given
        (exported,) = build_vocabularies(self.phrases, most)
        for vocabulary in given:
            if _pieces(vocabulary) != _pieces(exported):
                raise ValueError(
                    f"phrases: {self.path} was exported with {len(self.phrases)} phrases and finds these only; expected "
                    f"{' . '.join(self.phrases)[:80]!r}, got {' . '.join(vocabulary.phrases)[:80]!r}"
                )
        return given

    def _detect(self, image: ImageSource, vocabulary: Vocabulary, options: DetectOptions) -> sv.Detections:
        upright = read_image(image)
        pixels = self.pixels(upright)
        chunks = []
        for step, chunk in enumerate(vocabulary.chunks):
            prompt = self._prompt(chunk)
            logits, boxes = self._run(self._inputs(pixels, prompt))
            chunks.append(label_image(logits, boxes, prompt.phrase_of_token, vocabulary, step, upright.size, options))
        return to_detections(join_chunks(chunks, vocabulary, options), vocabulary, options)

    def pixels(self, upright: Image.Image) -> np.ndarray:
        """An image that `read_image` has returned as the graph takes it: float32 [1, 3, H, W]."""
        about = self._about
        if about["size"] is not None:
            return model_pixels(upright, about["size"])
        width, height = resized_size(*upright.size, about["short_side"], about["long_side"])
        return model_pixels(upright, (height, width))

    def _inputs(self, pixels: np.ndarray, prompt: PromptInputs) -> dict[str, np.ndarray]:
        inputs = {"pixel_values": pixels}
        if self._text is not None:
            inputs |= {name: getattr(prompt, name) for name in ("text_features", "token_blocks", "token_positions")}
        return inputs

    def _run(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits, boxes = self._image.run(["logits", "boxes"], inputs)
        return np.asarray(logits)[0], np.asarray(boxes)[0]

    def _encode_text(self, phrases: tuple[str, ...]) -> PromptInputs:
        """A prompt of at most `max_tokens` tokens, with the features of the text part if the file has one."""
        (row,) = prompt_rows([phrases])
        ids, phrase_of_token, blocks, positions = np.array(row, dtype=np.int64).T
        features = np.zeros((1, 0, 0), np.float32)  # a file with phrases has their features
        if self._text is not None:
            features = self._features(ids, blocks, positions)
        return PromptInputs(features, blocks[None], positions[None], phrase_of_token)

    def _features(self, ids: np.ndarray, blocks: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The features of a prompt's tokens, each block read as a sequence of its own: float32 [1, T, D]."""
        assert self._text is not None
        frame = ([piece_id("[CLS]")], [piece_id("[SEP]")]) if self._about["text_framed"] else ([], [])
        sequences = [[*frame[0], *ids[blocks == block].tolist(), *frame[1]] for block in range(blocks[-1] + 1)]
        longest = max(map(len, sequences))
        input_ids = np.array([sequence + [0] * (longest - len(sequence)) for sequence in sequences], dtype=np.int64)
        lengths = np.array([len(sequence) for sequence in sequences])
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        (features,) = self._text.run(["features"], {"input_ids": input_ids, "attention_mask": mask})
        return np.asarray(features)[blocks, positions + len(frame[0])][None]  # (S, longest, D) -> (1, T, D)


def model_pixels(upright: Image.Image, size: Sequence[int]) -> np.ndarray:
    """An image, stretched to (height, width) and normalised as `gdino_lib.images.prepare` does: float32 [1, 3, H, W]."""
    height, width = size
    resized = upright.resize((width, height), Image.Resampling.BILINEAR)
    mean, std = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
    pixels = (np.asarray(resized, dtype=np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # [H, W, 3] -> [1, 3, H, W]


def _pieces(vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    return [word_pieces(phrase) for chunk in vocabulary.chunks for phrase in chunk]


def _open(
    path: Path, threads: int | None, providers: Sequence[str]
) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """(ONNX Runtime's session of an exported file, the metadata that `gdino export` wrote)."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ModuleNotFoundError("onnxruntime not installed; pip install 'gdino_lib[export]'") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected a file that gdino export wrote")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    settings.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=list(providers))
    except Exception as error:  # ONNX Runtime raises errors of its own
        raise ValueError(
            f"{path}: expected an ONNX file that ONNX Runtime can run, got {first_line(error)[:200]}"
        ) from None
    written = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if written is None:
        raise ValueError(f"{path}: expected a file that gdino export wrote, got an ONNX file without its metadata")
    return session, json.loads(written)
