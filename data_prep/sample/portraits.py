"""Draw one cartoon person: hair, clothes, face, mask."""

from __future__ import annotations

import math

from PIL import ImageDraw

from data_prep.sample.drawing import WHITE, Color, FacePen, mix
from data_prep.sample.people import Person

# outlines, in units of a face (see `FacePen`)
HEAD = ((0, -0.98), (0.5, -0.84), (0.78, -0.4), (0.77, 0.15), (0.62, 0.66), (0.3, 0.95), (0, 1.03),
        (-0.3, 0.95), (-0.62, 0.66), (-0.77, 0.15), (-0.78, -0.4), (-0.5, -0.84))  # fmt: skip
WORN = ((0, 0.02), (0.36, 0.1), (0.75, 0.2), (0.7, 0.55), (0.5, 0.86), (0.25, 1.03), (0, 1.07),
        (-0.25, 1.03), (-0.5, 0.86), (-0.7, 0.55), (-0.75, 0.2), (-0.36, 0.1))  # fmt: skip
BELOW_NOSE = ((0, 0.42), (0.36, 0.4), (0.72, 0.36), (0.67, 0.66), (0.5, 0.93), (0.25, 1.1), (0, 1.14),
              (-0.25, 1.1), (-0.5, 0.93), (-0.67, 0.66), (-0.72, 0.36), (-0.36, 0.4))  # fmt: skip
ON_CHIN = ((0, 0.8), (0.3, 0.76), (0.62, 0.58), (0.64, 0.8), (0.5, 1.06), (0.25, 1.2), (0, 1.23),
           (-0.25, 1.2), (-0.5, 1.06), (-0.64, 0.8), (-0.62, 0.58), (-0.3, 0.76))  # fmt: skip
SHORT_HAIR = ((0, -1.1), (0.55, -0.98), (0.85, -0.55), (0.84, -0.16), (0.72, -0.3), (0.6, -0.58), (0.2, -0.66),
              (-0.2, -0.66), (-0.6, -0.58), (-0.72, -0.3), (-0.84, -0.16), (-0.85, -0.55), (-0.55, -0.98))  # fmt: skip
PARTED_HAIR = ((0, -1.12), (0.55, -0.99), (0.86, -0.55), (0.86, -0.1), (0.74, -0.24), (0.6, -0.5), (0.1, -0.6),
               (-0.3, -0.74), (-0.62, -0.4), (-0.74, -0.2), (-0.86, -0.1), (-0.86, -0.55), (-0.55, -0.99))  # fmt: skip
SCARF = ((0, -1.16), (0.6, -1.0), (0.92, -0.4), (0.9, 0.3), (0.7, 0.3), (0.66, -0.3), (0.44, -0.68),
         (0, -0.78), (-0.44, -0.68), (-0.66, -0.3), (-0.7, 0.3), (-0.9, 0.3), (-0.92, -0.4), (-0.6, -1.0))  # fmt: skip
CAP = ((0, -1.16), (0.55, -1.03), (0.86, -0.6), (0.8, -0.46), (0, -0.54), (-0.8, -0.46), (-0.86, -0.6),
       (-0.55, -1.03))  # fmt: skip
VISOR = ((-0.6, -0.58), (0, -0.66), (0.6, -0.58), (0.72, -0.44), (0, -0.42), (-0.72, -0.44))


def draw_person(pen: ImageDraw.ImageDraw, person: Person, bottom: int) -> None:
    """Draw one person from the head to the lower edge of the picture, `bottom`, in pixels before shrinking by `SCALE`."""
    face = FacePen(pen, person.x, person.y, person.radius)
    shade = mix(person.skin, (96, 40, 20), 0.22)
    scarf = mix(person.clothes, WHITE, 0.25)
    _draw_hair_behind(face, person, scarf)
    _draw_body(face, person, shade, scarf, bottom)
    if person.style != "scarf":
        _draw_ears(face, person, shade)
    face.shape(HEAD, person.skin)
    for side in (-1, 1):  # cheeks
        face.ellipse(0.42 * side, 0.3, 0.16, 0.1, mix(person.skin, (232, 96, 88), 0.28))
    _draw_eyes(face, person)
    _draw_nose_and_mouth(face, person, shade)
    if person.label != "without_mask":
        _draw_mask(face, person)
    _draw_hair_in_front(face, person, scarf)
    if person.glasses:
        _draw_glasses(face)


def _draw_hair_behind(face: FacePen, person: Person, scarf: Color) -> None:
    if person.style == "long":
        face.shape([(0, -1.14), (0.7, -0.9), (0.98, -0.2), (1.02, 0.7), (0.86, 1.36), (0, 1.3),
                    (-0.86, 1.36), (-1.02, 0.7), (-0.98, -0.2), (-0.7, -0.9)], person.hair)  # fmt: skip
    elif person.style == "bun":
        face.ellipse(0, -1.2, 0.34, 0.3, person.hair)
    elif person.style == "curly":
        for step in range(15):
            angle = math.pi * (0.92 + 1.16 * step / 14)
            face.ellipse(0.8 * math.cos(angle), -0.18 + 0.86 * math.sin(angle), 0.3, 0.3, person.hair)
    elif person.style == "scarf":
        face.shape([(0, -1.2), (0.66, -1.02), (0.98, -0.4), (0.98, 0.4), (0.86, 1.1), (0.9, 1.6), (0, 1.7),
                    (-0.9, 1.6), (-0.86, 1.1), (-0.98, 0.4), (-0.98, -0.4), (-0.66, -1.02)], scarf)  # fmt: skip


