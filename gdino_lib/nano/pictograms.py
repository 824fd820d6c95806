"""Named pictograms: the things that the embedded model learns to find, and the things held out from its training.

The drawings are glyphs of OpenMoji's colour font. The names and further wordings come from the package `emoji` and from
Unicode. `pip install 'gdino_lib[scenes]'` installs the font and the package.

    All emojis designed by OpenMoji, the open-source emoji and icon project (openmoji.org). License: CC BY-SA 4.0.

If you publish pictures that contain these drawings, you must add this line and use the same licence.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from gdino_lib.nano.drawings import PRESENTATION, characters, package_folder

ATTRIBUTION = "All emojis designed by OpenMoji - the open-source emoji and icon project. License: CC BY-SA 4.0"
NEWEST = 17  # latest version of the emoji standard that the font covers
NAMED_BY_UNICODE = 13  # latest version whose characters every supported Python can name

# signs that are letters, words or numbers: (c), TM, i, M, negative and squared letters, BACK to TOP, abc, ATM, WC, 18, 100
LETTERS = re.compile(
    "[\u00a9\u00ae\u2122\u2139\u24c2\u3297\u3299\U0001f170-\U0001f251\U0001f519-\U0001f524\U0001f3e7\U0001f6be\U0001f51e\U0001f4af]"
)
# flags, skin tones, keycaps
LEFT_OUT = re.compile("[\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\u20e3\U000e0020-\U000e007f]")
GROUP = re.compile(r"(family|kiss|couple with heart)( (man|woman|adult|child|boy|girl))+")
SQUARE = re.compile(
    r"(black|white) (large|medium|medium-small|small) square"
)  # one thing, because sizes vary in scenes
GENDERED = re.compile(r"(man|woman|men|women) .+|(bald|deaf|pregnant) (man|woman)")
UNKIND = {"harambe", "hankey", "shit"}  # joke aliases from GitHub
HAIR = re.compile(r"(man|woman|person) (bald|beard|red hair|curly hair|blond hair|white hair)")
COLOURED = re.compile(r"\b(black|white|red|orange|yellow|green|blue|purple|brown|pink|gr[ae]y|blond|light blue|gold)\b")
# things whose mirror image is wrong or another thing: "left" and "right", clocks, phases of the moon, curves, writing
SIDED = re.compile(
    r"(?<![a-z])(left|right)|\b(arrow|clock|thirty|oclock|o'clock|(anti)?clockwise|waning|waxing|quarter|crescent|reverse|forward|"
    r"track|play|tilted|west|east|chart|medal|calendar|date|newspaper|abacus|banknote|dollar|yen|euro|pound|question|"
    r"playing card)s?\b",
    re.IGNORECASE,
)
# things that are another thing when they are turned
UPRIGHT = re.compile(
    r"\b(arrow|up|upwards|down|upside|index|clock|thirty|o.clock|moon|cross|plus|multiply|button|square|thumbs)\b"
)


class Pictogram(NamedTuple):
    """A thing that can be drawn.

    Attributes:
        name: English, in lower case except for proper names; no two names tokenise alike.
        wordings: phrases that a prompt may use for the thing, the name first; no wording belongs to two things.
        drawings: emojis that show the thing ("cat" and "cat face", women and men), then whole SVG files from the sets of
            `gdino_lib.nano.icons`.
    """

    name: str
    wordings: tuple[str, ...]
    drawings: tuple[str, ...]

    @property
    def may_flip(self) -> bool:
        """Whether the mirror image shows the same thing."""
        return not any(SIDED.search(wording) for wording in self.wordings)

    @property
    def may_turn(self) -> bool:
        """Whether it stays the same thing when it is turned by more than a few degrees."""
        return not any(UPRIGHT.search(wording) for wording in self.wordings)

    @property
    def is_coloured(self) -> bool:
        """Whether a wording names its colour."""
        return any(COLOURED.search(wording) for wording in self.wordings)


@lru_cache(1)
def pictograms() -> tuple[Pictogram, ...]:
    """All named things that the font draws, sorted by name.

    Skin tones, flags, keycaps, letters, numbers and the variants that face right are left out. Women, men and people who do the
    same are one thing. So are an animal and its face, and squares of one colour.

    Raises:
        ValueError: a package of the extra `scenes` is not installed.
    """
    source = package_folder("emoji") / "unicode_codes" / "emoji.json"
    emojis = json.loads(source.read_text("utf-8"))
    glyphs = characters()
    found: dict[str, tuple[list[str], list[str]]] = {}  # name -> (wordings, drawings)
    kept = {
        text: entry
        for text, entry in emojis.items()
        if entry["status"] == 2  # "fully qualified", which is Unicode's term for the complete form
        and float(entry["E"]) <= NEWEST
        and text.replace(PRESENTATION, "") in glyphs
        and not LEFT_OUT.search(text)
        and not LETTERS.search(text)
        and "facing_right" not in entry["en"]
    }
    names = {_spell_out(entry["en"]) for entry in kept.values()}
    for text, entry in kept.items():
        own = _spell_out(entry["en"])
        name = _common_name(own, names)
        wordings, drawings = found.setdefault(name, ([name], []))
        drawings.append(text.replace(PRESENTATION, ""))
        says_more = own != name and any(rule.fullmatch(own) for rule in (GENDERED, GROUP, SQUARE))
        if not says_more:  # "woman running" does not fit every drawing of "person running"
            wordings += [own, *map(_spell_out, entry.get("alias", ())), *_unicode_name(text, entry, own)]
    return _with_distinct_wordings(found)


@lru_cache(1)
def unseen() -> tuple[Pictogram, ...]:
    """The things that no training scene shows and no training prompt names; `pictograms_unseen.txt` lists them."""
    wanted = unseen_names()
    return tuple(pictogram for pictogram in pictograms() if pictogram.name in wanted)


@lru_cache(1)
def seen() -> tuple[Pictogram, ...]:
    """The things to learn from: all except the unseen things and their near-twins."""
    out = {pictogram.name for pictogram in (*unseen(), *near_twins())}
    return tuple(pictogram for pictogram in pictograms() if pictogram.name not in out)


@lru_cache(1)
def near_twins() -> tuple[Pictogram, ...]:
    """The things that training does not show either, because they resemble unseen things; use them to choose between models.

    Icons of other sets may show a near-twin under another name, for example a dog's head. Training leaves out only the icons
    that `gdino_lib.nano.icons.further_things` leaves out.
    """
    wanted = {name for twins in unseen_names().values() for name in twins}
    return tuple(pictogram for pictogram in pictograms() if pictogram.name in wanted - unseen_names().keys())


@lru_cache(1)
def unseen_names() -> dict[str, tuple[str, ...]]:
    """{unseen name: its near-twins}, as `pictograms_unseen.txt` lists them."""
    return read_list("pictograms_unseen.txt")


def read_list(file: str) -> dict[str, tuple[str, ...]]:
    """{name: other names} of a file in this folder; its lines are "name: other, other", or comments that begin with "#"."""
    text = files("gdino_lib.nano").joinpath(file).read_text("utf-8")
    entries = [line.partition(":") for line in text.splitlines() if not line.startswith("#")]
    return {name: tuple(filter(None, twins.strip().split(", "))) for name, _, twins in entries}


def _spell_out(name: str) -> str:
    """The words of an alias: "smiling face with heart-eyes" for ":smiling_face_with_heart-eyes:"."""
    name = name.strip(":").replace("_", " ").replace("\u2019", "'").replace(".", "")
    name = re.sub(r" ?[()!]", "", name)
    return HAIR.sub(
        lambda match: f"{match[2]} {match[1]}" if match[2] == "bald" else f"{match[1]} with {match[2]}", name
    )


def _common_name(name: str, names: set[str]) -> str:
    """The name that all drawings of the same thing share."""
    if match := GROUP.fullmatch(name):
        return match[1]
    if match := SQUARE.fullmatch(name):
        return f"{match[1]} square"
    if name.endswith(" face") and name.removesuffix(" face") in names:  # "cat face"
        return name.removesuffix(" face")
    for gender, people in (("man", "person"), ("woman", "person"), ("men", "people"), ("women", "people")):
        rest = re.sub(rf"^{gender} ", "", name)
        if rest != name:
            for common in (f"{people} {rest}", rest):
                if common in names:
                    return common
        common = re.sub(rf"^(bald|deaf|pregnant) {gender}$", rf"\1 {people}", name)
        if common != name and common in names:
            return common
    return name


def _unicode_name(text: str, entry: dict, name: str) -> list[str]:
    """[Unicode's name], often a description such as "face with open mouth and cold sweat"; [] if no name fits the drawing."""
    text = text.replace(PRESENTATION, "")
    if len(text) > 1 or float(entry["E"]) > NAMED_BY_UNICODE:
        return []
    words = unicodedata.name(text).lower()
    if not COLOURED.search(name):  # in Unicode's names, "black" means filled and "white" means outlined
        words = re.sub(r"\b(black|white|negative|heavy) ", "", words)
    words = re.sub(r" (sign|symbol|ornament)$", "", words)
    return [] if re.search(r"ideograph|katakana|latin", words) else [words]


def _with_distinct_wordings(found: dict[str, tuple[list[str], list[str]]]) -> tuple[Pictogram, ...]:
    """Pictograms made of {name: (wordings, drawings)}, without wordings that several things share or that are not words."""
    owners = defaultdict(set)
    for name, (wordings, _) in found.items():
        for wording in wordings:
            owners[_normalised(wording)].add(name)
    names = {_normalised(name) for name in found}

    def is_own(wording: str, name: str) -> bool:
        letters = _normalised(wording)
        if letters in names:
            return letters == _normalised(name)
        return (
            len(owners[letters]) == 1
            and len(letters) > 2
            and wording not in UNKIND
            and not re.search(r"[0-9]|^u[0-9a-f]{4}$|^[-+]", wording)
        )

    result = []
    for name, (wordings, drawings) in sorted(found.items()):
        first: dict[str, str] = {}
        for wording in wordings:
            if wording == name or is_own(wording, name):
                first.setdefault(_normalised(wording), wording)
        result.append(Pictogram(name, tuple(first.values()), tuple(sorted(set(drawings)))))
    return tuple(result)


def _normalised(wording: str) -> str:
    """A key that is equal for all spellings that the tokenizer cannot tell apart."""
    plain = unicodedata.normalize("NFKD", wording.lower())  # the tokenizer also drops accents
    return re.sub(r"[^a-z0-9]", "", plain)
