"""Draw `model.svg`, the architecture with the code's names: `python book/figures/draw_model.py`.

The figure is narrow, so that it can be read on a phone. A test compares the committed file with the result of this script.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 480, 968
INK, GREY, WHITE = "#222222", "#6B7280", "#FFFFFF"
IMAGE, TEXT, QUERY = "#0072B2", "#B45F06", "#007A5A"  # the book's colours, dark enough for white text
PALE = {IMAGE: "#E5F1F8", TEXT: "#FBEEDD", QUERY: "#E3F4EE", GREY: "#F4F5F7"}
FONT = "font-family=\"-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif\""
CODE = "font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\""


def draw() -> str:
    """The figure as SVG text."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{WHITE}"/>',
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="6.5" markerHeight="6.5" '
            f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
            for name, color in (("image", IMAGE), ("text", TEXT), ("query", QUERY))
        ),
        "</defs>",
        *_inputs(),
        *_enhancer(),
        *_query_selection(),
        *_decoder(),
        *_outputs(),
    ]
    return "\n".join(parts) + "\n</svg>\n"


def _inputs() -> list[str]:
    """A picture and a prompt, each with its encoder."""
    return [
        _text(120, 26, "a picture", 16, INK, style="italic"),
        _code(120, 46, "[B, 3, H, W]"),
        _text(360, 26, "“cat . remote control .”", 16, INK, style="italic"),
        _code(360, 46, "T tokens"),
        *_part(16, 76, 208, 62, "image_backbone", "Swin, projections, positions", IMAGE),
        *_part(256, 76, 208, 62, "text_encoder", "BERT, one phrase at a time", TEXT),
        _arrow([(120, 54), (120, 73)], "image"),
        _arrow([(360, 54), (360, 73)], "text"),
        _code(128, 158, "[B, N, D]", "start"),
        _code(352, 158, "[B, T, D]", "end"),
        _arrow([(120, 138), (120, 209)], "image"),
        _arrow([(360, 138), (360, 209)], "text"),
    ]


def _enhancer() -> list[str]:
    """Fusion, then a text layer and an image layer."""
    return [
        *_frame(16, 170, 448, 184, "feature_enhancer", "encoder_layers times", GREY),
        *_inner(32, 212, 416, 46, "fusion", "image and text attend to each other", GREY),
        *_inner(240, 288, 208, 50, "text_layer", "self-attention in a phrase", TEXT),
        *_inner(32, 288, 194, 50, "image_layer", "deformable attention", IMAGE),
        _arrow([(120, 258), (120, 285)], "image"),
        _arrow([(360, 258), (360, 285)], "text"),
    ]


def _query_selection() -> list[str]:
    """The image tokens most similar to the text become queries."""
    return [
        _arrow([(120, 338), (120, 401)], "image"),
        _arrow([(360, 338), (360, 401)], "text"),
        _code(128, 378, "[B, N, D]", "start"),
        _code(352, 378, "[B, T, D]", "end"),
        *_part(56, 404, 368, 62, "query_selection", "the Q tokens most like the text become anchors", QUERY),
        _arrow([(240, 466), (240, 541)], "query"),
        _code(248, 489, "[B, Q, D] contents", "start"),
        _code(232, 489, "[B, Q, 4] boxes", "end"),
    ]


def _decoder() -> list[str]:
    """The parts of a decoder layer, from top to bottom."""
    rows = (
        ("self_attention", "queries read queries", QUERY),
        ("text_attention", "first the text", TEXT),
        ("image_attention", "then the image", IMAGE),
        ("linear1, linear2", "an MLP per query", QUERY),
        ("box_heads", "move the box", QUERY),
    )
    parts = _frame(48, 502, 368, 284, "decoder", "decoder_layers times", QUERY)
    for number, (name, note, color) in enumerate(rows):
        parts += _row(64, 542 + 48 * number, 336, 36, name, note, color)
        if number:
            parts.append(_arrow([(232, 530 + 48 * number), (232, 540 + 48 * number)], "query", head=False))
    return [
        *parts,
        # image and text enter their cross-attentions; the dashed arrow leads to the next layer
        _arrow([(120, 386), (32, 386), (32, 656), (61, 656)], "image"),
        _arrow([(360, 386), (462, 386), (462, 608), (403, 608)], "text"),
        _arrow([(400, 752), (434, 752), (434, 522), (419, 522)], "query", dashed=True),
    ]