def _draw_body(face: FacePen, person: Person, shade: Color, scarf: Color, bottom: int) -> None:
    low = (bottom - face.origin[1]) / face.unit + 1
    x0, y0 = face.at(-1.42, 1.36)
    x1, y1 = face.at(1.42, max(low, 2.6))
    face.pen.rounded_rectangle((x0, y0, x1, y1), radius=0.85 * face.unit, fill=person.clothes)
    edge = mix(person.clothes, (20, 24, 40), 0.2)
    if person.style == "scarf":
        face.shape([(-0.86, 1.0), (0, 1.2), (0.86, 1.0), (0.94, 1.5), (0, 1.86), (-0.94, 1.5)], scarf)
        return
    face.shape([(-0.52, 1.34), (0, 1.28), (0.52, 1.34), (0.34, 1.6), (0, 1.72), (-0.34, 1.6)], edge)
    face.shape([(-0.36, 0.7), (0.36, 0.7), (0.38, 1.36), (0.2, 1.56), (0, 1.6), (-0.2, 1.56), (-0.38, 1.36)], shade)


def _draw_ears(face: FacePen, person: Person, shade: Color) -> None:
    for side in (-1, 1):
        face.ellipse(0.79 * side, 0.02, 0.13, 0.2, person.skin)
        face.ellipse(0.81 * side, 0.03, 0.06, 0.11, shade)


def _draw_eyes(face: FacePen, person: Person) -> None:
    for side in (-1, 1):
        x = 0.32 * side
        face.ellipse(x, -0.14, 0.145, 0.13, WHITE)
        face.ellipse(x + person.gaze, -0.13, 0.085, 0.1, (46, 34, 30))
        face.ellipse(x + person.gaze + 0.03, -0.17, 0.03, 0.032, WHITE)
        brow = mix(person.hair, (40, 30, 30), 0.4)
        face.stroke([(x - 0.15, -0.36), (x, -0.42), (x + 0.15, -0.36)], brow, 0.055)


def _draw_nose_and_mouth(face: FacePen, person: Person, shade: Color) -> None:
    face.stroke([(-0.09, 0.22), (0, 0.3), (0.09, 0.22)], shade, 0.06)
    if person.gaze > 0.02:  # a laugh
        face.pen.chord(face.frame(0, 0.5, 0.28, 0.25), 0, 180, fill=(128, 36, 40))
        face.pen.chord(face.frame(0, 0.5, 0.22, 0.09), 0, 180, fill=WHITE)
    else:
        face.stroke([(-0.24, 0.54), (0, 0.65), (0.24, 0.54)], mix(shade, (120, 20, 30), 0.5), 0.06)


def _draw_mask(face: FacePen, person: Person) -> None:
    worn = person.label == "with_mask"
    outline = WORN if worn else ON_CHIN if person.on_chin else BELOW_NOSE
    edge = mix(person.mask, (40, 60, 90) if sum(person.mask) > 300 else WHITE, 0.3)
    (right, top), (low_right, low) = outline[2], outline[4]
    for side in (-1, 1):  # the loops around the ears
        face.stroke([(right * side, top + 0.04), (0.8 * side, 0.06), (0.84 * side, -0.06)], edge, 0.035)
        face.stroke([(low_right * side, low), (0.8 * side, 0.4), (0.84 * side, 0.16)], edge, 0.035)
    face.shape(outline, edge)
    centre = outline[0][1] / 2 + outline[6][1] / 2
    face.shape([(0.955 * x, centre + 0.94 * (y - centre)) for x, y in outline], person.mask)
    pleats = (0.28, 0.5, 0.72) if outline is not ON_CHIN else (0.5,)
    for share in pleats:
        y = outline[0][1] + share * (outline[6][1] - outline[0][1])
        face.stroke([(-0.44, y - 0.02), (0, y + 0.05), (0.44, y - 0.02)], edge, 0.025)


def _draw_hair_in_front(face: FacePen, person: Person, scarf: Color) -> None:
    style = person.style
    if style in ("short", "bun"):
        face.shape(SHORT_HAIR, person.hair)
    elif style in ("side", "long"):
        face.shape(PARTED_HAIR, person.hair)
    elif style == "curly":
        for step in range(9):
            angle = math.pi * (1.08 + 0.84 * step / 8)
            face.ellipse(0.62 * math.cos(angle), -0.3 + 0.52 * math.sin(angle), 0.23, 0.2, person.hair)
    elif style == "scarf":
        face.shape(SCARF, scarf)
    elif style == "cap":
        cap = mix(person.clothes, (30, 40, 80), 0.35)
        face.shape([(-0.8, -0.5), (-0.86, -0.1), (-0.68, -0.4), (0.68, -0.4), (0.86, -0.1), (0.8, -0.5)], person.hair)
        face.shape(CAP, cap)
        face.shape(VISOR, mix(cap, (0, 0, 0), 0.3))


def _draw_glasses(face: FacePen) -> None:
    for side in (-1, 1):
        face.ring(0.32 * side, -0.14, 0.22, 0.19, (48, 48, 56), 0.045)
    face.stroke([(-0.11, -0.17), (0, -0.21), (0.11, -0.17)], (48, 48, 56), 0.045)
