"""The XML of Pascal VOC: read in any encoding that Python knows, without entities, and written so that types survive.

A plain element holds text or other elements. A value of any other type (a number, true, null, a list of numbers) is written
as JSON into an element with the attribute `data_prep="json"`, which other programs ignore:
`<iscrowd data_prep="json">0</iscrowd>`.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree  # builds and writes only; reading goes through defusedxml
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from data_prep.formats.json_text import decode, encode
from data_prep.pictures import not_a_file

DEEPEST = 50  # most levels of nested elements in a field
MARK = "data_prep"
"""The attribute of an element whose text is JSON."""
DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
NATIVE = frozenset({"iso-8859-1", "us-ascii", "utf-8", "utf-16", "utf-16be", "utf-16le"})
"""The encodings that the parser decodes itself; it would read any other encoding as one byte per character."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse(path: Path, root_tag: str = "annotation") -> Element:
    """Parse a file and return its outermost element, `<annotation>` or another `root_tag`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: `path` is not a file, or the file is not XML, has entities or a document type, or begins with another
            element. The message does not name the path.
        OSError: the file is not readable.
    """
    if not path.is_file():
        if not path.exists() and not path.is_symlink():
            raise FileNotFoundError(f"no annotation file at {path}")
        raise ValueError(not_a_file(path))
    data = path.read_bytes()
    try:
        root = _parse(data)
    except DefusedXmlException as error:
        raise ValueError(f"document types and entities are refused ({type(error).__name__})") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"not readable as XML: {error}") from None
    if root.tag != root_tag:
        raise ValueError(f"expected <{root_tag}> as the outermost element, got <{root.tag[:40]}>")
    return root


def _parse(data: bytes) -> Element:
    declared = DECLARED.match(data)
    name = declared[1].decode("ascii").lower() if declared else "utf-8"
    # the parser ignores the declared encoding of a document that is already decoded
    document = data if name in NATIVE else data.decode(name)
    return defusedxml.ElementTree.fromstring(document, forbid_dtd=True)


def values(element: Element, without: tuple[str, ...], note: Callable[[str], None]) -> dict[str, Any]:
    """An element's attributes and children as plain values; children with the same name become a list.

    Args:
        element: the element to read.
        without: names of children to skip, because the caller reads them itself.
        note: is called with a message for each child that cannot be read; that child is left out.
    """
    read = []
    for child in element:
        if child.tag not in without:
            try:
                read.append((child.tag, _value(child, DEEPEST)))
            except ValueError as error:
                note(f"<{child.tag[:40]}>: {error}")
    return _joined(element, read)


def fill(parent: Element, fields: Mapping[str, Any], levels: int = DEEPEST) -> None:
    """Add fields to an element so that `values` returns them again.

    Args:
        parent: the element that receives the fields.
        fields: names and values, as `values` returns them.
        levels: most levels of nested elements; a value nested more deeply is written as JSON.

    Raises:
        ValueError: `refusal` names a problem of a field, or JSON cannot represent a value.
    """
    for key, value in fields.items():
        if problem := refusal(key, value):
            raise ValueError(problem)
        if key == "#text":
            parent.text = value
        elif key.startswith("@"):
            parent.set(key[1:], value)
        elif _is_repeated(value, levels):
            for item in value:
                _fill_child(ElementTree.SubElement(parent, key), item, levels)
        else:
            _fill_child(ElementTree.SubElement(parent, key), value, levels)


def refusal(key: str, value: Any) -> str:
    """The reason why XML cannot hold a field; "" if it can."""
    is_attribute = key.startswith("@")
    if (is_attribute or key == "#text") and not _is_text(value):
        return f"the extra field {key!r} has a value that XML cannot hold there; rename or drop it"
    name = key.removeprefix("@")
    if key != "#text" and not NAME.fullmatch(name) and not _is_name(name):
        return f"the extra field {key!r} has a name that XML cannot hold; rename or drop it"
    return ""


@lru_cache(maxsize=1000)
def _is_name(text: str) -> bool:
    """True for an element name with non-ASCII letters that the parser accepts."""
    if not re.fullmatch(r"[^\W\d][\w.-]*", text):
        return False
    try:
        return ElementTree.fromstring(f"<{text}/>").tag == text
    except ElementTree.ParseError:
        return False


def text_of(value: object) -> str:
    """`value` as a string.

    Raises:
        ValueError: it has a character that XML cannot hold.
    """
    if strange := NOT_XML.search(str(value)):
        raise ValueError(f"XML cannot hold the character {strange[0]!r} of {str(value)[:40]!r}")
    return str(value)


def _value(element: Element, levels: int) -> Any:
    text = (element.text or "").strip()
    if not len(element) and not element.attrib:
        return text
    if not len(element) and element.attrib == {MARK: "json"}:
        return decode(text)
    if not levels:
        raise ValueError(f"expected at most {DEEPEST} levels of nested elements, got more")
    fields = _joined(element, [(child.tag, _value(child, levels - 1)) for child in element])
    return fields | {"#text": text} if text else fields


def _joined(element: Element, read: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The attributes of an element, and the values of its children; repeated names become a list."""
    found: dict[str, Any] = {f"@{key}": value for key, value in element.attrib.items()}
    lists: set[str] = set()
    for name, value in read:
        if name in lists:
            found[name].append(value)
        elif name in found:
            found[name] = [found[name], value]
            lists.add(name)
        else:
            found[name] = value
    return found


def _fill_child(child: Element, value: Any, levels: int) -> None:
    if _is_text(value):
        child.text = value
    elif _is_plain(value, levels):
        fill(child, value, levels - 1)
    else:
        child.set(MARK, "json")
        text = encode(value).decode().rstrip("\n")
        child.text = json.dumps(value) if NOT_XML.search(text) else text  # json.dumps escapes what XML cannot hold


def _is_text(value: Any) -> bool:
    """True for a string that `_value` returns unchanged when an element holds it as text."""
    return isinstance(value, str) and value == value.strip() and "\r" not in value and not NOT_XML.search(value)


def _is_plain(value: Any, levels: int) -> bool:
    """True for a mapping that `_value` returns unchanged when each of its values is an element."""
    if not isinstance(value, Mapping) or not levels or set(value) <= {"#text"}:
        return False
    if f"@{MARK}" in value or value.get("#text") == "":
        return False
    return not any(refusal(key, item) for key, item in value.items())


def _is_repeated(value: Any, levels: int) -> bool:
    """True for a list that `values` returns unchanged when each of its items is an element with the same name."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 1
        and all(_is_text(item) or _is_plain(item, levels) for item in value)
    )
