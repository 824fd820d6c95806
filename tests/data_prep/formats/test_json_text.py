"""Faults of the JSON syntax in COCO files, with one value per file, and ODVG files, with one value per line."""

import pytest
from refusals import refused

from data_prep.formats import coco, odvg

LINE = '{"filename": "a.jpg", "height": 4, "width": 5, "detection": {"instances": []}}\n'


WORDS = {  # {text that cannot be read: words of the message}
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
COLUMN = {'{"images": [1 2]}': ":15", '{"images": ': ":12"}  # {text: column at which the parser stops}


@pytest.mark.parametrize("text", WORDS, ids=WORDS.values())
@pytest.mark.parametrize("kind", ["file", "line"])
def test_the_message_about_invalid_json_names_its_place(tmp_path, text, kind):
    path = tmp_path / "set"
    column = COLUMN.get(text, "")
    path.write_text(text if kind == "file" else LINE + text + "\n")
    line = ":2" if kind == "line" else ":1" if column else ""
    with refused(f"{path}{line}{column}", WORDS[text]) as error:
        (coco if kind == "file" else odvg).read(path)
    assert len(str(error.value)) < len(str(path)) + 250
