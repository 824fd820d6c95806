"""An explanation as one picture: it follows one query from the first heat-map to the scores of the text tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gdino_lib.detect.drawing import label_names
from gdino_lib.detect.explanation import Explanation, QueryExplanation
from gdino_lib.detect.postprocess import Score
from gdino_lib.images import ImageSource, read_image

PANEL, GAP, LINE = 260, 14, 20  # pixels: side of a panel, space between panels, height of a line of text
MOST_TOKENS = 12  # in the list of text tokens
MARK, OTHER = "#D55E00", "#999999"
LEVELS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7")  # colours that colour-blind readers can tell apart


def draw_explanation(
    image: ImageSource, explanation: Explanation, query: int, phrase: str, score: Score = "mean"
) -> Image.Image:
    """Draw the way of one query in four rows, with a column for each stage of the model.

    1. The scores of the phrase for the image tokens, after the backbone and after each enhancer layer: at each place the
       highest score of all levels. Each picture has its own scale, from 0 to the highest score, which stands above it. A ring
       marks the image token that proposed the first box. If queries are static, similarities take the place of scores.
    2. The proposal, and the box after each decoder layer, with the score of the phrase.
    3. The sampling points of each decoder layer; the area of a dot grows with its weight.
    4. The scores of the text tokens, of at most 12, for the proposal and after each decoder layer.

    Args:
        image: the image that was explained.
        query: index of a query, such as `explanation.detections.data["query"][0]`.
        phrase: one of `explanation.phrases`.
        score: as a call of the detector takes it.

    Returns:
        Mode RGB; each column is 260 pixels wide.

    Raises:
        FileNotFoundError, ValueError: an image that cannot be read or has another size; no such query or phrase.
    """
    upright = read_image(image)
    if upright.size != explanation.size:
        expected, given = (" x ".join(map(str, size)) for size in (explanation.size, upright.size))
        raise ValueError(f"image: expected the explained image of {expected} pixels, got {given}")
    names, font = label_names(dict(enumerate(explanation.phrases)))
    drawing = _Drawing(_thumbnail(upright), explanation, explanation.query(query), phrase, font)
    scores = explanation.scores_of(phrase, score)[:, drawing.query.query].tolist()
    title = f'"{names[explanation.phrases.index(phrase)]}" {scores[-1]:.2f}'
    return _page(title, [drawing.heat(), drawing.boxes(scores), drawing.points(), drawing.tokens()], font)


def draw_heat_map(image: ImageSource, explanation: Explanation, phrase: str) -> Image.Image:
    """The image in dark grey under the heat-map of a phrase: where its tokens resemble it after the last enhancer layer.

    At each place the highest score of all levels counts. The scale goes from black by red and yellow to white, from 0 to the
    highest score. If queries are static, similarities take the place of scores.

    Args:
        image: the image that was explained, in any size.
        phrase: one of `explanation.phrases`.

    Returns:
        Mode RGB, as large as `image`.

    Raises:
        FileNotFoundError, ValueError: an image that cannot be read; no such phrase.
    """
    upright = read_image(image)
    measure = "similarity" if explanation.query_tokens is None else "score"
    return _heated(upright, _heat(explanation.heat_maps(phrase, measure=measure), upright.size)[0])


@dataclass(frozen=True)
class _Row:
    """Attributes: `panels`, pictures with the caption of each."""

    heading: str
    panels: list[tuple[str, Image.Image]]


@dataclass(frozen=True)
class _Drawing:
    """The four rows of a picture; `thumbnail` is the image in the size of a panel, `font` a path or name."""

    thumbnail: Image.Image
    explanation: Explanation
    query: QueryExplanation
    phrase: str
    font: str

    def heat(self) -> _Row:
        heading, measure = "1. Image tokens that resemble the phrase: the brighter, the more", "similarity"
        place, panels = self.query.place, []
        if place is not None:
            higher = f"{self.query.rank} higher scores" if self.query.rank else "the highest score"
            heading, measure = f"{heading}. Ring: the token that proposed the box ({higher})", "score"
        for number, stage in enumerate(self.explanation.stages):
            heat, highest = _heat(self.explanation.heat_maps(self.phrase, number, measure), self.thumbnail.size)
            panel = _heated(self.thumbnail, heat)
            panels.append((f"after {stage.name.replace('backbone', 'the backbone')} (highest {highest:.2f})", panel))
        if place is not None:
            (x, y), draw = self._scaled(np.array([place.x, place.y])), ImageDraw.Draw(panels[-1][1])
            for radius, colour in ((8, "black"), (7, "white"), (6, MARK)):
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=colour)
        return _Row(heading, panels)

    def boxes(self, scores: list[float]) -> _Row:
        panels = []
        for stage, score, box in zip(self._stages(), scores, self.query.boxes.numpy(), strict=True):
            panel = self.thumbnail.copy()
            (left, top), (right, bottom) = self._scaled(box[:2]), self._scaled(box[2:])
            for width, colour in ((5, "white"), (3, MARK)):
                out = width // 2
                ImageDraw.Draw(panel).rectangle([left - out, top - out, right + out, bottom + out], None, colour, width)
            panels.append((stage if np.isnan(score) else f"{stage}: {score:.2f}", panel))
        return _Row("2. The box, and its score for the phrase", panels)

    def points(self) -> _Row:
        panels = [("feature levels", self._levels())]
        for number, (points, weights) in enumerate(zip(self.query.points, self.query.weights, strict=True), start=1):
            panels.append((f"in decoder layer {number}", self._sampled(points.numpy(), weights.numpy())))
        return _Row("3. Where the query samples the image: the larger the dot, the larger its weight", panels)

    def tokens(self) -> _Row:
        own = self.explanation.tokens_of(self.phrase)
        others = [token for token in self.query.logits[-1].argsort(descending=True).tolist() if token not in own]
        shown = sorted([*own, *others][:MOST_TOKENS])
        left_out = len(self.explanation.pieces) - len(shown)
        panels = []
        for stage, scores in zip(self._stages(), self.query.logits.sigmoid().tolist(), strict=True):
            rows = [(self.explanation.pieces[n], scores[n], MARK if n in own else OTHER) for n in shown]
            panels.append((stage, _bars(rows, self._letters())))
        others_left_out = f"; {left_out} with low scores are left out" if left_out else ""
        return _Row(f"4. The scores of the text tokens{others_left_out}", panels)

    def _stages(self) -> list[str]:
        return ["proposal", *(f"after decoder layer {number}" for number in range(1, len(self.query.boxes)))]

    def _letters(self) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(self.font, 13)

    def _scaled(self, places: np.ndarray) -> np.ndarray:
        """Places [..., 2] in the image -> in the thumbnail."""
        return places * np.array(self.thumbnail.size) / np.array(self.explanation.size)

    def _sampled(self, points: np.ndarray, weights: np.ndarray) -> Image.Image:
        """Dots at points [H, L, P, 2] for weights [H, L, P]; drawn twice as large first, which makes edges smooth."""
        panel = Image.blend(self.thumbnail, Image.new("RGB", self.thumbnail.size), 0.5)
        panel = panel.resize((panel.width * 2, panel.height * 2))
        places, draw = 2 * self._scaled(points), ImageDraw.Draw(panel)
        for index in np.argsort(-weights, axis=None):  # small dots lie on top
            head, level, point = np.unravel_index(index, weights.shape)
            x, y = places[head, level, point]
            radius = 3 + 16 * weights[head, level, point] ** 0.5
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], LEVELS[int(level)], "black")
        return panel.resize(self.thumbnail.size, Image.Resampling.LANCZOS)

    def _levels(self) -> Image.Image:
        panel = Image.new("RGB", (PANEL, LINE * len(self.explanation.shapes)), "white")
        draw = ImageDraw.Draw(panel)
        for level, (height, width) in enumerate(self.explanation.shapes):
            draw.ellipse([2, LINE * level + 4, 14, LINE * level + 16], LEVELS[level], "black")
            text = f"level {level}: {width} x {height} tokens"
            draw.text((22, LINE * (level + 0.5)), text, "black", self._letters(), anchor="lm")
        return panel


def _thumbnail(image: Image.Image) -> Image.Image:
    scale = min(PANEL / image.width, PANEL / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _heat(maps: list[Tensor], size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """(the highest value of all levels at each pixel, [h, w], scaled to 0..1; the highest value before that)."""
    heat = np.max([_resized(level, size) for level in maps], axis=0)
    lowest, highest = min(float(heat.min()), 0.0), float(heat.max())
    return (heat - lowest) / max(highest - lowest, 1e-6), highest


def _resized(level: Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(level.numpy()).resize(size, Image.Resampling.BILINEAR))


def _heated(thumbnail: Image.Image, heat: np.ndarray) -> Image.Image:
    """The image in dark grey; over it heat, [h, w] in 0..1, from red by yellow to white."""
    heat = heat[..., None]
    grey = np.asarray(thumbnail.convert("L"))[..., None] * 0.5
    colours = np.clip(3 * heat - np.array([0, 1, 2]), 0, 1) * 255  # (h, w, 3)
    return Image.fromarray((grey * (1 - heat) + colours * heat).astype(np.uint8))


def _bars(rows: list[tuple[str, float, str]], font: ImageFont.FreeTypeFont) -> Image.Image:
    """A bar for each (name, score in 0..1 or NaN, colour)."""
    panel = Image.new("RGB", (PANEL, LINE * len(rows)), "white")
    draw = ImageDraw.Draw(panel)
    start, longest = 95, PANEL - 135
    for row, (name, score, colour) in enumerate(rows):
        y = LINE * (row + 0.5)
        draw.text((start - 6, y), name, "black", font, anchor="rm")
        if not np.isnan(score):
            end = start + longest * score
            draw.rectangle([start, y - 6, end, y + 6], colour)
            draw.text((end + 5, y), f"{score:.2f}", "black", font, anchor="lm")
    return panel


def _page(title: str, rows: list[_Row], font: str) -> Image.Image:
    """A white page: the title, then each row with its heading above it."""
    large, medium, small = (ImageFont.truetype(font, size) for size in (22, 16, 13))
    columns = max(len(row.panels) for row in rows)
    longest = max(large.getlength(title), *(medium.getlength(row.heading) for row in rows))
    heights = [max(panel.height for _, panel in row.panels) + 3 * LINE + GAP for row in rows]
    width = max(columns * (PANEL + GAP) + GAP, round(longest) + 2 * GAP)
    page = Image.new("RGB", (width, 3 * LINE + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, "black", large)
    top = 3 * LINE
    for row, height in zip(rows, heights, strict=True):
        draw.text((GAP, top), row.heading, "black", medium)
        for column, (caption, panel) in enumerate(row.panels):
            left = GAP + column * (PANEL + GAP)
            draw.text((left, top + LINE + 6), caption, "#555555", small)
            page.paste(panel, (left, top + 2 * LINE + 8))
        top += height
    return page
