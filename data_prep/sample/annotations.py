"""The XML files of the pictures, in the layout of Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from data_prep.sample.people import LabelledBox, Scene

ANNOTATION = """<annotation>
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

OBJECT = """    <object>
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


def annotation_text(scene: Scene, boxes: Sequence[LabelledBox] | None = None) -> str:
    """The text of the XML file of a picture, with `boxes`, or by default with the boxes of the people."""
    objects = "".join(OBJECT.format(name=escape(label), box=box) for label, box in boxes or scene.boxes)
    return ANNOTATION.format(name=escape(f"{scene.stem}.jpg"), width=scene.width, height=scene.height, objects=objects)
