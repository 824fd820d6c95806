"""Small files that would take much memory are refused before they take it; each in a process with little of it."""

import json
import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from weight_files import refused

from gdino_lib.weights.files import read_tensors
from gdino_lib.weights.loading import load

SPARE = 2**30  # bytes beyond what Python and PyTorch have taken when the file is opened
LOADING = """
import resource, sys
import torch
from gdino_lib.weights.loading import load
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]),) * 2)
try:
    load(sys.argv[1], "cpu")
except ValueError as error:
    print(error)
"""


class LongArray:
    """Unpickled, it is ten gigabytes of zeros."""

    def __reduce__(self):
        return bytearray, (10**10,)


def deflated(path):
    torch.save({"model": {"feat_map.weight": torch.zeros(100_000_000)}}, path.with_suffix(".large"))
    with (
        zipfile.ZipFile(path.with_suffix(".large")) as large,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in large.namelist():
            small.writestr(entry, large.read(entry))
    path.with_suffix(".large").unlink()
    assert path.stat().st_size < 2_000_000


def repeated(path):
    torch.save({"model": {"feat_map.weight": torch.zeros(1).expand(10**11)}}, path)


def array(path):
    torch.save({"model": {"feat_map.weight": torch.zeros(1)}, "args": LongArray()}, path)


def array_in_the_older_layout(path):
    content = {"model": {"feat_map.weight": torch.zeros(1)}, "args": LongArray()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=False)


def many_layers(path):
    names = [f"decoder.layers.{number}.norm.weight" for number in (0, 10**12)]
    torch.save({"feat_map.weight": torch.zeros(1), **{f"transformer.{name}": torch.zeros(1) for name in names}}, path)


FILES = [deflated, repeated, array, array_in_the_older_layout, many_layers]
SIZES = [
    *({name: 10**9} for name in ("encoder_layers", "decoder_layers", "bert_layers", "short_side", "vocabulary", "points")),
    *({name: 10**9} for name in ("width", "bert_ffn_width", "ffn_width", "text_ffn_width", "fusion_width", "landmarks")),
    *({"queries": 10**19}, {"max_tokens": 10**18}, {"position_temperature": 10**400}, {"swin_window": 10**6}),
    *({"swin_depths": [10**9] * 4}, {"swin_heads": [10**19] * 4}, {"swin_width": 3 * 10**8}, {"bert_width": 12 * 10**7}),
]  # fmt: skip


def load_with_little_memory(path):
    """The one line of the refusal."""
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, str(path), str(SPARE)], capture_output=True, text=True, check=True, timeout=120
    )
    assert ended.stdout.startswith(str(path)), ended.stderr
    assert ended.stdout.count("\n") == 1
    return ended.stdout


@pytest.mark.parametrize("make", FILES)
def test_a_file_that_would_grow_is_refused(tmp_path, make):
    make(tmp_path / "bomb.pth")
    assert "alloc" not in load_with_little_memory(tmp_path / "bomb.pth")


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: next(iter(sizes)))
def test_a_configuration_of_any_size_is_refused(tmp_path, sizes):
    save_file({"a": torch.zeros(3)}, tmp_path / "huge.safetensors", {"gdino_lib": json.dumps(sizes)})
    message = refused(load, tmp_path / "huge.safetensors", "cpu")
    assert "expected" in message or "larger than the file's tensors" in message


def test_configurations_are_refused_before_they_take_memory(tmp_path):
    for number, sizes in enumerate(SIZES[:3] + SIZES[6:8]):
        save_file({"a": torch.zeros(3)}, tmp_path / f"{number}.safetensors", {"gdino_lib": json.dumps(sizes)})
        assert "alloc" not in load_with_little_memory(tmp_path / f"{number}.safetensors")


def test_what_is_not_compressed_is_read(tmp_path):
    torch.save({"model": {"a": torch.arange(3), "b": torch.arange(4).view(2, 2).T}}, tmp_path / "plain.pth")
    assert [tensor.tolist() for tensor in read_tensors(tmp_path / "plain.pth")[0].values()] == [
        [0, 1, 2],
        [[0, 2], [1, 3]],
    ]
