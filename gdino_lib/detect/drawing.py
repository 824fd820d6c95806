"""Boxes and labels drawn into the image that they belong to."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gdino_lib.detect.tracking import ids
from gdino_lib.images import ImageSource, read_image

if TYPE_CHECKING:
    import supervision as sv

LONGEST_LABEL = 60  # characters
SMALLEST_LABELLED = 60  # pixels of the shorter side: on smaller pictures, labels would hide the objects
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc", "Arial Unicode.ttf")  # matplotlib brings the first


def draw_detections(
    image: ImageSource,
    found: sv.Detections,
    *,
    scale: int = 1,
    text_size: float | None = None,
    colours: Sequence[str] | None = None,
) -> Image.Image:
    """A copy of the image with boxes and labels such as "cat 0.52"; the surest box is drawn last, on top.

    The label of a box of track 7 begins with "7: ".

    Each phrase has a colour. The edges of its boxes and the letters of its labels contrast with this colour. All labels
    have the font of `FONTS` that can write most of the phrases; a phrase that this font cannot write is labelled with its
    number, such as "#2", and a warning names it. A picture with a side below `SMALLEST_LABELLED` gets no labels.

    Args:
        image: the image that was searched, as the Detector takes it.
        found: what the Detector returned for this image.
        scale: factor by which the picture is enlarged, so that small pictures get sharp letters.
        text_size: size of the letters in pixels of the image; the width of lines follows it. None: both grow with the image.
        colours: "#rrggbb" for the phrases of index 0, 1, ...; after the last colour, the first comes again. None: the
            colours of supervision.

    Returns:
        Mode RGB, `scale` times as wide and as high as the upright image.

    Raises:
        FileNotFoundError, ValueError: an image that cannot be read; boxes without confidence, class_id or class_name.

    Warns:
        UserWarning: a phrase that is labelled with its number.
    """
    import supervision as sv

    image = read_image(image)
    drawn = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    if not len(found):
        return drawn
    found = _surest_last(found, scale)
    palette = sv.ColorPalette.DEFAULT if colours is None else sv.ColorPalette.from_hex(list(colours))
    contrast = sv.ColorPalette([_contrast(colour) for colour in palette.colors])
    side = min(image.size)
    size = max(10, round(side / 40)) if text_size is None else text_size
    thickness = max(1, round((side if text_size is None else 40 * text_size) / 320))
    edge = sv.BoxAnnotator(contrast, scale * (thickness + 2 * max(1, thickness // 3)))
    drawn = sv.BoxAnnotator(palette, scale * thickness).annotate(edge.annotate(drawn, found), found)
    if side < SMALLEST_LABELLED:
        return drawn
    labels, font = _labels(found)
    label = sv.RichLabelAnnotator(
        palette,
        text_color=contrast,
        font_path=font,
        font_size=round(scale * size),
        text_padding=scale * max(2, int(size // 4)),
        smart_position=len(found) <= 100,  # with more boxes, it takes seconds
    )
    return label.annotate(drawn, found, labels)


def _surest_last(found: sv.Detections, scale: int) -> sv.Detections:
    """The boxes by rising confidence, in pixels of the drawing."""
    import supervision as sv

    names = found.data.get("class_name")
    if found.confidence is None or found.class_id is None or names is None:
        raise ValueError("expected detections with confidence, class_id and class_name, as a Detector gives them")
    order = found.confidence.argsort(kind="stable")
    return sv.Detections(
        xyxy=found.xyxy[order] * scale,
        confidence=found.confidence[order],
        class_id=found.class_id[order],
        tracker_id=None if found.tracker_id is None else found.tracker_id[order],
        data={"class_name": np.asarray(names)[order]},
    )


def _labels(found: sv.Detections) -> tuple[list[str], str]:
    """(the label of each box, the font that can write most phrases)."""
    numbers, scores = np.asarray(found.class_id).tolist(), np.asarray(found.confidence).tolist()
    names, font = label_names(dict(zip(numbers, found.data["class_name"], strict=True)))
    labels = zip(ids(found), numbers, scores, strict=True)
    return [f"{track}: " * (track >= 0) + f"{names[number]} {score:.2f}" for track, number, score in labels], font


def label_names(phrases: dict[int, str]) -> tuple[dict[int, str], str]:
    """Phrases as a picture can show them, by their index.

    Returns:
        (a line for each phrase, "#2" for a phrase with letters that the font lacks;
         the path or name of the font that has the letters of most phrases).
    """
    names = {number: _one_line(phrase) for number, phrase in phrases.items()}
    # of fonts that can write equally many phrases, the first
    font = max(_fonts(), key=lambda font: sum(_can_write(font, name) for name in names.values()))
    for number, name in names.items():
        if not _can_write(font, name):
            warnings.warn(
                f"the font of the labels cannot write {name!r}: its boxes are labelled #{number}", stacklevel=4
            )
            names[number] = f"#{number}"
    return names, font


def _one_line(name: str) -> str:
    """A phrase as a label: one line of at most `LONGEST_LABEL` characters, without invisible ones."""
    visible = (letter for letter in name if letter.isspace() or unicodedata.category(letter)[0] != "C")
    name = " ".join("".join(visible).split())
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def _contrast(colour: sv.Color) -> sv.Color:
    """Black or white, whichever contrasts more with a colour (relative luminance of WCAG 2, section 1.4.3)."""
    import supervision as sv

    linear = [(value / 255) ** 2.2 for value in colour.as_rgb()]
    return sv.Color.BLACK if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179 else sv.Color.WHITE


@cache
def _fonts() -> dict[str, ImageFont.FreeTypeFont]:
    """The fonts of `FONTS` that are installed, by path or name: matplotlib's own, and those of the system."""
    import matplotlib

    own, *others = FONTS
    fonts = {}
    for name in (os.path.join(matplotlib.get_data_path(), "fonts", "ttf", own), *others):
        with suppress(OSError):
            fonts[name] = ImageFont.truetype(name, 20)
    return fonts


def _can_write(font: str, text: str) -> bool:
    return bool(text) and all(letter == " " or _has_letter(font, letter) for letter in text)


@cache
def _has_letter(font: str, letter: str) -> bool:
    """Whether a font draws a letter, and draws it differently from a code point that no font has."""
    drawn, unknown = (_pixels(font, text) for text in (letter, "\U0010ffff"))
    return any(drawn) and drawn != unknown


def _pixels(font: str, text: str) -> bytes:
    picture = Image.new("L", (80, 60))
    ImageDraw.Draw(picture).text((30, 20), text, 255, _fonts()[font])
    return picture.tobytes()
