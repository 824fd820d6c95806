"""Draw a small data set in the face-mask set's layout: cartoon people, VOC files, planted faults.

The book uses it wherever the real set is not at hand. Everything is drawn with Pillow at four times
the final size and then shrunk, so that edges are smooth; a seed decides every person and colour.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

from data_prep.atomic import atomic_folder

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")
SHARES = (0.78, 0.17, 0.05)  # of the three classes; the real set has 0.79, 0.18 and 0.03
PICTURES = 22
SCALE = 4  # drawn this much larger, then shrunk
SIZES = ((400, 300), (400, 300), (480, 320), (360, 360), (320, 400), (500, 334))

Color = tuple[int, int, int]
Point = tuple[float, float]

SKINS: tuple[Color, ...] = (
    (255, 224, 196), (246, 205, 170), (233, 184, 142), (214, 160, 115),
    (184, 126, 84), (150, 98, 62), (116, 74, 48), (88, 56, 38),
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (43, 33, 30), (66, 44, 33), (104, 66, 40), (150, 98, 52),
    (214, 172, 98), (176, 72, 40), (166, 166, 170), (30, 34, 52),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167),
    (230, 159, 0), (86, 180, 233), (92, 84, 148), (240, 236, 224),
    (74, 85, 104),
)  # fmt: skip
MASKS: tuple[Color, ...] = (
    (158, 212, 232), (158, 212, 232), (246, 248, 250), (246, 248, 250),
    (168, 218, 190), (58, 62, 72), (244, 190, 200), (250, 214, 130),
)  # fmt: skip
STYLES = ("short", "short", "side", "long", "long", "bun", "curly", "bald", "scarf", "cap")


class PlantedFault(NamedTuple):
    """One mistake that `write` made on purpose.

    Attributes:
        kind: what it is, in the words of `data_prep.audit.KINDS`.
        file: the XML file that carries it, or the image that has none; only the name, without folders.
        object: number of the object in its file, from 1; None when the fault concerns the whole file.
    """

    kind: str
    file: str
    object: int | None


@dataclass(frozen=True)
class _Person:
    """One cartoon person; the face's centre is (`x`, `y`) and half its height `radius`, in final pixels."""

    label: str
    x: float
    y: float
    radius: float
    skin: Color
    hair: Color
    style: str
    clothes: Color
    mask: Color
    on_chin: bool  # a mask worn wrongly hangs below the chin instead of below the nose
    glasses: bool
    gaze: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 of the face: ear to ear, hairline to chin."""
        wide, up, down = 0.88 * self.radius, 0.92 * self.radius, 1.04 * self.radius
        return round(self.x - wide), round(self.y - up), round(self.x + wide), round(self.y + down)


@dataclass(frozen=True)
class _Scene:
    """One picture to draw and what its XML file will say."""

    stem: str
    width: int
    height: int
    people: tuple[_Person, ...]


def write(folder: Path | str, seed: int = 0) -> list[PlantedFault]:
    """Draw the set into `folder`: `images/*.jpg` and `annotations/*.xml`, and tell which faults were planted in it.

    The same seed gives the same people, boxes and XML files, byte for byte, and the same pixels with the same Pillow.

    Args:
        folder: created; must not exist yet, or be empty.
        seed: decides people, colours and backgrounds. The kinds of planted faults are the same for every seed.

    Returns:
        One entry a fault, in the order of the files.

    Raises:
        FileExistsError: `folder` holds something already.
    """
    scenes = _scenes(seed)
    texts = {scene.stem: _xml(scene) for scene in scenes}
    faults = _plant(scenes, texts)
    without_image = {fault.file.removesuffix(".xml") for fault in faults if fault.kind == "file without image"}
    with atomic_folder(folder) as partial:
        (partial / "images").mkdir()
        (partial / "annotations").mkdir()
        for scene in scenes:
            if scene.stem not in without_image:
                picture = _draw_scene(scene, random.Random(f"{seed}/{scene.stem}/background"))
                picture.save(partial / "images" / f"{scene.stem}.jpg", quality=92, subsampling=0)
            if scene.stem in texts:
                (partial / "annotations" / f"{scene.stem}.xml").write_bytes(texts[scene.stem].encode())
    return faults


# --- who stands where -----------------------------------------------------------------------------


def _scenes(seed: int) -> list[_Scene]:
    rng = random.Random(f"{seed}/scenes")
    crowds = [rng.choice((2, 3, 3, 4, 4, 5, 6, 7, 9)) for _ in range(PICTURES)]
    total = sum(crowds)
    wrong, bare = max(4, round(SHARES[2] * total)), round(SHARES[1] * total)
    labels = [CLASSES[2]] * wrong + [CLASSES[1]] * bare + [CLASSES[0]] * (total - wrong - bare)
    rng.shuffle(labels)
    scenes = []
    for index, crowd in enumerate(crowds):
        wanted, labels = labels[:crowd], labels[crowd:]
        stem = f"cartoon{index:02d}"
        scenes.append(_crowd(stem, wanted, random.Random(f"{seed}/{stem}"), at_the_edge=index in OUTSIDE))
    return scenes


def _crowd(stem: str, labels: Sequence[str], rng: random.Random, at_the_edge: bool) -> _Scene:
    """Place one face a label, large in front and small behind, so that no face hides another."""
    width, height = rng.choice(SIZES)
    radius = 0.34 * math.sqrt(0.55 * width * height / (len(labels) + 0.6))
    radius = min(radius, 0.19 * height)
    places: list[tuple[float, float, float]] = []
    if at_the_edge:  # this one looks in from the right: the face leaves the picture
        places.append((width - 0.45 * radius, 0.56 * height, 1.1 * radius))
    while len(places) < len(labels):
        for _ in range(400):
            depth = rng.random()  # 0 is far away, 1 is close
            r = radius * (0.62 + 0.62 * depth) * rng.uniform(0.94, 1.06)
            x, y = rng.uniform(1.25 * r, width - 1.25 * r), height * (0.36 + 0.3 * depth) + rng.uniform(-4, 4)
            inside = y - 1.35 * r > 0 and y + 1.2 * r < height
            if inside and all(_apart((x, y, r), other) for other in places):
                places.append((x, y, r))
                break
        else:
            radius *= 0.93
    places.sort(key=lambda place: place[1])  # far ones first
    clothes = rng.sample(CLOTHES, len(labels))
    people = [_person(label, *place, cloth, rng) for label, place, cloth in zip(labels, places, clothes, strict=True)]
    return _Scene(stem, width, height, tuple(people))


def _apart(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    reach = one[2] + other[2]
    return ((one[0] - other[0]) / (1.06 * reach)) ** 2 + ((one[1] - other[1]) / (1.3 * reach)) ** 2 > 1


def _person(label: str, x: float, y: float, radius: float, clothes: Color, rng: random.Random) -> _Person:
    skin = rng.randrange(len(SKINS))
    return _Person(
        label, x, y, radius,
        skin=SKINS[skin],
        hair=rng.choice(HAIRS if skin < 4 else (HAIRS[0], HAIRS[0], HAIRS[7], HAIRS[6])),
        style=rng.choice(STYLES),
        clothes=clothes,
        mask=rng.choice(MASKS),
        on_chin=rng.random() < 0.4,
        glasses=rng.random() < 0.22,
        gaze=rng.uniform(-0.05, 0.05),
    )  # fmt: skip


# --- what the XML files say -----------------------------------------------------------------------

OUTSIDE = (3,)  # pictures, by number, in which a face leaves the picture: `_crowd` puts it there


def _plant(scenes: list[_Scene], texts: dict[str, str]) -> list[PlantedFault]:
    """Spoil some of `texts` (and drop one of them); return what was done."""
    faults = []
    for number in OUTSIDE:
        scene = scenes[number]
        cut = next(index for index, person in enumerate(scene.people, 1) if person.box[2] > scene.width)
        faults.append(PlantedFault("box outside", f"{scene.stem}.xml", cut))

    scene = scenes[5]  # a click instead of a drag: no width
    texts[scene.stem] = _xml(scene, [*_boxes(scene), (scene.people[0].label, (30, 40, 30, 62))])
    faults.append(PlantedFault("box degenerate", f"{scene.stem}.xml", len(scene.people) + 1))

    scene = scenes[7]  # the same face, saved twice
    texts[scene.stem] = _xml(scene, [*_boxes(scene), _boxes(scene)[0]])
    faults.append(PlantedFault("box duplicated", f"{scene.stem}.xml", len(scene.people) + 1))

    scene = scenes[9]  # the picture was renamed, its <filename> was not
    texts[scene.stem] = _xml(replace(scene, stem="IMG_2041"))
    faults.append(PlantedFault("file name differs", f"{scene.stem}.xml", None))

    scene = scenes[12]  # the picture was shrunk after it had been annotated
    texts[scene.stem] = _xml(replace(scene, width=2 * scene.width, height=2 * scene.height))
    faults.append(PlantedFault("size mismatch", f"{scene.stem}.xml", None))

    scene = scenes[14]  # the copy was interrupted
    texts[scene.stem] = texts[scene.stem][: 2 * len(texts[scene.stem]) // 3]
    faults.append(PlantedFault("annotation unreadable", f"{scene.stem}.xml", None))

    del texts[scenes[-2].stem]
    faults.append(PlantedFault("image without file", f"{scenes[-2].stem}.jpg", None))
    faults.append(PlantedFault("file without image", f"{scenes[-1].stem}.xml", None))
    return faults


def _boxes(scene: _Scene) -> list[tuple[str, tuple[int, int, int, int]]]:
    return [(person.label, person.box) for person in scene.people]


def _xml(scene: _Scene, boxes: Sequence[tuple[str, tuple[int, int, int, int]]] | None = None) -> str:
    objects = "".join(_OBJECT.format(name=escape(label), box=box) for label, box in boxes or _boxes(scene))
    return _ANNOTATION.format(name=escape(f"{scene.stem}.jpg"), width=scene.width, height=scene.height, objects=objects)


_ANNOTATION = """<annotation>
    <folder>images</folder>
    <filename>{name}</filename>
    <size>
        <width>{width}</width>
        <height>{height}</height>
        <depth>3</depth>
    </size>
    <segmented>0</segmented>
{objects}</annotation>
"""

_OBJECT = """    <object>
        <name>{name}</name>
        <pose>Unspecified</pose>
        <truncated>0</truncated>
        <occluded>0</occluded>
        <difficult>0</difficult>
        <bndbox>
            <xmin>{box[0]}</xmin>
            <ymin>{box[1]}</ymin>
            <xmax>{box[2]}</xmax>
            <ymax>{box[3]}</ymax>
        </bndbox>
    </object>