def _outputs() -> list[str]:
    """A box and token scores for each query."""
    return [
        *_part(176, 838, 232, 62, "contrastive_heads", "dot products, no parameters", QUERY),
        _arrow([(240, 786), (240, 835)], "query"),
        _code(248, 815, "[B, Q, D]", "start"),
        _arrow([(462, 608), (462, 869), (411, 869)], "text"),
        _arrow([(100, 786), (100, 918)], "query"),
        _arrow([(292, 900), (292, 918)], "query"),
        _code(100, 936, "boxes [B, Q, 4]", weight=700),
        _code(292, 936, "logits [B, Q, T]", weight=700),
        _text(100, 956, "where", 14, GREY, style="italic"),
        _text(292, 956, "which token of the prompt", 14, GREY, style="italic"),
    ]


def _part(x: float, y: float, width: float, height: float, name: str, note: str, color: str) -> list[str]:
    """A box for a part of the model, with its name in the code and its task."""
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{color}"/>',
        _code(x + width / 2, y + 26, name, size=16, color=WHITE, weight=700),
        _text(x + width / 2, y + 48, note, 14, WHITE),
    ]


def _frame(x: float, y: float, width: float, height: float, name: str, note: str, color: str) -> list[str]:
    """A box for a part that contains layers."""
    look = f'rx="8" fill="{PALE[color]}" stroke="{color}" stroke-width="1.5"'
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {look}/>',
        _code(x + 14, y + 25, name, "start", size=16, color=INK, weight=700),
        _text(x + width - 14, y + 25, note, 14, GREY, anchor="end", style="italic"),
    ]


def _inner(x: float, y: float, width: float, height: float, name: str, note: str, color: str) -> list[str]:
    """A box of two lines for a layer inside a part."""
    middle = x + width / 2
    return [
        _outline(x, y, width, height, color),
        _code(middle, y + height / 2 - 3, name, size=14.5, color=INK if color == GREY else color, weight=700),
        _text(middle, y + height / 2 + 15, note, 14, INK),
    ]


def _row(x: float, y: float, width: float, height: float, name: str, note: str, color: str) -> list[str]:
    """A box of one line for a step inside a part."""
    middle = y + height / 2 + 5
    return [
        _outline(x, y, width, height, color),
        _code(x + 12, middle, name, "start", size=14.5, color=color, weight=700),
        _text(x + width - 12, middle, note, 14, INK, anchor="end"),
    ]


def _outline(x: float, y: float, width: float, height: float, color: str) -> str:
    look = f'rx="6" fill="{WHITE}" stroke="{color}" stroke-width="1.5"'
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {look}/>'


def _arrow(points: list[tuple[float, float]], kind: str, dashed: bool = False, head: bool = True) -> str:
    color = {"image": IMAGE, "text": TEXT, "query": QUERY}[kind]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    look = f'stroke="{color}" stroke-width="2"' + (' stroke-dasharray="5 4"' if dashed else "")
    return f'<path d="{path}" fill="none" {look}' + (f' marker-end="url(#{kind})"/>' if head else "/>")


def _code(
    x: float, y: float, words: str, anchor: str = "middle", size: float = 13.5, color: str = INK, weight: int = 400
) -> str:
    look = f'font-size="{size:g}" font-weight="{weight}" fill="{color}"'
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {CODE} {look}>{escape(words, quote=False)}</text>'


def _text(
    x: float, y: float, words: str, size: float, color: str, anchor: str = "middle", style: str = "normal"
) -> str:
    look = f'font-size="{size:g}" font-style="{style}" fill="{color}"'
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {look}>{escape(words, quote=False)}</text>'


if __name__ == "__main__":
    (Path(__file__).resolve().parent / "model.svg").write_text(draw())
