"""Pickles of plain values; anything that could run code, or fill the memory, is refused before it is unpickled."""

import os
import pickle
import pickletools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from data_prep.formats import plain_pickle

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.booleans() | st.none()
VALUES = st.recursive(
    NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner, inner, inner),
    max_leaves=20,
)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(tmp_path_factory, value, protocol):
    path = tmp_path_factory.mktemp("pickles") / "value.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert plain_pickle.read(path) == value


def test_a_pickle_of_python_2(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp1\n(dp2\nS'sent'\np3\nS'left man'\np4\nsS'id'\nI7\nsS'raw'\nVcaf\xe9\np5\nsa.")
    assert plain_pickle.read(path) == [{"sent": "left man", "id": 7, "raw": "café"}]


class Malicious:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(tmp_path, protocol):
    victim = tmp_path / "victim"
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([Malicious(os.mkdir, str(victim))], protocol))
    with refused(path, "nothing was run"):
        plain_pickle.read(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    "value", [{1, 2}, frozenset(), b"bytes", bytearray(b"bytes"), complex(1), os.mkdir, Malicious, range(3)]
)
def test_other_types_are_refused(tmp_path, value):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([value]))
    with refused(path, "nothing was run"):
        plain_pickle.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place far beyond what was stored takes gigabytes
        b"]p999999999\n.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",  # a bytearray of a terabyte
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",  # a text of a terabyte
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",  # an extension type
        b"Pid\n.",
    ],
)
def test_bombs_are_refused(tmp_path, data):
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    with refused(path, "") as error:
        plain_pickle.read(path)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x80\x04", b"]", b"(lp1\nS'a'\n", b"}(]K\x01u.", b"a.", b"\x80\x09."]
)
def test_damaged_files(tmp_path, data):
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    with refused(path, ""):
        plain_pickle.read(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        plain_pickle.read(tmp_path / "none.p")


def test_the_instructions_have_the_names_of_pickletools():
    assert {opcode.name for opcode in pickletools.opcodes} >= plain_pickle.PLAIN
    running = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "PERSID"}
    assert not running & plain_pickle.PLAIN
