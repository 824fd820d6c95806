"""Sets of photographs to train on: any number of folders in COCO format, and which names are certainly absent from a picture.

A name is absent from a picture only where its set labels the name everywhere, or where no photograph of any set shows such a
thing. Of everything else a prompt says nothing: a set that labels one box a picture does not know what else is there.
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

PARTLY_LABELLED = {  # sets whose pictures show things of their own names without a box
    *("birds", "butterflies", "fod", "fruit_veg", "groceries", "gtea_kitchen", "helmets", "lion", "plastic_bottle"),
    *("tiny_imagenet", "tools"),
}
NOWHERE = (  # pictograms of things that no photograph shows
    *(
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
    ),
    *("mammoth", "merperson", "mage", "moai", "ringed planet", "rocket", "sauropod", "troll", "unicorn", "vampire"),
)


@dataclass(frozen=True)
class PhotographSet:
    """A folder of photographs.

    Attributes:
        name: of the folder.
        images: folder that the records' file names are relative to.
        records: repaired, without crowds; every one has a box, or names that are absent from it.
        everywhere: names that have a box wherever the set shows them.
    """

    name: str
    images: Path
    records: tuple[ImageRecord, ...]
    everywhere: frozenset[str]


class Absences:
    """Which names are certainly absent from a picture.

    Args:
        names: what the names mean.
        nowhere: names of things that no photograph shows.
    """

    def __init__(self, names: Names, nowhere: Sequence[str] = NOWHERE) -> None:
        self.names, self.nowhere = names, tuple(nowhere)
        self._known: dict[tuple[frozenset[str], frozenset[str]], tuple[str, ...]] = {}

    def of(self, everywhere: frozenset[str], shown: Collection[str]) -> tuple[str, ...]:
        """The names that are absent from a picture, sorted; those of `nowhere` last.

        Args:
            everywhere: names that have a box wherever the picture shows them.
            shown: names of all that is known to be in the picture, with or without a box.
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
        held_out: names that training never sees: pictures that show such a thing are left out.
        everywhere: names that are labelled wherever they are to be seen; None: all of the set's, but none of
            `PARTLY_LABELLED`.

    Raises:
        FileNotFoundError, ValueError: no such set, or one that is damaged; the file is named.
    """
    folder = Path(folder)
    dataset = coco.read(folder / "annotations.json")
    if not (folder / "images").is_dir():
        raise FileNotFoundError(f"{folder / 'images'}: no such folder, expected the photographs")
    out = frozenset(held_out)
    if everywhere is None:
        everywhere = () if folder.name in PARTLY_LABELLED else dataset.categories
    repaired, _ = repair_all((record.file_name, record) for record in dataset.images)
    kept = [record for record in repaired if not out & {box.label for box in record.boxes}]
    kept = [record for record in kept if record.boxes or everywhere]
    return PhotographSet(folder.name, folder / "images", tuple(kept), frozenset(everywhere) - out)


def read_sets(folder: Path | str, held_out: Iterable[str] = ()) -> list[PhotographSet]:
    """All sets of a folder, one a sub-folder with an `annotations.json`, by name.

    Raises:
        FileNotFoundError: no set is there.
    """
    found = sorted(file.parent for file in Path(folder).glob("*/annotations.json"))
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected folders with annotations.json and images/, as COCO has them; found none"
        )
    held_out = tuple(held_out)
    return [read_set(each, held_out) for each in found]


def held_out_names() -> tuple[str, ...]:
    """Twenty names of things that no training picture shows, drawn or photographed; `photographs_held_out.txt`."""
    return tuple(read_list("photographs_held_out.txt"))


def keep_aside(
    photographs: PhotographSet, share: float, seed: str = "kept aside"
) -> tuple[PhotographSet, PhotographSet]:
    """(the rest, a seeded share of the pictures kept aside to choose by)."""
    order = list(range(len(photographs.records)))
    random.Random(f"{seed}/{photographs.name}").shuffle(order)
    aside = set(order[: round(share * len(order))])
    parts = [[r for n, r in enumerate(photographs.records) if (n in aside) == wanted] for wanted in (False, True)]
    rest, kept = (replace(photographs, records=tuple(part)) for part in parts)
    return rest, kept
