"""Further drawings and further things from icon sets in Iconify's JSON format."""

import json
import random
import re

import numpy as np
import pytest

from gdino_lib.nano import drawings, icons, pictograms, scenes, sprites
from gdino_lib.nano.pictograms import Pictogram
from gdino_lib.nano.scene_dataset import SceneDataset

SQUARE = '<path fill="#c00" d="M2 4h12v8H2z"/>'
SHADE = '<path fill="currentColor" d="M2 4h12v8H2z"/>'
CAT = Pictogram("cat", ("cat", "feline"), ("\N{CAT}",))
HAT = Pictogram("top hat", ("top hat",), ("\N{TOP HAT}",))


@pytest.fixture
def folder(tmp_path):
    """A folder with all sets; a few of them hold icons."""
    contents = {name: {} for name in icons.SETS}
    contents["twemoji"] = {"cat": SQUARE, "top-hat": SQUARE}
    contents["emojione"] = {"feline": SHADE, "cat-3": SHADE + " "}
    contents["game-icons"] = {
        "anvil": SHADE,
        "cat": SHADE,
        "fur-hat": SHADE,
        "card-10-spades": SHADE,
        "arrow-up": SHADE,
    }
    contents["ph"] = {"anvil-fill": SQUARE, "anvil-thin": SHADE, "black-small": SHADE, "rocket-on-a-high-table": SHADE}
    for name, bodies in contents.items():
        (tmp_path / name).mkdir()
        entries = {icon: {"body": body} for icon, body in bodies.items()}
        (tmp_path / name / "icons.json").write_text(json.dumps({"icons": entries, "width": 20}))
        codes = {"1f408": "cat", "1f3a9-fe0f": "top-hat"} if name == "twemoji" else {}
        (tmp_path / name / "chars.json").write_text(json.dumps(codes))
    return tmp_path


def test_icons_match_emojis_by_code_point_or_by_name(folder):
    cat, hat = icons.drawn_by_others([CAT, HAT], folder)
    assert cat.drawings[0] == "\N{CAT}"
    assert [SHADE in drawing for drawing in cat.drawings[1:]] == [False, True, True]
    assert len(hat.drawings) == 2
    assert cat.wordings == CAT.wordings


def test_further_things_exclude_known_names_and_unseen_things(folder):
    (anvil,) = icons.further_things(folder, known=[CAT], unseen=[HAT])
    assert anvil.name == "anvil"
    assert [SQUARE in drawing for drawing in anvil.drawings] == [False, True], (
        "one drawing of each set, in the styles of SETS"
    )
    names = {thing.name for thing in icons.further_things(folder, known=[], unseen=[])}
    assert names == {"anvil", "cat", "fur hat"}


def test_a_near_twin_excludes_only_names_that_say_the_same(folder):
    any_hat = Pictogram("hat", ("hat",), ())
    for twin, names in ((HAT, {"anvil", "cat", "fur hat"}), (any_hat, {"anvil", "cat"})):
        found = icons.further_things(folder, known=[], unseen=[], near_twins=[twin])
        assert {thing.name for thing in found} == names, twin.name


def test_a_known_name_is_recognised_in_any_spelling(folder):
    spelled = Pictogram("Furhat", ("Furhat",), ())
    assert {thing.name for thing in icons.further_things(folder, known=[spelled], unseen=[])} == {"anvil", "cat"}


def test_synonyms_of_an_unseen_thing_are_left_out(folder):
    path = folder / "game-icons" / "icons.json"
    found = json.loads(path.read_text())
    found["icons"]["spanner"] = found["icons"]["anvil"]
    path.write_text(json.dumps(found))
    wrench = next(thing for thing in pictograms.unseen() if thing.name == "wrench")
    for unseen, names in ((HAT, {"anvil", "cat", "spanner"}), (wrench, {"anvil", "cat", "fur hat"})):
        assert {thing.name for thing in icons.further_things(folder, known=[], unseen=[unseen])} == names


def test_only_private_openmoji_icons_are_further_things(folder):
    entries = {"narwhal": {"body": SQUARE}, "unicorn": {"body": SQUARE}}
    (folder / "openmoji" / "icons.json").write_text(json.dumps({"icons": entries}))
    (folder / "openmoji" / "chars.json").write_text(json.dumps({"e009": "narwhal", "1f984": "unicorn"}))
    assert {thing.name for thing in icons.further_things(folder, known=[CAT], unseen=[HAT])} == {"anvil", "narwhal"}


def test_the_list_of_icons_to_leave_out_names_only_unseen_things():
    listed = pictograms.read_list("icons_left_out.txt")
    assert set(listed) <= {thing.name for thing in pictograms.unseen()}
    assert all(names and all(re.fullmatch(r"[a-z ]{2,}", name) for name in names) for names in listed.values())


def test_a_missing_set_is_named(folder):
    (folder / "temaki" / "icons.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"temaki.icons\.json: no such file; `make nano` downloads"):
        icons.further_things(folder, known=[], unseen=[])


def test_an_icon_is_drawn_and_cropped(folder):
    (anvil,) = icons.further_things(folder, known=[CAT], unseen=[HAT])
    image = drawings.draw(anvil.drawings[1], 48)
    assert image.width == 48
    assert image.height == pytest.approx(32, abs=2)
    assert image.getpixel((24, 16)) == (204, 0, 0, 255)


def test_an_icon_without_colour_gets_a_random_colour(folder):
    shade = Pictogram("anvil", ("anvil",), icons.further_things(folder, known=[CAT], unseen=[HAT])[0].drawings[:1])
    colours = set()
    for index in range(6):
        scene = scenes.draw_scene(index, seed=0, size=96, things=[shade], most=1)
        pixels = np.asarray(scene.image)[scene.masks[0]]
        colours.add(tuple(np.median(pixels, 0)))
    assert len(colours) == 6


@pytest.mark.parametrize("own", [0.0, 0.5, 0.75, 1.0])
def test_own_is_the_probability_of_the_fonts_drawing(folder, own):
    (cat,) = icons.drawn_by_others([CAT], folder)
    rng = random.Random(0)
    drawn = [sprites.choose_drawing(rng, cat, own) for _ in range(400)]
    assert abs(sum(drawing == "\N{CAT}" for drawing in drawn) / 400 - own) < 0.1


def test_weights_decide_how_often_a_thing_is_shown():
    drawn = [
        box.label
        for index in range(60)
        for box in scenes.draw_scene(
            index, seed=1, size=128, things=[CAT, HAT], cum_weights=[0.9, 1.0], most=3
        ).record.boxes
    ]
    assert 0.75 < drawn.count("cat") / len(drawn) < 1
    with pytest.raises(ValueError, match="one weight for each thing, got 2 things, 1 weights"):
        SceneDataset([CAT, HAT], 4, batch_size=2, weights=[1.0])
