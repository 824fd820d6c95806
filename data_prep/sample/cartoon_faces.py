"""Draw a small data set in the layout of the face-mask set: cartoon people, VOC files, planted faults.

The book uses the drawn set if the real set is not available. Pillow draws the pictures; the seed determines all people and
colours.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from data_prep.atomic import atomic_folder
from data_prep.sample.annotations import annotation_text
from data_prep.sample.backgrounds import draw_background
from data_prep.sample.drawing import SCALE
from data_prep.sample.people import CLASSES, Scene, plan_scenes
from data_prep.sample.portraits import draw_person

__all__ = ["CLASSES", "PlantedFault", "write"]

OUTSIDE = 3  # index of the picture with a face that extends beyond the picture


class PlantedFault(NamedTuple):
    """One fault that `write` made on purpose.

    Attributes:
        kind: a key of `data_prep.findings.KINDS`.
        file: name of the XML file with the fault, or of the image without an XML file; without folders.
        object: number of the object in its file, counted from 1; None if the fault is not in an object.
    """

    kind: str
    file: str
    object: int | None


def write(folder: Path | str, seed: int = 0) -> list[PlantedFault]:
    """Draw the data set into `folder`: `images/*.jpg` and `annotations/*.xml`, with planted faults.

    The same seed gives the same people, boxes and XML files, byte for byte. The pixels also depend on the version of Pillow.

    Args:
        folder: the new folder; must not exist, or be empty.
        seed: determines people, colours and backgrounds. The kinds of planted faults are the same for every seed.

    Returns:
        The planted faults, in the order of the files.

    Raises:
        FileExistsError: `folder` is not empty.
    """
    scenes = plan_scenes(seed, at_the_edge=(OUTSIDE,))
    texts = {scene.stem: annotation_text(scene) for scene in scenes}
    faults = _plant_faults(scenes, texts)
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


def _draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw one scene: a background, then its people from far to near. RGB, `scene.width` x `scene.height`."""
    canvas = draw_background((scene.width * SCALE, scene.height * SCALE), rng)
    pen = ImageDraw.Draw(canvas)
    for person in scene.people:
        draw_person(pen, person, bottom=canvas.height)
    return canvas.resize((scene.width, scene.height), Image.Resampling.LANCZOS)


def _plant_faults(scenes: list[Scene], texts: dict[str, str]) -> list[PlantedFault]:
    """Put faults into some of `texts`, {stem: text of the XML file}, and remove one text; return the faults."""
    scene = scenes[OUTSIDE]  # `plan_scenes` has placed the face at the edge
    number = next(number for number, person in enumerate(scene.people, 1) if person.box[2] > scene.width)
    faults = [PlantedFault("box outside", f"{scene.stem}.xml", number)]

    scene = scenes[5]  # the annotator clicked instead of dragging, so a box has no width
    texts[scene.stem] = annotation_text(scene, [*scene.boxes, (scene.people[0].label, (30, 40, 30, 62))])
    faults.append(PlantedFault("box degenerate", f"{scene.stem}.xml", len(scene.people) + 1))

    scene = scenes[7]  # the annotator saved a face twice
    texts[scene.stem] = annotation_text(scene, [*scene.boxes, scene.boxes[0]])
    faults.append(PlantedFault("box duplicated", f"{scene.stem}.xml", len(scene.people) + 1))

    scene = scenes[9]  # the picture was renamed, but not in <filename>
    texts[scene.stem] = annotation_text(replace(scene, stem="IMG_2041"))
    faults.append(PlantedFault("file name differs", f"{scene.stem}.xml", None))

    scene = scenes[12]  # the picture was shrunk after it was annotated
    large = replace(scene, width=2 * scene.width, height=2 * scene.height)
    boxes = [(label, (2 * x1, 2 * y1, 2 * x2, 2 * y2)) for label, (x1, y1, x2, y2) in scene.boxes]
    texts[scene.stem] = annotation_text(large, boxes)
    faults.append(PlantedFault("size mismatch", f"{scene.stem}.xml", None))

    scene = scenes[14]  # copying the file was interrupted
    texts[scene.stem] = texts[scene.stem][: 2 * len(texts[scene.stem]) // 3]
    faults.append(PlantedFault("annotation unreadable", f"{scene.stem}.xml", None))

    del texts[scenes[-2].stem]
    faults.append(PlantedFault("image without file", f"{scenes[-2].stem}.jpg", None))
    faults.append(PlantedFault("file without image", f"{scenes[-1].stem}.xml", None))
    return faults
