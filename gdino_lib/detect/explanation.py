"""The result of `Detector.explain`: how the model came to its boxes.

Axis letters: N image tokens, T text tokens, Q queries, H heads, L levels, P points. All tensors are on the CPU, float32
unless another type is given. Lengths and places are in pixels of the upright image.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from gdino_lib.detect.postprocess import Score, phrase_scores
from gdino_lib.prompts import NO_PHRASE, word_pieces

if TYPE_CHECKING:
    import supervision as sv

Measure = Literal["score", "similarity"]


class TokenPlace(NamedTuple):
    """Where an image token lies.

    Attributes:
        token: its index among the N image tokens.
        level: 0 is the finest; row, column: within the level; x, y: its centre in pixels.
    """

    token: int
    level: int
    row: int
    column: int
    x: float
    y: float


@dataclass(frozen=True)
class Stage:
    """The features of image and text compared, after the backbone or after a layer of the feature enhancer.

    Attributes:
        name: "backbone", "enhancer layer 1", "enhancer layer 2", ...
        similarity: [N, T], cosine of the features of each image token and each text token, -1..1.
        logits: [N, T], the result of query selection's output head for these features. For the last stage these are the
            logits by which the model chooses its queries; for an earlier stage, the logits that query selection would use
            if the enhancer ended there. None if queries are static.
    """

    name: str
    similarity: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class EnhancerAttention:
    """The attention of one layer of the feature enhancer.

    Attributes:
        over_text: [fusion heads, N, T], image to text: the weights with which each image token reads the text; they sum to
            1 over T. None without fusion.
        over_image: [fusion heads, N, T], text to image: the weights with which each text token reads the image; they sum to
            1 over N. None without fusion.
        points: [K, H, L, P, 2], (x, y) in pixels, where each of the K chosen image tokens samples the image; a point can
            lie outside the image.
        weights: [K, H, L, P], weights of these points; they sum to 1 over levels and points.
    """

    over_text: Tensor | None
    over_image: Tensor | None
    points: Tensor
    weights: Tensor


@dataclass(frozen=True)
class DecoderAttention:
    """The attention of one layer of the decoder.

    Attributes:
        text: [Q, H, T], the weights with which each query reads the text; they sum to 1 over T. None without text
            cross-attention.
        points: [Q, H, L, P, 2], (x, y) in pixels, where each query samples the image; a point can lie outside the image.
        weights: [Q, H, L, P], weights of these points; they sum to 1 over levels and points.
    """

    text: Tensor | None
    points: Tensor
    weights: Tensor


@dataclass(frozen=True)
class QueryExplanation:
    """One query on its way through the D layers of the decoder.

    Attributes:
        query: its index.
        place: of the image token that proposed its first box; None if queries are static.
        rank: number of image tokens whose selection score is higher than that of this token; None if queries are static.
        boxes: [1 + D, 4], xyxy in pixels, inside the image: the proposal, then the box after each layer.
        logits: [1 + D, T], the same stages; `logits.sigmoid()` are the scores of the tokens. NaN for the proposal if
            queries are static.
        text_attention: [D, H, T]; None without text cross-attention.
        points: [D, H, L, P, 2]; weights: [D, H, L, P]; see `DecoderAttention`.
    """

    query: int
    place: TokenPlace | None
    rank: int | None
    boxes: Tensor
    logits: Tensor
    text_attention: Tensor | None
    points: Tensor
    weights: Tensor


@dataclass(frozen=True, repr=False)
class Explanation:
    """One image and one prompt on their way through the model, whose decoder has D layers.

    Attributes:
        size: (width, height) of the upright image in pixels.
        phrases: as the caller gave them; of names with wordings, all wordings; then the negatives.
        pieces: the T text tokens: "[CLS]", "cat", ".", "[SEP]". The model sorts the phrases.
        phrase_of_token: int64 [T], index in `phrases` of each token's phrase; -1 for special tokens and closing ".".
        shapes: (height, width) of each level in tokens. The N image tokens are the levels one after the other, each row
            by row.
        stages: after the backbone, then after each enhancer layer.
        enhancer: one for each enhancer layer.
        image_tokens: the K image tokens whose sampling points `enhancer` has.
        query_tokens: int64 [Q], the image token that proposed the first box of each query; None if queries are static.
        boxes: [1 + D, Q, 4], xyxy in pixels, inside the image: the proposals, then the boxes after each decoder layer.
        logits: [1 + D, Q, T], the same stages; `logits.sigmoid()` are the scores of the tokens. NaN for the proposals if
            queries are static.
        decoder: one for each decoder layer.
        detections: what a call of the detector finds; `data["query"]` tells the query of each box, int64.
    """

    size: tuple[int, int]
    phrases: tuple[str, ...]
    pieces: tuple[str, ...]
    phrase_of_token: Tensor
    shapes: tuple[tuple[int, int], ...]
    stages: tuple[Stage, ...]
    enhancer: tuple[EnhancerAttention, ...]
    image_tokens: tuple[int, ...]
    query_tokens: Tensor | None
    boxes: Tensor
    logits: Tensor
    decoder: tuple[DecoderAttention, ...]
    detections: sv.Detections

    def __repr__(self) -> str:
        width, height = self.size
        return f"<Explanation: {width} x {height} pixels, {len(self.pieces)} text tokens, {len(self.detections)} detections>"

    def tokens_of(self, phrase: str) -> list[int]:
        """The indices of a phrase's tokens among the T text tokens, without its closing ".".

        Raises:
            ValueError: not one of `phrases`, or a phrase without tokens.
        """
        if phrase not in self.phrases:
            given = ", ".join(map(repr, self.phrases))
            raise ValueError(f"phrase: expected one of {given}, got {phrase!r}")
        # of phrases with the same tokens, only the first is in the prompt
        first = next(n for n, other in enumerate(self.phrases) if word_pieces(other) == word_pieces(phrase))
        tokens = (self.phrase_of_token == first).nonzero().flatten().tolist()
        if not tokens:
            raise ValueError(f"phrase: expected a phrase with tokens, got {phrase!r}")
        return tokens

    def scores_of(self, phrase: str, score: Score = "mean") -> Tensor:
        """The score of a phrase for each query, [1 + D, Q], 0..1: for the proposals, then after each decoder layer.

        Args:
            phrase: one of `phrases`.
            score: as a call of the detector takes it.

        Raises:
            ValueError: see `tokens_of`.
        """
        return _phrase_scores(self.logits, self.tokens_of(phrase), score)

    def heat_maps(self, phrase: str, stage: int = -1, measure: Measure = "score") -> list[Tensor]:
        """Where the image resembles a phrase: a map for each level, [height, width] in tokens.

        Args:
            phrase: one of `phrases`.
            stage: index in `stages`.
            measure: "score", the mean of the sigmoids of `Stage.logits` over the phrase's tokens, 0..1; or "similarity",
                the mean of `Stage.similarity` over them, -1..1.

        Raises:
            ValueError: see `tokens_of`; no such stage; another measure; "score" if queries are static.
        """
        if measure not in ("score", "similarity"):
            raise ValueError(f"measure: expected 'score' or 'similarity', got {measure!r}")
        if not -len(self.stages) <= stage < len(self.stages):
            raise ValueError(f"stage: expected {-len(self.stages)} to {len(self.stages) - 1}, got {stage}")
        tokens, compared = self.tokens_of(phrase), self.stages[stage]
        if measure == "similarity":
            values = compared.similarity[:, tokens].mean(1)  # (N, T) -> (N,)
        elif compared.logits is None:
            raise ValueError("measure: expected 'similarity', because the queries of this model are static")
        else:
            values = _phrase_scores(compared.logits, tokens)
        levels = values.split([height * width for height, width in self.shapes])
        return [level.view(shape) for level, shape in zip(levels, self.shapes, strict=True)]

    @property
    def selection_scores(self) -> Tensor:
        """The score of each image token in query selection, [N]: its largest logit over all text tokens.

        Raises:
            ValueError: the queries are static.
        """
        logits = self.stages[-1].logits
        if logits is None:
            raise ValueError(
                "query selection: expected queries from image tokens; the queries of this model are static"
            )
        return logits.max(-1).values

    @property
    def ranks(self) -> Tensor:
        """For each image token the number of image tokens with a higher selection score, int64 [N].

        Tokens of the same score share a rank. Among them are all tokens at the border of the image and on levels whose
        anchors are too large, because query selection ignores their features.

        Raises:
            ValueError: the queries are static.
        """
        scores = self.selection_scores
        return len(scores) - torch.searchsorted(scores.sort().values, scores, right=True)

    def place(self, token: int) -> TokenPlace:
        """Where an image token lies.

        Raises:
            TypeError, ValueError: no such token.
        """
        token = checked_index("token", token, sum(height * width for height, width in self.shapes))
        level, rest = 0, token
        while rest >= self.shapes[level][0] * self.shapes[level][1]:
            rest -= self.shapes[level][0] * self.shapes[level][1]
            level += 1
        (height, width), size = self.shapes[level], self.size
        row, column = divmod(rest, width)
        return TokenPlace(token, level, row, column, (column + 0.5) / width * size[0], (row + 0.5) / height * size[1])

    def token_at(self, x: float, y: float, level: int) -> int:
        """The index of the image token of a level that covers a pixel; from outside, that of the nearest border.

        Raises:
            TypeError, ValueError: no such level.
        """
        level = checked_index("level", level, len(self.shapes))
        height, width = self.shapes[level]
        column = min(max(int(x / self.size[0] * width), 0), width - 1)
        row = min(max(int(y / self.size[1] * height), 0), height - 1)
        return sum(rows * columns for rows, columns in self.shapes[:level]) + row * width + column

    def query(self, query: int) -> QueryExplanation:
        """All about one query, such as `detections.data["query"][0]`.

        Raises:
            TypeError, ValueError: no such query.
        """
        query = checked_index("query", query, self.boxes.shape[1])
        place = rank = None
        if self.query_tokens is not None:
            place = self.place(int(self.query_tokens[query]))
            rank = int(self.ranks[place.token])
        texts = [layer.text[query] for layer in self.decoder if layer.text is not None]
        return QueryExplanation(
            query,
            place,
            rank,
            self.boxes[:, query],
            self.logits[:, query],
            torch.stack(texts) if texts else None,
            torch.stack([layer.points[query] for layer in self.decoder]),
            torch.stack([layer.weights[query] for layer in self.decoder]),
        )


def checked_index(name: str, index: SupportsIndex, count: int) -> int:
    """`index` as an int.

    Raises:
        TypeError: not a whole number.
        ValueError: not one of 0 to `count` - 1.
    """
    number = operator.index(index)
    if not 0 <= number < count:
        raise ValueError(f"{name}: expected 0 to {count - 1}, got {number}")
    return number


def _phrase_scores(logits: Tensor, tokens: list[int], score: Score = "mean") -> Tensor:
    """The score of one phrase: float [..., T] -> [...]."""
    of_phrase = torch.full((logits.shape[-1],), NO_PHRASE)
    of_phrase[tokens] = 0
    return phrase_scores(logits.flatten(0, -2), of_phrase, 1, score).view(logits.shape[:-1])
