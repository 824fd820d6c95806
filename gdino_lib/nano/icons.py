"""Free icon sets to train on: further drawings of emojis, and further things that no emoji shows.

Each set is an npm package with a JSON file of SVG paths (Iconify's format); `make nano` downloads them. Neither this package
nor a trained model contains a drawing of these sets.
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
    """An icon set: its package, its licence, and which of its icons are used.

    Attributes:
        version: of the package.
        author: whom to credit.
        licence: SPDX identifier.
        styles: suffixes of icon names. Icons with one of these suffixes are used, and the suffix is cut off; "" fits all.
        emojis: the icons draw emojis. The icons of other sets may show things that no emoji shows.
        private: use only icons whose code points are for private use in Unicode; emojis have other code points.
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
SIZE = {"left": 0, "top": 0, "width": 16, "height": 16}  # defaults for a set and an icon that give no value
LONGEST = 4  # words; a longer name describes a computer screen, not a thing
# icon names with one of these words show a control of a program, a direction or a brand, not a thing
NO_THINGS = frozenset(
    """abstract align alignment alt arrow arrows auto bold caret chevron circle cursor diagonal double down exclamation facing
    filter horizontal interface italic left layout line logo minus module num plus right select selection sort square tarot
    text toggle up vertical xmark zoom""".split()  # noqa: SIM905
)


def drawn_by_others(things: Sequence[Pictogram], folder: Path | str) -> tuple[Pictogram, ...]:
    """The same things, each with further drawings of its emojis from the emoji sets.

    Args:
        folder: holds the sets, as `<set>/icons.json` and `<set>/chars.json`.

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
            for icon, svg in icons.items():  # icons without code points are matched by name
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
    """Things that the other icon sets show and whose names, in any spelling, are not among those of `known`; sorted by name.

    Names that may fit an unseen thing or a near-twin are left out. A name is left out if it contains the main word of an
    unseen thing's wording ("top hat" excludes every hat). It is left out if `say_the_same` holds for it and an unseen thing
    or a near-twin. It is also left out if `icons_left_out.txt` lists it: the file holds synonyms of unseen things ("spanner"
    for "wrench") and names of icons that show an unseen thing.

    Args:
        folder: holds the sets, as `<set>/icons.json` and `<set>/chars.json`.
        known: things whose names are taken.
        unseen: things that training must not show under any name.
        near_twins: things that training must not show under their own name or a name for which `say_the_same` holds.

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
    """{name: SVG files} of the sets that do not draw emojis, in the styles that `SETS` names."""
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
    """The name of the thing that an icon shows: "ghost" for "ghost-2"."""
    return re.sub(r"-\d+$", "", icon).replace("-", " ")


def _spelling(name: str) -> str:
    """A key that all spellings of a name share, such as "ladybug" and "Lady bug"."""
    return "".join(filter(str.isalnum, name.lower()))


def _unique_drawings(keys: Sequence[str], found: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(svg for key in keys for svg in found.get(key, ())))


def _icons(folder: Path | str, name: str) -> Iterator[tuple[str, str]]:
    """The name and the SVG file of each icon of a set."""
    whole = _read_json(folder, name, "icons.json")
    for icon, entry in whole["icons"].items():
        left, top, width, height = ({**SIZE, **whole, **entry}[key] for key in SIZE)
        yield (
            icon,
            f'{SVG}xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{entry["body"]}</svg>',
        )


def _characters(folder: Path | str, name: str) -> dict[str, str]:
    """{emoji without presentation selectors: name of its icon}."""
    codes = _read_json(folder, name, "chars.json")
    emojis = {"".join(chr(int(code, 16)) for code in key.split("-")): icon for key, icon in codes.items()}
    return {emoji.replace(PRESENTATION, ""): icon for emoji, icon in emojis.items()}


def _read_json(folder: Path | str, name: str, file: str) -> dict:
    path = Path(folder) / name / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `make nano` downloads the icon sets (npm: @iconify-json/{name})"
        )
    return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":  # print the npm packages that `make nano` installs
    print(*(f"@iconify-json/{name}@{icon_set.version}" for name, icon_set in SETS.items()))
