"""The result of `Detector.predict`: what the model says of an image and phrases, before any threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gdino_lib.detect.joining import join_chunks, label_image, to_detections
from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.vocabulary import Vocabulary
from gdino_lib.model.grounding_dino import GroundingDINOOutput
from gdino_lib.prompts import tokenizer, word_pieces

if TYPE_CHECKING:
    import supervision as sv


class TokenScore(NamedTuple):
    """The score of one text token for a query.

    Attributes:
        piece: "remote", "##s".
        phrase: the phrase that the token belongs to.
        score: the sigmoid of its logit, 0..1.
    """

    piece: str
    phrase: str
    score: float


@dataclass(frozen=True, repr=False)
class ImagePredictions:
    """The model's outputs for one image; each choice of thresholds costs post-processing only.

    Attributes:
        size: (width, height) of the upright image in pixels.
        vocabulary: what was looked for; `outputs`: one for each of its chunks, of a batch of one, with Q queries.
    """

    size: tuple[int, int]
    vocabulary: Vocabulary
    outputs: tuple[GroundingDINOOutput, ...]

    def __repr__(self) -> str:
        width, height = self.size
        return f"<ImagePredictions: {width} x {height} pixels, {len(self.vocabulary.phrases)} phrases>"

    @torch.inference_mode()
    def detections(self, **options: Any) -> sv.Detections:
        """What a call of the detector finds with these options, bit for bit.

        Args:
            options: `box_threshold` and all other options of a call; the negatives are those of `Detector.predict`.

        Returns:
            As a call; `data["query"]` tells the query of each box, int64, counted through all chunks.

        Raises:
            TypeError, ValueError: an option that cannot be used.
        """
        chosen = DetectOptions(**options)
        chunks = [
            label_image(out, 0, self.vocabulary, step, self.size, chosen) for step, out in enumerate(self.outputs)
        ]
        found = join_chunks(chunks, self.vocabulary, chosen)
        detections = to_detections(found, self.vocabulary, chosen)
        detections.data["query"] = found.queries.numpy()
        return detections

    def token_scores(self, query: int) -> list[TokenScore]:
        """The scores of the text tokens for a query, such as `detections.data["query"][0]`, phrase by phrase.

        Raises:
            IndexError: there is no such query.
        """
        step, row = divmod(int(query), self.outputs[0].logits.shape[1])
        logits, phrase_of_token = self.outputs[step].logits[0, row], self.outputs[step].phrase_of_token[0]
        result = []
        for number, phrase in enumerate(self.vocabulary.chunks[step]):
            scores = logits[phrase_of_token == number].float().sigmoid().tolist()
            pieces = tokenizer().convert_ids_to_tokens(list(word_pieces(phrase)))
            result += [TokenScore(piece, phrase, score) for piece, score in zip(pieces, scores, strict=True)]
        return result
