"""Colours, curves and a pen with the face as its unit, to draw people and backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import ImageDraw

SCALE = 4  # pictures are drawn 4 times as large and then shrunk, so that edges are smooth

Color = tuple[int, int, int]
Point = tuple[float, float]

WHITE: Color = (255, 255, 255)


def mix(color: Color, other: Color, share: float) -> Color:
    """Mix two colours; `share`, in 0..1, is the share of `other`."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(color, other, strict=True))
    return red, green, blue


class FacePen:
    """Draws in units of one face: (0, 0) is its centre, 1 is half its height, y points down.

    Args:
        pen: draws on a picture of `SCALE` times its final size.
        x, y: centre of the face; radius: half its height; all in pixels of the final picture.
    """

    def __init__(self, pen: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
        self.pen, self.unit = pen, radius * SCALE
        self.origin = x * SCALE, y * SCALE

    def at(self, x: float, y: float) -> Point:
        """Pixel coordinates of the point (x, y)."""
        return self.origin[0] + x * self.unit, self.origin[1] + y * self.unit

    def frame(self, x: float, y: float, rx: float, ry: float) -> tuple[Point, Point]:
        """Upper left and lower right pixel of an ellipse with centre (x, y) and half axes `rx` and `ry`."""
        return self.at(x - rx, y - ry), self.at(x + rx, y + ry)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Color) -> None:
        """Draw a filled ellipse with centre (x, y) and half axes `rx` and `ry`."""
        self.pen.ellipse(self.frame(x, y, rx, ry), fill=fill)

    def ring(self, x: float, y: float, rx: float, ry: float, color: Color, width: float) -> None:
        """Draw the outline of an ellipse."""
        self.pen.ellipse(self.frame(x, y, rx, ry), outline=color, width=max(1, round(width * self.unit)))

    def shape(self, points: Sequence[Point], fill: Color) -> None:
        """Draw a filled area with a smooth outline through `points`."""
        self.pen.polygon([self.at(*point) for point in closed_curve(points)], fill=fill)

    def stroke(self, points: Sequence[Point], color: Color, width: float) -> None:
        """Draw a parabola through three points, with round ends."""
        (x0, y0), (x1, y1), (x2, y2) = points
        cx, cy = 2 * x1 - (x0 + x2) / 2, 2 * y1 - (y0 + y2) / 2
        curve = []
        for step in range(13):
            t = step / 12
            a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
            curve.append(self.at(a * x0 + b * cx + c * x2, a * y0 + b * cy + c * y2))
        self.pen.line(curve, fill=color, width=max(1, round(width * self.unit)), joint="curve")
        tip = width * self.unit / 2
        for x, y in (curve[0], curve[-1]):
            self.pen.ellipse((x - tip, y - tip, x + tip, y + tip), fill=color)


def closed_curve(points: Sequence[Point], steps: int = 8) -> list[Point]:
    """A closed Catmull-Rom spline through `points`, with `steps` points per section."""
    curve = []
    for index in range(len(points)):
        p0, p1, p2, p3 = (points[(index + offset) % len(points)] for offset in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            weights = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2
            x, y = (sum(w * p[axis] / 2 for w, p in zip(weights, (p0, p1, p2, p3), strict=True)) for axis in (0, 1))
            curve.append((x, y))
    return curve
