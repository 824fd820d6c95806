"""ODinW, "object detection in the wild": 35 small sets of COCO form, 13 of which make the smaller benchmark.

The table has the folder of each set as GLIP's download names it, and the words that GLIP's authors wrote for classes whose names
say little. These words are an option, because a result with words that were written for a data set is no longer zero-shot in the
strict sense. Our score of "penguin, which is black and white" is the mean over all its words; GLIP's counts "penguin" alone.

Sources: Li et al., GLIP, arXiv 2112.03857; Li et al., ELEVATER, arXiv 2204.08790; the configurations `odinw_13` and `odinw_35` of
https://github.com/microsoft/GLIP and `configs/odinw` of https://github.com/open-mmlab/mmdetection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gdino_lib.weights.files import read_json

SPLITS = ("valid", "test", "mini_val")
FILES = ("annotations_without_background.json", "_annotations.coco.json")
PROMPTS = "prompts.json"


@dataclass(frozen=True)
class OdinwSet:
    """One set.

    Attributes:
        name: of the set, and its folder below the root of the download.
        inner: the folder below that one in which the set is.
        is_export: the annotation files of all splits stand in one folder with the images.
        in_13: whether the set belongs to ODinW-13, too.
        wordings: GLIP's words for a class.
    """

    name: str
    inner: str = ""
    is_export: bool = False
    in_13: bool = False
    wordings: Mapping[str, str] = field(default_factory=dict)

    def annotations(self, root: Path, split: str) -> Path:
        """The annotation file of a split; the images are beside it.

        GLIP evaluates the larger sets on "mini_val". A set without this split has "valid" in its place.
        """
        folder = root / self.name / self.inner
        if self.is_export:
            return folder / f"{'test' if split == 'test' else 'val'}_{FILES[0]}"
        if split == "mini_val" and not (folder / split).is_dir():
            split = "valid"
        return folder / split / FILES[0]


_PIECES = ("bishop", "king", "knight", "pawn", "queen", "rook")

SETS = (
    OdinwSet("AerialMaritimeDrone/large", in_13=True),
    OdinwSet("AerialMaritimeDrone/tiled"),
    OdinwSet("AmericanSignLanguageLetters", "American Sign Language Letters.v1-v1.coco"),
    OdinwSet(
        "Aquarium",
        "Aquarium Combined.v2-raw-1024.coco",
        in_13=True,
        wordings={
            "penguin": "penguin, which is black and white",
            "puffin": "puffin with orange beaks",
            "stingray": "stingray which is flat and round",
        },
    ),
    OdinwSet("BCCD", "BCCD.v3-raw.coco"),
    OdinwSet("boggleBoards", "416x416AutoOrient/export", is_export=True),
    OdinwSet("brackishUnderwater", "960x540"),
    OdinwSet(
        "ChessPieces",
        "Chess Pieces.v23-raw.coco",
        wordings={f"{colour}-{piece}": f"{colour} {piece}" for colour in ("black", "white") for piece in _PIECES},
    ),
    OdinwSet("CottontailRabbits", in_13=True, wordings={"Cottontail-Rabbit": "rabbit"}),
    OdinwSet("dice", "mediumColor/export", is_export=True),
    OdinwSet("DroneControl", "Drone Control.v3-raw.coco"),
    OdinwSet("EgoHands/generic", in_13=True, wordings={"hand": "hand of a person"}),
    OdinwSet("EgoHands/specific"),
    OdinwSet("HardHatWorkers", "raw"),
    OdinwSet("MaskWearing", "raw"),
    OdinwSet("MountainDewCommercial"),
    OdinwSet(
        "NorthAmericaMushrooms",
        "North American Mushrooms.v1-416x416.coco",
        in_13=True,
        wordings={"CoW": "flat mushroom", "chanterelle": "yellow mushroom"},
    ),
    OdinwSet("openPoetryVision", "512x512"),
    OdinwSet("OxfordPets/by-breed"),
    OdinwSet("OxfordPets/by-species"),
    OdinwSet("PKLot", "640"),
    OdinwSet("Packages", "Raw", in_13=True, wordings={"package": "there is a package on the porch"}),
    OdinwSet("PascalVOC", in_13=True),
    OdinwSet("pistols", "export", is_export=True, in_13=True),
    OdinwSet("plantdoc", "416x416"),
    OdinwSet("pothole", in_13=True, wordings={"pothole": "there are some holes on the road"}),
    OdinwSet("Raccoon", "Raccoon.v2-raw.coco", in_13=True),
    OdinwSet("selfdrivingCar", "fixedLarge/export", is_export=True),
    OdinwSet("ShellfishOpenImages", "raw", in_13=True),
    OdinwSet("ThermalCheetah"),
    OdinwSet("thermalDogsAndPeople", in_13=True),
    OdinwSet("UnoCards", "raw"),
    OdinwSet("VehiclesOpenImages", "416x416", in_13=True),
    OdinwSet("WildfireSmoke"),
    OdinwSet("websiteScreenshots"),
)
"""ODinW-35; those with `in_13` are ODinW-13."""


def find_sets(root: Path, split: str) -> dict[str, Path]:
    """The annotation files of a folder of COCO-form sets, by the names of its sub-folders.

    A sub-folder is a set if it has `SPLIT/annotations_without_background.json`, `SPLIT/_annotations.coco.json`, one of these two
    files itself, or `annotations.json`. The images are beside the file, or in a folder `images` there.

    Raises:
        FileNotFoundError: `root` is no folder, or has no such sub-folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder, expected sub-folders with COCO files")
    names = [*(f"{split}/{file}" for file in FILES), *FILES, "annotations.json"]
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = [folder / name for name in names if (folder / name).is_file()]
        if files:
            found[folder.name] = files[0]
    if not found:
        raise FileNotFoundError(f"{root}: no sub-folder has one of {', '.join(names)}")
    return found


def read_wordings(root: Path) -> dict[str, dict[str, str]]:
    """The words of `prompts.json` in a folder of sets, {set: {class: words}}; none without such a file.

    Raises:
        ValueError: the file has another form.
    """
    path = root / PROMPTS
    wordings = read_json(path) if path.is_file() else {}
    for name, own in wordings.items():
        if not isinstance(own, dict) or not all(isinstance(words, str) for words in own.values()):
            raise ValueError(f"{path}: expected {{set: {{class: words}}}}, got {name!r}: {own!r:.60}")
    return wordings
