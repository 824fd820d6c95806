"""From logits to detections in NumPy: what `gdino_lib.detect.postprocess` and `gdino_lib.detect.joining` do with PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import supervision as sv

from gdino_lib.detect.options import DetectOptions
from gdino_lib.detect.vocabulary import NEGATIVE, Vocabulary

CHUNK_IOU = 0.7  # boxes of several chunks that overlap more are one object


class LabelledArrays(NamedTuple):
    """Boxes that each carry one phrase.

    Attributes:
        boxes: float32 [n, 4], xyxy in pixels; phrases: int64 [n]; scores: float32 [n]; best: bool [n], True if no other phrase
            has a higher score for the same query; queries: int64 [n], counted through all chunks.
    """

    boxes: np.ndarray
    phrases: np.ndarray
    scores: np.ndarray
    best: np.ndarray
    queries: np.ndarray

    def take(self, index: np.ndarray | slice) -> LabelledArrays:
        """Some of the boxes."""
        return LabelledArrays(*(column[index] for column in self))


def label_image(
    logits: np.ndarray,
    boxes: np.ndarray,
    phrase_of_token: np.ndarray,
    vocabulary: Vocabulary,
    step: int,
    size: tuple[int, int],
    options: DetectOptions,
) -> LabelledArrays:
    """The boxes that one pass of the model finds in one image, by falling score.

    Args:
        logits: float32 [Q, T]; boxes: float32 [Q, 4], cxcywh in 0..1; phrase_of_token: int64 [T], -1 for other tokens.
        vocabulary: of the image; step: the chunk of it that the pass read.
        size: (width, height) of the image in pixels.
    """
    indices = np.array(vocabulary.indices[step], dtype=np.int64)
    owners = np.array(vocabulary.owners, dtype=np.int64)[indices]
    names = [None if owner == NEGATIVE else vocabulary.names[owner] for owner in owners.tolist()]
    box_threshold, threshold = options.thresholds_of(names)
    with np.errstate(over="ignore"):  # exp(-x) is infinite for a very negative logit, and the result is 0
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float32)))
    best_token = probabilities[:, phrase_of_token >= 0].max(axis=1)
    scores = _phrase_scores(probabilities, phrase_of_token, len(indices), options.score)  # (Q, P)
    best = np.arange(len(indices)) == scores.argmax(axis=1)[:, None]
    keep = (best_token >= box_threshold)[:, None] & (scores >= threshold)
    if not options.every_phrase:
        keep &= best
    query, phrase = keep.nonzero()
    order = np.argsort(-scores[query, phrase], kind="stable")
    query, phrase = query[order], phrase[order]
    found = LabelledArrays(
        _to_pixels(boxes[query].astype(np.float32), *size),
        indices[phrase],
        scores[query, phrase],
        best[query, phrase],
        query + step * len(logits),
    )
    return _best_wordings(found, owners[phrase]) if options.every_phrase else found


def _best_wordings(found: LabelledArrays, owners: np.ndarray) -> LabelledArrays:
    """Keep the best pair of each query and name; of a query whose best phrase is a negative, keep nothing else.

    Args:
        found: pairs of a query and a phrase, by falling score; owners: int64 [n], the name of each pair's phrase.
    """
    negative = owners == NEGATIVE
    keep = found.best | ~(negative | np.isin(found.queries, found.queries[found.best & negative]))
    found, owners = found.take(keep), owners[keep]
    _, first = np.unique(np.column_stack([found.queries, owners]), axis=0, return_index=True)
    return found.take(np.sort(first))


def join_chunks(chunks: list[LabelledArrays], vocabulary: Vocabulary, options: DetectOptions) -> LabelledArrays:
    """The boxes of all chunks as one result, without those of negatives, by falling score."""
    if not chunks:  # no phrase has a word piece
        none = np.zeros(0, dtype=np.int64)
        chunks = [LabelledArrays(np.zeros((0, 4), np.float32), none, none.astype(np.float32), none.astype(bool), none)]
    found = LabelledArrays(*map(np.concatenate, zip(*chunks, strict=True)))
    if len(chunks) > 1:
        candidates = found.best.nonzero()[0]
        kept = _nms(found.take(candidates)._replace(phrases=np.zeros_like(candidates)), CHUNK_IOU)
        best = np.zeros_like(found.best)
        best[candidates[kept]] = True
        found = found._replace(best=best).take(np.argsort(-found.scores, kind="stable"))
        if not options.every_phrase:
            found = found.take(found.best)
    owners = np.array(vocabulary.owners, dtype=np.int64)
    found = found.take(owners[found.phrases] != NEGATIVE)
    if options.nms_iou is not None:
        found = found.take(_nms(found._replace(phrases=owners[found.phrases]), options.nms_iou))
    return found.take(slice(options.top_k))


def to_detections(found: LabelledArrays, vocabulary: Vocabulary, options: DetectOptions) -> sv.Detections:
    """The result of a call."""
    class_ids = np.array(vocabulary.owners, dtype=np.int64)[found.phrases]
    data: dict[str, np.ndarray | list] = {
        "class_name": np.array([vocabulary.names[number] for number in class_ids.tolist()], dtype=str),
        "wording": np.array([vocabulary.phrases[number] for number in found.phrases.tolist()], dtype=str),
    }
    if options.every_phrase:
        data["best"] = found.best
    return sv.Detections(xyxy=found.boxes, confidence=found.scores, class_id=class_ids, data=data)


def _phrase_scores(probabilities: np.ndarray, phrase_of_token: np.ndarray, count: int, score: str) -> np.ndarray:
    """The score of each query for each phrase: float32 [Q, P]; each phrase of a chunk has tokens."""
    members = phrase_of_token[:, None] == np.arange(count)  # (T, P)
    if score == "mean":
        return probabilities @ members.astype(np.float32) / members.sum(axis=0).astype(np.float32)
    return np.stack([probabilities[:, own].max(axis=1) for own in members.T], axis=1)


def _to_pixels(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """cxcywh in 0..1 -> xyxy in pixels, inside the image."""
    scale = np.array([width, height, width, height], dtype=np.float32)
    centre, half = boxes[:, :2], boxes[:, 2:] * np.float32(0.5)
    corners = np.concatenate([centre - half, centre + half], axis=1) * scale
    return np.minimum(np.maximum(corners, 0), scale)


def _nms(found: LabelledArrays, iou: float) -> np.ndarray:
    """Non-maximum suppression within each phrase: bool [n], True = kept."""
    if not len(found.scores):
        return np.zeros(0, dtype=bool)
    table = np.column_stack([found.boxes, found.scores, found.phrases])
    return sv.box_non_max_suppression(table, iou_threshold=iou)
