"""The explorer of chapter 01: the static version in a browser, the live version through its widgets."""

from pathlib import Path

import pytest
from chapter_cells import check_live_cell, execute

NOTEBOOK = Path(__file__).resolve().parents[2] / "book" / "01_sub_sentence_text.ipynb"
NEEDED = [
    "import json",
    "import gdino_lib as gd",
    "def pieces_of",
    "def groups",
    "def who_reads_whom",
    "PROMPTS =",
    "def matrix_table",
    "LOOK =",
]
NEEDED += ["SCRIPT =", "def static_", "def live_"]


@pytest.fixture(scope="module")
def chapter():
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    return execute(NOTEBOOK, NEEDED)


def test_the_live_explorer_follows_its_controls(chapter):
    pytest.importorskip("ipywidgets")
    text, mode, token, words, table = chapter["live_explorer"]().children
    assert words.value == "“circle” reads “red”, “circle”, “.”"
    assert table.value.count("●") == 20
    mode.value = "whole-sentence"
    assert table.value.count("●") == 64
    text.value = "a <b>tiger</b> ."
    assert "<b>" not in table.value
    mode.value, text.value = "sub-sentence", "dog on the left . cat ."
    token.value = token.max
    assert words.value == "“[SEP]” reads “[SEP]”"
    text.value = "cat"  # fewer tokens than the slider's position
    assert (token.max, words.value) == (3, "“[SEP]” reads “[SEP]”")
    for bad in ("", " . . ", "very " * 300):
        text.value = bad
        assert "expected at" in words.value
        assert not table.value
    text.value = "cat . dog ."
    assert table.value.count("●") == 1 + 4 + 4 + 1


@pytest.mark.browser
def test_the_static_explorer_follows_its_controls(chapter, browser):
    requests, errors = [], []
    tab = browser.new_page()
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_content(chapter["static_explorer"]())
    words, dots = tab.locator("#reads-words"), tab.locator("#reads td.y")
    assert words.inner_text() == "“circle” reads “red”, “circle”, “.”"
    assert dots.count() == 20
    tab.get_by_role("combobox", name="Read").select_option("whole-sentence")
    assert dots.count() == 64
    tab.get_by_label("Token").press("End")
    assert words.inner_text().startswith("“[SEP]” reads “[CLS]”, “red”")
    tab.get_by_label("Prompt").select_option("cat . remote control .")
    tab.get_by_role("combobox", name="Read").select_option("word-by-word")
    assert dots.count() == 7
    assert words.inner_text() == "“[SEP]” reads “[SEP]”"
    assert tab.locator("#reads tr.on").count() == 1
    tab.close()
    assert not requests
    assert not errors


def test_the_build_leaves_the_live_explorer_out(chapter, monkeypatch):
    check_live_cell(NOTEBOOK, "live_explorer", chapter, monkeypatch)
