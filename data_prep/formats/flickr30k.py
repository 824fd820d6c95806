"""Flickr30k Entities: sentences about a picture, with boxes for their phrases.

The data set has, for the picture `1000092795.jpg`,

- five lines in `Sentences/1000092795.txt`, in which brackets mark a phrase with the number of its entity and its types, as in
  "[/EN#1/people Two young guys] with [/EN#2/bodyparts shaggy hair] look at [/EN#3/bodyparts their hands] .",
- boxes by entity in `Annotations/1000092795.xml`: each element `object` has one or more elements `name`, which are numbers of
  entities, and an element `bndbox`, or else `nobndbox` and `scene` for an entity without a box,
- its number in `train.txt`, `val.txt` or `test.txt`.

Source: Plummer et al., Flickr30k Entities, arXiv 1505.04870, and https://github.com/BryanPlummer/flickr30k_entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from data_prep.formats import voc_xml
from data_prep.formats.fields import located
from data_prep.formats.json_text import read_text
from data_prep.formats.odvg import REGION
from data_prep.records import Box, Dataset, ImageRecord, as_whole_number, check_file_name

ENTITY = "entity"
"""Name in `Box.extra` of the entity's number, a text."""
TYPES = "types"
"""Name in `Box.extra` of the types of the phrase, a list such as ["people"]."""
MARK = "[/EN#"

Corners = tuple[int, int, int, int]


class Phrase(NamedTuple):
    """A phrase of a sentence.

    Attributes:
        text: its words; entity: the entity's number; types: such as ("people",) or ("vehicles", "other").
    """

    text: str
    entity: str
    types: tuple[str, ...]


def read(folder: Path | str, split: str) -> Dataset:
    """Read the sentences of one split.

    Args:
        folder: has `Sentences`, `Annotations` and the lists of pictures.
        split: "train", "val" or "test".

    Returns:
        A grounding record for each sentence that has a phrase with a box; phrases without a box are left out. The label of a
        box is its phrase. Boxes are the numbers of the file, which begin at 1; the published recalls take them as they
        are. A phrase has all boxes of its entity: `extra["odvg_region"]` numbers the phrases of the sentence, as two of
        them may have the same words; `extra` also has the entity and the types.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file of another form; with file and line.
    """
    folder = Path(folder)
    listed = folder / f"{split}.txt"
    names = read_text(listed).split()
    if not names:
        raise ValueError(f"{listed}: expected the number of a picture in each line, got none")
    with located(listed):
        for name in names:
            if "/" in check_file_name(name):
                raise ValueError(f"expected the number of a picture, got {name!r:.40}")
    return Dataset(tuple(record for name in names for record in _read_picture(folder, name)))


def parse_sentence(line: str) -> tuple[str, list[Phrase]]:
    """A line without its brackets, and its phrases in their order.

    Raises:
        ValueError: a bracket that is not closed, a phrase without an entity or without words.
    """
    words: list[str] = []
    phrases: list[Phrase] = []
    start, mark = 0, ""
    for token in line.split():
        if mark:
            closes = token.endswith("]")
            words += [token[:-1]] if closes else [token]
            if closes:
                entity, *types = mark.removeprefix(MARK).split("/")
                text = " ".join(words[start:]).strip()
                if not entity or not types or not text:
                    raise ValueError(f"expected [/EN#number/type words], got {f'{mark} {text}]'!r:.80}")
                phrases.append(Phrase(text, entity, tuple(types)))
                mark = ""
        elif token.startswith(MARK):
            start, mark = len(words), token
        else:
            words.append(token)
    if mark:
        raise ValueError(f"expected a ']' that closes the phrase, got {f'{mark} ...'!r:.80}")
    return " ".join(words), phrases


def _read_picture(folder: Path, name: str) -> Iterator[ImageRecord]:
    annotations = folder / "Annotations" / f"{name}.xml"
    root = _parse(annotations)
    with located(annotations):
        size = root.find("size")
        width, height = (_whole(size, side) for side in ("width", "height"))
        boxes = _boxes_by_entity(root)
    sentences = folder / "Sentences" / f"{name}.txt"
    for number, line in enumerate(read_text(sentences).split("\n"), start=1):
        with located(f"{sentences}:{number}"):
            caption, phrases = parse_sentence(line)
            found = [
                Box(phrase.text, *corners, extra={REGION: index, ENTITY: phrase.entity, TYPES: list(phrase.types)})
                for index, phrase in enumerate(phrases)
                for corners in boxes.get(phrase.entity, ())
            ]
            if found:
                yield ImageRecord(f"{name}.jpg", width, height, tuple(found), caption, {"sentence": number - 1})


def _parse(path: Path) -> Element:
    try:
        return voc_xml.parse(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _boxes_by_entity(root: Element) -> dict[str, list[Corners]]:
    boxes: dict[str, list[Corners]] = {}
    for number, item in enumerate(root.findall("object"), start=1):
        bounds = item.find("bndbox")
        names = [(name.text or "").strip() for name in item.findall("name")]
        with located(f"object {number}"):
            if not all(names) or not names:
                raise ValueError("expected a <name> with the number of an entity, got none")
            if bounds is not None:
                x1, y1, x2, y2 = (_whole(bounds, edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
                for name in names:
                    boxes.setdefault(name, []).append((x1, y1, x2, y2))
    return boxes


def _whole(parent: Element | None, name: str) -> int:
    text = None if parent is None else parent.findtext(name)
    value = None if text is None else as_whole_number(text)
    if value is None:
        raise ValueError(f"expected <{name}> to be a number of pixels, got {text!r:.40}")
    return value
