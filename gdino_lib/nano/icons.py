"""Further drawings and further names to train on: free icon sets of other hands.

They come from the npm registry, packed as one JSON file of SVG paths each (Iconify's format); `make nano` fetches them. Nothing of
them is in the package: a trained model keeps no drawing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gdino_lib.nano.drawings import PRESENTATION, SVG
from gdino_lib.nano.pictograms import Pictogram, read_list
from gdino_lib.nano.wordings import naming_words, say_the_same, subjects


class IconSet(NamedTuple):
    """A package, what may be done with it and what is taken from it.

    Attributes:
        version: of the package.
        author: whom the licence wants named.
        licence: its SPDX name.
        styles: endings of the icons to take, removed from their names; "" takes all.
        emojis: the icons are emojis; other icons may show things that no emoji shows.
        private: of the icons, only those at code points of Unicode's private use, where no emoji is.
    """

    version: str
    author: str
    licence: str
    styles: tuple[str, ...] = ("",)
    emojis: bool = False
    private: bool = False


SETS = {
    "twemoji": IconSet("1.2.5", "Twitter", "CC-BY-4.0", emojis=True),
    "fluent-emoji-flat": IconSet("1.2.6", "Microsoft", "MIT", emojis=True),
    "emojione": IconSet("1.2.3", "Emoji One", "CC-BY-4.0", emojis=True),
    "streamline-emojis": IconSet("1.2.4", "Streamline", "CC-BY-4.0", emojis=True),
    "game-icons": IconSet("1.2.4", "game-icons.net", "CC-BY-3.0"),
    "ph": IconSet("1.2.2", "Phosphor Icons", "MIT", ("-fill", "-duotone")),
    "fa6-solid": IconSet("1.2.4", "Fonticons", "CC-BY-4.0"),
    "temaki": IconSet("1.2.6", "the Temaki authors", "CC0-1.0"),
    "streamline-ultimate-color": IconSet("1.2.2", "Streamline", "CC-BY-4.0"),
    "streamline-plump-color": IconSet("1.2.2", "Streamline", "CC-BY-4.0", ("-flat", "")),
    "streamline-kameleon-color": IconSet("1.2.2", "Streamline", "CC-BY-4.0", ("-duo", "")),
    "openmoji": IconSet("1.2.29", "OpenMoji", "CC-BY-SA-4.0", private=True),
}
SIZE = {"left": 0, "top": 0, "width": 16, "height": 16}  # where neither the set nor the icon says otherwise
LONGEST = 4  # words of a name; longer ones describe a screen, not a thing
# no things, but signs of a program's window, directions, brands
NO_THINGS = frozenset(
    """abstract align alignment alt arrow arrows auto bold caret chevron circle cursor diagonal double down exclamation facing
    filter horizontal interface italic left layout line logo minus module num plus right select selection sort square tarot
    text toggle up vertical xmark zoom""".split()  # noqa: SIM905
)


def drawn_by_others(things: Sequence[Pictogram], folder: Path | str) -> tuple[Pictogram, ...]:
    """The same things, each with the drawings that the emoji sets have of its emojis.

    Args:
        folder: has the packages, `<set>/icons.json` each.

    Raises:
        FileNotFoundError: a set is missing.
    """
    found: dict[str, list[str]] = defaultdict(list)  # emoji or name -> drawings
    for name, icon_set in SETS.items():
        if icon_set.emojis:
            icons = dict(_icons(folder, name))
            for code, icon in _characters(folder, name).items():
                if icon in icons:
                    found[code].append(icons.pop(icon))
            for icon, svg in icons.items():  # of sets without code points, by name
                found[_name_of(icon)].append(svg)
    return tuple(
        thing._replace(drawings=thing.drawings + _unique_drawings([*thing.drawings, *thing.wordings], found))
        for thing in things
    )


def further_things(
    folder: Path | str,
    *,
    known: Sequence[Pictogram],
    unseen: Sequence[Pictogram],
    near_twins: Sequence[Pictogram] = (),
) -> tuple[Pictogram, ...]:
    """What the other sets show that `known` has no name for, however spelled, sorted by name.

    Names that an unseen thing or a near-twin of it might bear are left out: a name with a word for what an unseen thing is
    ("top hat": no hat of any kind), a name that `say_the_same`, and the names that `icons_left_out.txt` lists: other words
    for an unseen thing ("spanner" for "wrench"), and drawings that show it, too.

    Args:
        folder: has the packages, `<set>/icons.json` each.
        known: things whose names are taken.
        unseen: things that must not be met under any name.
        near_twins: things that must not be met under their own name, or one that says the same.

    Raises:
        FileNotFoundError: a set is missing.
    """
    taken = {_spelling(wording) for thing in known for wording in thing.wordings}
    forbidden = {subject for thing in unseen for subject in subjects(thing)}
    listed = read_list("icons_left_out.txt")
    left_out = {name for thing in unseen for name in listed.get(thing.name, ())}
    result = []
    for name, drawings in sorted(_further_drawings(folder).items()):
        thing = Pictogram(name, (name,), tuple(drawings))
        if (
            _spelling(name) not in taken
            and name not in left_out
            and re.fullmatch(r"[a-z ]{3,}", name)
            and len(name.split()) <= LONGEST
            and not NO_THINGS.intersection(name.split())
            and naming_words(name)
            and not forbidden.intersection(naming_words(name))
            and not any(say_the_same(thing, other) for other in (*unseen, *near_twins))
        ):
            result.append(thing)
    return tuple(result)


def _further_drawings(folder: Path | str) -> dict[str, list[str]]:
    """{name: drawings} of the sets that are no emojis, in the styles to take."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, icon_set in SETS.items():
        if icon_set.emojis:
            continue
        if icon_set.private:
            codes = _characters(folder, name).items()
            private = {icon for code, icon in codes if unicodedata.category(code[0]) == "Co"}
        for icon, svg in _icons(folder, name):
            if icon_set.private and icon not in private:
                continue
            style = next((style for style in icon_set.styles if icon.endswith(style)), None)
            if style is not None:
                found[_name_of(icon.removesuffix(style))].append(svg)
    return found


def _name_of(icon: str) -> str:
    """From "ghost-2" to "ghost"."""
    return re.sub(r"-\d+$", "", icon).replace("-", " ")


def _spelling(name: str) -> str:
    """The same for "ladybug" and "Lady bug"."""
    return "".join(filter(str.isalnum, name.lower()))


def _unique_drawings(keys: Sequence[str], found: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(svg for key in keys for svg in found.get(key, ())))


def _icons(folder: Path | str, name: str) -> Iterator[tuple[str, str]]:
    """Each icon's name and its SVG file."""
    whole = _read_json(folder, name, "icons.json")
    for icon, entry in whole["icons"].items():
        left, top, width, height = ({**SIZE, **whole, **entry}[key] for key in SIZE)
        yield (
            icon,
            f'{SVG}xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{entry["body"]}</svg>',
        )


def _characters(folder: Path | str, name: str) -> dict[str, str]:
    """{emoji without presentation selectors: icon}."""
    codes = _read_json(folder, name, "chars.json")
    emojis = {"".join(chr(int(code, 16)) for code in key.split("-")): icon for key, icon in codes.items()}
    return {emoji.replace(PRESENTATION, ""): icon for emoji, icon in emojis.items()}


def _read_json(folder: Path | str, name: str, file: str) -> dict:
    path = Path(folder) / name / file
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; `make nano` fetches the icon sets, npm package @iconify-json/{name}")
    return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":  # what `make nano` installs
    print(*(f"@iconify-json/{name}@{icon_set.version}" for name, icon_set in SETS.items()))
