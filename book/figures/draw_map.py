"""Draw `map.svg`, the map of the chapters: `python book/figures/draw_map.py`.

The box of a chapter is blue if the chapter is in `_toc.yml`. A test compares the committed file with the result of this script.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

# (number, title, text below the title in the box), in the order of the index; chapter 3b has no box of its own
CHAPTERS = (
    ("00", "Open-set detection in five minutes", "phrases in, labelled boxes out"),
    ("01", "Sub-sentence text", "phrases that don't disturb each other"),
    ("02", "Image backbone", "Swin: pixels to feature levels"),
    ("03", "Deformable attention", "look at a few well-chosen points"),
    ("03b", "From PyTorch to C++ to CUDA", ""),
    ("04", "Feature enhancer", "image and text read each other"),
    ("05", "Language-guided query selection", "the tokens that match the text best"),
    ("06", "Cross-modality decoder", "refine boxes, layer by layer"),
    ("07", "The whole model", ""),
    ("08", "Matching and losses", "which prediction answers for which box"),
    ("09", "The training loop", "from batch to checkpoint"),
    ("10", "From VOC to CSV", "boxes that you can trust"),
    ("11", "Fine-tuning on face masks", "and what it forgets"),
    ("12", "Reading the results", "thresholds, NMS, AP"),
    ("13", "Benchmarks and ablations", "what each part is worth"),
    ("14", "Prompt widgets", "try words, watch scores"),
    ("15", "Guided image editing", "say what to change"),
)
WIDTH, HEIGHT = 720, 1050
BLUE, INK, GREY = "#0072B2", "#222222", "#6B7280"
FONT = "font-family=\"-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif\""

# number -> x, y, width, height
PLACES = {
    "00": (20, 20, 680, 66),
    "02": (40, 184, 310, 70),
    "01": (370, 184, 310, 70),
    "04": (40, 294, 440, 70),
    "03": (500, 294, 180, 70),
    "05": (40, 404, 640, 70),
    "06": (40, 514, 640, 70),
    "08": (20, 746, 216, 84),
    "09": (20, 844, 216, 84),
    "13": (20, 942, 216, 84),
    "10": (248, 746, 224, 84),
    "11": (252, 844, 216, 84),
    "12": (252, 942, 216, 84),
    "14": (484, 746, 216, 84),
    "15": (484, 844, 216, 84),
}
WRAPPED = {
    "03": ("Deformable", "attention"),
    "08": ("Matching", "and losses"),
    "09": ("The training", "loop"),
    "11": ("Fine-tuning", "on face masks"),
    "12": ("Reading", "the results"),
    "13": ("Benchmarks", "and ablations"),
    "15": ("Guided", "image editing"),
}


def draw(written: set[str]) -> str:
    """The map as SVG text; `written` are the numbers of the chapters that exist."""
    titles = {number: (title, note) for number, title, note in CHAPTERS}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#FFFFFF"/>',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{GREY}"/></marker></defs>',
        f'<rect x="20" y="164" width="680" height="478" rx="12" fill="#F3F7FA" stroke="{GREY}" stroke-dasharray="6 5"/>',
    ]
    for x1, y1, x2, y2 in (
        (195, 138, 195, 180), (525, 138, 525, 180), (195, 254, 195, 290), (500, 254, 430, 290), (500, 329, 484, 329),
        (260, 364, 260, 400), (360, 474, 360, 510), (360, 584, 360, 664),
    ):  # fmt: skip
        line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
        parts.append(f'{line} stroke="{GREY}" stroke-width="2" marker-end="url(#tip)"/>')
    parts += [
        _text(195, 128, "a picture", 19, INK, style="italic"),
        _text(525, 128, "“cat . remote control .”", 19, INK, style="italic"),
        _text(530, 622, "7 The whole model", 18, BLUE if "07" in written else GREY, weight=600),
        _text(360, 686, "boxes, each with one of the phrases", 19, INK, style="italic"),
        _text(128, 736, "Training and evidence", 16, GREY),
        _text(360, 736, "Your own data", 16, GREY),
        _text(592, 736, "Applications", 16, GREY),
    ]
    for number, place in PLACES.items():
        parts += _box(number, *titles[number], place, number in written)
    return "\n".join(parts) + "\n</svg>\n"


def _box(number: str, title: str, note: str, place: tuple[int, int, int, int], is_written: bool) -> list[str]:
    x, y, width, height = place
    fill, ink, faint = (BLUE, "#FFFFFF", "#E3F0F8") if is_written else ("#FFFFFF", INK, GREY)
    words = WRAPPED.get(number, (title,))
    lines = [(f"{spoken(number)} {words[0]}", 18, ink, 600)]
    lines.append((words[1], 18, ink, 600) if len(words) == 2 else (note, 15, faint, 400))
    box = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="9" fill="{fill}"'
    parts = [f'{box} stroke="{BLUE}" stroke-width="2"/>']
    for index, (line, size, color, weight) in enumerate(lines):
        parts.append(_text(x + width / 2, y + height / 2 - 5 + 24 * index, line, size, color, weight))
    return parts


def _text(x: float, y: float, words: str, size: int, color: str, weight: int = 400, style: str = "normal") -> str:
    look = f'font-size="{size}" font-weight="{weight}" font-style="{style}" fill="{color}"'
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {look}>{escape(words, quote=False)}</text>'


def spoken(number: str) -> str:
    """A chapter's number as titles write it: "3b" for "03b"."""
    return number[1:] if number.startswith("0") else number


def written_chapters(root: Path) -> set[str]:
    """Numbers of the chapters in `_toc.yml`."""
    return set(re.findall(r"file: book/(\d\d[a-z]?)_", (root / "_toc.yml").read_text()))


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    (folder / "map.svg").write_text(draw(written_chapters(folder.parent.parent)))
