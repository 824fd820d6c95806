"""Faults of JSON itself: a COCO file is one value, an ODVG file one value a line, and both name the place."""

import pytest
from refusals import refused

from data_prep.formats import coco, odvg

LINE = '{"filename": "a.jpg", "height": 4, "width": 5, "detection": {"instances": []}}\n'


WORDS = {  # of the message, by what cannot be read
    '{"images": [1 2]}': "invalid JSON",
    '{"images": ': "cut off",
    "[{}]": "expected an object",
    '{"a": 1, "a": 1}': "'a' occurs twice",
    '{"images": [], "info": {"a": 1, "a": 2}}': "'a' occurs twice",
    '{"images": [], "info": NaN}': "NaN",
    '{"images": [], "info": -Infinity}': "-Infinity",
    '{"images": [], "info": 1e999}': "1e999",
    '{"images": ' + "[" * 100_000: "nested too deeply",
}
COLUMN = {'{"images": [1 2]}': ":15", '{"images": ': ":12"}  # where the parser itself stops


@pytest.mark.parametrize("text", WORDS, ids=WORDS.values())
@pytest.mark.parametrize("kind", ["file", "line"])
def test_what_is_no_json_is_named_with_its_place(tmp_path, text, kind):
    path = tmp_path / "set"
    column = COLUMN.get(text, "")
    path.write_text(text if kind == "file" else LINE + text + "\n")
    line = ":2" if kind == "line" else ":1" if column else ""
    with refused(f"{path}{line}{column}", WORDS[text]) as error:
        (coco if kind == "file" else odvg).read(path)
    assert len(str(error.value)) < len(str(path)) + 250