"""


# --- the drawing ----------------------------------------------------------------------------------


def _draw_scene(scene: _Scene, rng: random.Random) -> Image.Image:
    """Draw one scene: a background, then its people from far to near. RGB, `scene.width` x `scene.height`."""
    size = scene.width * SCALE, scene.height * SCALE
    background = rng.choice((_park, _city, _classroom, _party))
    canvas = background(size, rng)
    pen = ImageDraw.Draw(canvas)
    for person in scene.people:
        _draw_person(pen, person, size[1])
    return canvas.resize((scene.width, scene.height), Image.Resampling.LANCZOS)


class _Face:
    """Draws in units of a face: (0, 0) is its centre, 1 is half its height, y points down."""

    def __init__(self, pen: ImageDraw.ImageDraw, person: _Person) -> None:
        self.pen, self.unit = pen, person.radius * SCALE
        self.origin = person.x * SCALE, person.y * SCALE

    def at(self, x: float, y: float) -> Point:
        return self.origin[0] + x * self.unit, self.origin[1] + y * self.unit

    def frame(self, x: float, y: float, rx: float, ry: float) -> tuple[Point, Point]:
        return self.at(x - rx, y - ry), self.at(x + rx, y + ry)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Color) -> None:
        self.pen.ellipse(self.frame(x, y, rx, ry), fill=fill)

    def ring(self, x: float, y: float, rx: float, ry: float, color: Color, width: float) -> None:
        self.pen.ellipse(self.frame(x, y, rx, ry), outline=color, width=max(1, round(width * self.unit)))

    def shape(self, points: Sequence[Point], fill: Color) -> None:
        """A smooth closed outline through `points`."""
        self.pen.polygon([self.at(*point) for point in _closed_curve(points)], fill=fill)

    def stroke(self, points: Sequence[Point], color: Color, width: float) -> None:
        """A line through three points, as a parabola."""
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


def _draw_person(pen: ImageDraw.ImageDraw, person: _Person, bottom: int) -> None:
    face = _Face(pen, person)
    skin, hair, cloth = person.skin, person.hair, person.clothes
    shade, scarf = _mix(skin, (96, 40, 20), 0.22), _mix(cloth, (255, 255, 255), 0.25)
    _draw_behind(face, person, scarf)
    _draw_body(face, person, shade, bottom)
    if person.style != "scarf":
        for side in (-1, 1):
            face.ellipse(0.79 * side, 0.02, 0.13, 0.2, skin)
            face.ellipse(0.81 * side, 0.03, 0.06, 0.11, shade)
    face.shape(_HEAD, skin)
    for side in (-1, 1):
        face.ellipse(0.42 * side, 0.3, 0.16, 0.1, _mix(skin, (232, 96, 88), 0.28))
    _draw_eyes(face, person)
    _draw_nose_and_mouth(face, person, shade)
    if person.label != "without_mask":
        _draw_mask(face, person)
    _draw_hair(face, person, hair, scarf)
    if person.glasses:
        for side in (-1, 1):
            face.ring(0.32 * side, -0.14, 0.22, 0.19, (48, 48, 56), 0.045)
        face.stroke([(-0.11, -0.17), (0, -0.21), (0.11, -0.17)], (48, 48, 56), 0.045)


_HEAD = ((0, -0.98), (0.5, -0.84), (0.78, -0.4), (0.77, 0.15), (0.62, 0.66), (0.3, 0.95), (0, 1.03),
         (-0.3, 0.95), (-0.62, 0.66), (-0.77, 0.15), (-0.78, -0.4), (-0.5, -0.84))  # fmt: skip
_WORN = ((0, 0.02), (0.36, 0.1), (0.75, 0.2), (0.7, 0.55), (0.5, 0.86), (0.25, 1.03), (0, 1.07),
         (-0.25, 1.03), (-0.5, 0.86), (-0.7, 0.55), (-0.75, 0.2), (-0.36, 0.1))  # fmt: skip
_BELOW_NOSE = ((0, 0.42), (0.36, 0.4), (0.72, 0.36), (0.67, 0.66), (0.5, 0.93), (0.25, 1.1), (0, 1.14),
               (-0.25, 1.1), (-0.5, 0.93), (-0.67, 0.66), (-0.72, 0.36), (-0.36, 0.4))  # fmt: skip
_ON_CHIN = ((0, 0.8), (0.3, 0.76), (0.62, 0.58), (0.64, 0.8), (0.5, 1.06), (0.25, 1.2), (0, 1.23),
            (-0.25, 1.2), (-0.5, 1.06), (-0.64, 0.8), (-0.62, 0.58), (-0.3, 0.76))  # fmt: skip


_SHORT_HAIR = ((0, -1.1), (0.55, -0.98), (0.85, -0.55), (0.84, -0.16), (0.72, -0.3), (0.6, -0.58), (0.2, -0.66),
               (-0.2, -0.66), (-0.6, -0.58), (-0.72, -0.3), (-0.84, -0.16), (-0.85, -0.55), (-0.55, -0.98))  # fmt: skip
_PARTED_HAIR = ((0, -1.12), (0.55, -0.99), (0.86, -0.55), (0.86, -0.1), (0.74, -0.24), (0.6, -0.5), (0.1, -0.6),
                (-0.3, -0.74), (-0.62, -0.4), (-0.74, -0.2), (-0.86, -0.1), (-0.86, -0.55), (-0.55, -0.99))  # fmt: skip
_SCARF = ((0, -1.16), (0.6, -1.0), (0.92, -0.4), (0.9, 0.3), (0.7, 0.3), (0.66, -0.3), (0.44, -0.68),
          (0, -0.78), (-0.44, -0.68), (-0.66, -0.3), (-0.7, 0.3), (-0.9, 0.3), (-0.92, -0.4), (-0.6, -1.0))  # fmt: skip
_CAP = ((0, -1.16), (0.55, -1.03), (0.86, -0.6), (0.8, -0.46), (0, -0.54), (-0.8, -0.46), (-0.86, -0.6),
        (-0.55, -1.03))  # fmt: skip
_VISOR = ((-0.6, -0.58), (0, -0.66), (0.6, -0.58), (0.72, -0.44), (0, -0.42), (-0.72, -0.44))


def _draw_behind(face: _Face, person: _Person, scarf: Color) -> None:
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


def _draw_body(face: _Face, person: _Person, shade: Color, bottom: int) -> None:
    low = (bottom - face.origin[1]) / face.unit + 1
    x0, y0 = face.at(-1.42, 1.36)
    x1, y1 = face.at(1.42, max(low, 2.6))
    face.pen.rounded_rectangle((x0, y0, x1, y1), radius=0.85 * face.unit, fill=person.clothes)
    edge = _mix(person.clothes, (20, 24, 40), 0.2)
    if person.style == "scarf":
        scarf = _mix(person.clothes, (255, 255, 255), 0.25)
        face.shape([(-0.86, 1.0), (0, 1.2), (0.86, 1.0), (0.94, 1.5), (0, 1.86), (-0.94, 1.5)], scarf)
        return
    face.shape([(-0.52, 1.34), (0, 1.28), (0.52, 1.34), (0.34, 1.6), (0, 1.72), (-0.34, 1.6)], edge)
    face.shape([(-0.36, 0.7), (0.36, 0.7), (0.38, 1.36), (0.2, 1.56), (0, 1.6), (-0.2, 1.56), (-0.38, 1.36)], shade)


def _draw_eyes(face: _Face, person: _Person) -> None:
    for side in (-1, 1):
        x = 0.32 * side
        face.ellipse(x, -0.14, 0.145, 0.13, (255, 255, 255))
        face.ellipse(x + person.gaze, -0.13, 0.085, 0.1, (46, 34, 30))
        face.ellipse(x + person.gaze + 0.03, -0.17, 0.03, 0.032, (255, 255, 255))
        brow = _mix(person.hair, (40, 30, 30), 0.4)
        face.stroke([(x - 0.15, -0.36), (x, -0.42), (x + 0.15, -0.36)], brow, 0.055)


def _draw_nose_and_mouth(face: _Face, person: _Person, shade: Color) -> None:
    face.stroke([(-0.09, 0.22), (0, 0.3), (0.09, 0.22)], shade, 0.06)
    if person.gaze > 0.02:  # a laugh
        face.pen.chord(face.frame(0, 0.5, 0.28, 0.25), 0, 180, fill=(128, 36, 40))
        face.pen.chord(face.frame(0, 0.5, 0.22, 0.09), 0, 180, fill=(255, 255, 255))
    else:
        face.stroke([(-0.24, 0.54), (0, 0.65), (0.24, 0.54)], _mix(shade, (120, 20, 30), 0.5), 0.06)


def _draw_mask(face: _Face, person: _Person) -> None:
    worn = person.label == "with_mask"
    outline = _WORN if worn else _ON_CHIN if person.on_chin else _BELOW_NOSE
    edge = _mix(person.mask, (40, 60, 90) if sum(person.mask) > 300 else (255, 255, 255), 0.3)
    (right, top), (low_right, low) = outline[2], outline[4]
    for side in (-1, 1):  # the loops around the ears
        face.stroke([(right * side, top + 0.04), (0.8 * side, 0.06), (0.84 * side, -0.06)], edge, 0.035)
        face.stroke([(low_right * side, low), (0.8 * side, 0.4), (0.84 * side, 0.16)], edge, 0.035)
    face.shape(outline, edge)
    centre = outline[0][1] / 2 + outline[6][1] / 2
    face.shape([(0.955 * x, centre + 0.94 * (y - centre)) for x, y in outline], person.mask)
    pleats = (0.28, 0.5, 0.72) if outline is not _ON_CHIN else (0.5,)
    for share in pleats:
        y = outline[0][1] + share * (outline[6][1] - outline[0][1])
        face.stroke([(-0.44, y - 0.02), (0, y + 0.05), (0.44, y - 0.02)], edge, 0.025)


def _draw_hair(face: _Face, person: _Person, hair: Color, scarf: Color) -> None:
    style = person.style
    if style in ("short", "bun"):
        face.shape(_SHORT_HAIR, hair)
    elif style in ("side", "long"):
        face.shape(_PARTED_HAIR, hair)
    elif style == "curly":
        for step in range(9):
            angle = math.pi * (1.08 + 0.84 * step / 8)
            face.ellipse(0.62 * math.cos(angle), -0.3 + 0.52 * math.sin(angle), 0.23, 0.2, hair)
    elif style == "scarf":
        face.shape(_SCARF, scarf)
    elif style == "cap":
        cap = _mix(person.clothes, (30, 40, 80), 0.35)
        face.shape([(-0.8, -0.5), (-0.86, -0.1), (-0.68, -0.4), (0.68, -0.4), (0.86, -0.1), (0.8, -0.5)], hair)
        face.shape(_CAP, cap)
        face.shape(_VISOR, _mix(cap, (0, 0, 0), 0.3))


def _mix(color: Color, other: Color, share: float) -> Color:
    """`color` with `share` of `other` in it."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _closed_curve(points: Sequence[Point], steps: int = 8) -> list[Point]:
    """Catmull-Rom spline through `points` and back to the first."""
    curve = []
    for index in range(len(points)):
        p0, p1, p2, p3 = (points[(index + offset) % len(points)] for offset in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            weights = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2
            x, y = (sum(w * p[axis] / 2 for w, p in zip(weights, (p0, p1, p2, p3), strict=True)) for axis in (0, 1))
            curve.append((x, y))
    return curve


# --- backgrounds ----------------------------------------------------------------------------------


def _gradient(size: tuple[int, int], top: Color, bottom: Color) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def _park(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    canvas = _gradient(size, (150, 208, 244), (228, 244, 250))
    pen = ImageDraw.Draw(canvas)
    x, y, r = rng.uniform(0.1, 0.9) * width, 0.12 * height, 0.07 * height
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 226, 130))
    for _ in range(3):
        x, y, r = rng.uniform(0, 1) * width, rng.uniform(0.06, 0.2) * height, rng.uniform(0.03, 0.05) * height
        for dx, k in ((-1.4, 0.8), (0, 1.2), (1.4, 0.9)):
            pen.ellipse(
                (x + dx * r - k * r * 1.3, y - k * r, x + dx * r + k * r * 1.3, y + k * r), fill=(252, 254, 255)
            )
    pen.ellipse((-0.3 * width, 0.36 * height, 0.75 * width, 1.1 * height), fill=(168, 206, 140))
    pen.ellipse((0.35 * width, 0.42 * height, 1.4 * width, 1.2 * height), fill=(146, 192, 122))
    for _ in range(5):
        x, y, r = rng.uniform(0, 1) * width, rng.uniform(0.3, 0.42) * height, rng.uniform(0.06, 0.1) * height
        pen.rectangle((x - 0.14 * r, y, x + 0.14 * r, y + 1.9 * r), fill=(134, 100, 76))
        pen.ellipse((x - r, y - r, x + r, y + 0.8 * r), fill=_mix((92, 156, 96), (160, 190, 90), rng.random()))
    pen.rectangle((0, 0.74 * height, width, height), fill=(156, 198, 120))
    return canvas


