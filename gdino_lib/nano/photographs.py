"""Sets of photographs to train on, in COCO format, and the rule that says which names are certainly absent from a picture.

A name counts as absent from a picture only if the picture's set labels the name everywhere, or if no photograph of any set
shows such a thing. Prompts use no other absent names: a set with one box per picture does not tell what else is in it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.audit import repair_all
from data_prep.formats import coco
from data_prep.records import ImageRecord
from gdino_lib.nano.photograph_names import Names
from gdino_lib.nano.pictograms import read_list

PARTLY_LABELLED = {  # sets whose pictures show things of the sets' own names without a box
    "birds",
    "butterflies",
    "fod",
    "fruit_veg",
    "groceries",
    "gtea_kitchen",
    "helmets",
    "lion",
    "plastic_bottle",
    "tiny_imagenet",
    "tools",
}
NOWHERE = (  # names of pictograms whose things no photograph shows
    "T-Rex",
    "crystal ball",
    "dragon",
    "fairy",
    "flying saucer",
    "genie",
    "ghost",
    "elf",
    "jack-o-lantern",
    "magic wand",
    "mammoth",
    "merperson",
    "mage",
    "moai",
    "ringed planet",
    "rocket",
    "sauropod",
    "troll",
    "unicorn",
    "vampire",
)


@dataclass(frozen=True)
class PhotographSet:
    """A folder of annotated photographs.

    Attributes:
        name: of the folder.
        images: folder that the records' file names are relative to.
        records: repaired; a picture without boxes is kept only if `everywhere` holds names.
        everywhere: names that have a box wherever the set shows such a thing.
    """

    name: str
    images: Path
    records: tuple[ImageRecord, ...]
    everywhere: frozenset[str]


class Absences:
    """Tells which names are certainly absent from a picture.

    Args:
        names: meanings of the names.
        nowhere: names of things that no photograph shows.
    """

    def __init__(self, names: Names, nowhere: Sequence[str] = NOWHERE) -> None:
        self.names, self.nowhere = names, tuple(nowhere)
        self._known: dict[tuple[frozenset[str], frozenset[str]], tuple[str, ...]] = {}

    def of(self, everywhere: frozenset[str], shown: Collection[str]) -> tuple[str, ...]:
        """The names that are certainly absent from a picture: sorted, then those of `nowhere`.

        Args:
            everywhere: names that have a box wherever the picture shows such a thing.
            shown: names of everything that the picture is known to show, with or without a box.
        """
        key = everywhere, frozenset(shown)
        if key not in self._known:
            absent = {name for name in everywhere if not any(self.names.related(name, other) for other in shown)}
            absent |= {narrower for name in absent for narrower in self.names.below(name)}
            absent = {name for name in absent if not any(self.names.related(name, other) for other in shown)}
            self._known[key] = (*sorted(absent), *(name for name in self.nowhere if name not in absent))
        return self._known[key]


def read_set(
    folder: Path | str, held_out: Iterable[str] = (), everywhere: Collection[str] | None = None
) -> PhotographSet:
    """Read `annotations.json` and `images/` of a folder.

    Args:
        folder: the set.
        held_out: names that training must not see; pictures with a box of such a name are left out.
        everywhere: names that have a box wherever the set shows such a thing. None: all categories of the set, or no names if
            `PARTLY_LABELLED` lists the set.

    Raises:
        FileNotFoundError: there is no such set.
        ValueError: the annotations are damaged; the message names the file.
    """
    folder = Path(folder)
    dataset = coco.read(folder / "annotations.json")
    if not (folder / "images").is_dir():
        raise FileNotFoundError(f"{folder / 'images'}: no such folder; expected the photographs in it")
    out = frozenset(held_out)
    if everywhere is None:
        everywhere = () if folder.name in PARTLY_LABELLED else dataset.categories
    repaired, _ = repair_all((record.file_name, record) for record in dataset.images)
    kept = [record for record in repaired if not out & {box.label for box in record.boxes}]
    kept = [record for record in kept if record.boxes or everywhere]
    return PhotographSet(folder.name, folder / "images", tuple(kept), frozenset(everywhere) - out)


def read_sets(folder: Path | str, held_out: Iterable[str] = ()) -> list[PhotographSet]:
    """Read all sets of a folder, sorted by name; a set is a sub-folder with an `annotations.json`.

    Raises:
        FileNotFoundError: the folder holds no set, or a set is incomplete.
        ValueError: the annotations of a set are damaged.
    """
    found = sorted(file.parent for file in Path(folder).glob("*/annotations.json"))
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected folders with annotations.json (COCO format) and images/, found none"
        )
    held_out = tuple(held_out)
    return [read_set(each, held_out) for each in found]


def held_out_names() -> tuple[str, ...]:
    """The twenty names in `photographs_held_out.txt`: no training picture, drawn or photographed, shows such a thing."""
    return tuple(read_list("photographs_held_out.txt"))


def keep_aside(
    photographs: PhotographSet, share: float, seed: str = "kept aside"
) -> tuple[PhotographSet, PhotographSet]:
    """Split a set at random into (training pictures, validation pictures); `share` is that of the latter, 0..1."""
    order = list(range(len(photographs.records)))
    random.Random(f"{seed}/{photographs.name}").shuffle(order)
    aside = set(order[: round(share * len(order))])
    parts = [[r for n, r in enumerate(photographs.records) if (n in aside) == wanted] for wanted in (False, True)]
    rest, kept = (replace(photographs, records=tuple(part)) for part in parts)
    return rest, kept