def _city(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    canvas = _gradient(size, (250, 214, 178), (254, 240, 222))
    pen = ImageDraw.Draw(canvas)
    x = -0.03 * width
    while x < width:
        wide, top = rng.uniform(0.13, 0.22) * width, rng.uniform(0.06, 0.36) * height
        wall = rng.choice(((168, 180, 200), (196, 176, 170), (150, 168, 178), (206, 194, 180)))
        pen.rectangle((x, top, x + wide, height), fill=wall)
        pane, columns = 0.032 * height, 3
        for column in range(columns):
            for row in range(9):
                left, high = x + wide * (column + 0.5) / columns - pane / 2, top + pane * (1 + 2.1 * row)
                glass = (255, 236, 170) if rng.random() < 0.35 else _mix(wall, (60, 80, 110), 0.35)
                pen.rectangle((left, high, left + pane, high + 1.2 * pane), fill=glass)
        x += wide + 0.012 * width
    pen.rectangle((0, 0.78 * height, width, height), fill=(176, 178, 184))
    return canvas


def _classroom(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    canvas = _gradient(size, (246, 238, 222), (236, 224, 204))
    pen = ImageDraw.Draw(canvas)
    pen.rounded_rectangle((0.12 * width, 0.06 * height, 0.7 * width, 0.42 * height), 0.02 * height, fill=(168, 124, 84))
    pen.rectangle((0.135 * width, 0.08 * height, 0.685 * width, 0.4 * height), fill=(62, 104, 88))
    for row in range(3):
        y = (0.14 + 0.08 * row) * height
        pen.line(
            (0.17 * width, y, (0.17 + rng.uniform(0.15, 0.42)) * width, y),
            fill=(206, 224, 214),
            width=round(0.008 * height),
        )
    pen.rectangle((0.76 * width, 0.06 * height, 0.97 * width, 0.4 * height), fill=(250, 250, 248))
    pen.rectangle((0.775 * width, 0.08 * height, 0.955 * width, 0.38 * height), fill=(182, 220, 242))
    pen.line(
        (0.865 * width, 0.08 * height, 0.865 * width, 0.38 * height), fill=(250, 250, 248), width=round(0.012 * height)
    )
    pen.rectangle((0, 0.8 * height, width, height), fill=(206, 178, 146))
    return canvas


def _party(size: tuple[int, int], rng: random.Random) -> Image.Image:
    width, height = size
    tint = rng.choice(((214, 226, 244), (232, 220, 240), (220, 238, 226), (248, 226, 220)))
    canvas = _gradient(size, tint, _mix(tint, (255, 255, 255), 0.5))
    pen = ImageDraw.Draw(canvas)
    for _ in range(60):
        x, y, r = rng.random() * width, rng.random() * height, rng.uniform(0.004, 0.009) * height
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_mix(rng.choice(CLOTHES), (255, 255, 255), 0.35))
    flags = 12
    for flag in range(flags):
        x, w = width * (flag + 0.5) / flags, 0.7 * width / flags
        y = height * (0.04 + 0.09 * (1 - ((flag + 0.5) / flags * 2 - 1) ** 2))
        pen.polygon(
            [(x - w / 2, y), (x + w / 2, y), (x, y + 1.2 * w)], fill=_mix(CLOTHES[flag % 6], (255, 255, 255), 0.25)
        )
    return canvas
