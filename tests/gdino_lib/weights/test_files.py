"""Weight files are read without running what they hold, and written whole or not at all."""

import argparse
import hashlib
import json
import pickle
import random
import shutil
import types
import zipfile
from collections import OrderedDict, defaultdict
from datetime import datetime, timedelta
from pathlib import PosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from torch import nn
from traps import Trap
from weight_files import OFFICIAL, SMALL, assert_same, refused

import gdino_lib as gd
from gdino_lib.weights import pickles
from gdino_lib.weights.files import weights_digest
from gdino_lib.weights.hub import names as names_of_models
from gdino_lib.weights.loading import convert, load, save

# reading


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_not_run(tmp_path, official):
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        file = tmp_path / f"trap{number}.pth"
        torch.save({"model": official, "args": Trap(tmp_path / "sprung")}, file, **options)
        assert "not opened further" in refused(load, file)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(load, tmp_path / "plain.pkl")
    shutil.copy(tmp_path / "trap0.pth", tmp_path / "trap.safetensors")
    refused(load, tmp_path / "trap.safetensors")
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "trap0.pth", tmp_path / "folder" / "pytorch_model.bin")
    refused(load, tmp_path / "folder")
    assert not (tmp_path / "sprung").exists()
    Trap(tmp_path / "sprung").__reduce__()[0](tmp_path / "sprung")
    assert (tmp_path / "sprung").exists()  # the trap does work


@pytest.mark.filterwarnings("ignore")  # torch's, of TorchScript and of sparse tensors
def test_files_with_more_than_tensors(tmp_path, official):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    assert "not opened further" in refused(load, tmp_path / "module.pth")
    torch.save({"model": official, "seen": bytearray(3)}, tmp_path / "bytes.pth")
    assert "more than tensors (bytearray)" in refused(load, tmp_path / "bytes.pth")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert refused(load, tmp_path / "script.pt").endswith("TorchScript archives passed to ``torch.load``")
    for number, content in enumerate(
        (
            [torch.zeros(2)], torch.zeros(2), {}, {"model": {}}, {"feat_map.weight": 3},
            {"feat_map.weight": torch.zeros(2, 2).to_sparse()}, {"feat_map.weight": torch.zeros(2, device="meta")},
        )
    ):  # fmt: skip
        torch.save(content, tmp_path / f"{number}.pth")
        assert "no state dict" in refused(load, tmp_path / f"{number}.pth")


BESIDE = {  # what training scripts keep in a checkpoint
    "options": argparse.Namespace(lr=1e-4, out=PosixPath("/run"), parts=argparse.Namespace(names=["a"])),
    "namespace": types.SimpleNamespace(best=None),
    "pure path": PureWindowsPath("C:/run"),
    "numbers": {"np": np.float64(2.5), "integer": np.int64(3), "flag": np.bool_(True)},
    "arrays": [np.arange(3), np.array(["word"]), np.zeros((2, 2), np.float16)],
    "counts": defaultdict(list, {"loss": [1.0]}),
    "time": (datetime(2023, 3, 9), timedelta(seconds=5)),
    "types": [int, float, str, list, frozenset({1}), range(3), slice(1, 2)],
}


@pytest.mark.parametrize("kept", BESIDE)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "older"])
@pytest.mark.filterwarnings("ignore")  # torch's, of TypedStorage
def test_plain_objects_beside_the_tensors_are_passed_over(tmp_path, official, official_file, kept, options):
    before = torch.serialization.get_safe_globals()
    torch.save({"model": official, "args": BESIDE[kept]}, tmp_path / "training.pth", **options)
    assert_same(load(tmp_path / "training.pth", "cpu").state_dict(), load(official_file, "cpu").state_dict())
    assert torch.serialization.get_safe_globals() == before  # other code's files are none of ours


@pytest.mark.parametrize("name", [*pickles.SKIPPED, *pickles.MAPPINGS])
def test_a_known_type_is_never_made_itself(tmp_path, name):
    """Whatever the file says that it is to be built of, or filled with."""
    module, _, own = name.rpartition(".")
    builds = b"c" + f"{module}\n{own}\n".encode()
    sets = b"}(X\x01\0\0\0aK\x01u" if name in pickles.MAPPINGS else b"}X\x01\0\0\0aK\x01sb"
    for how in (b")\x81", b")R"):  # NEWOBJ, REDUCE
        data = b"\x80\x02" + builds + how + (sets.replace(b"}(", b"(", 1) if name in pickles.MAPPINGS else sets) + b"."
        torch.save({}, tmp_path / "plain.pth")
        with (
            zipfile.ZipFile(tmp_path / "plain.pth") as plain,
            zipfile.ZipFile(tmp_path / "made.pth", "w") as made,
        ):
            for entry in plain.namelist():
                made.writestr(entry, data if entry.endswith("data.pkl") else plain.read(entry))
        content = pickles.read_torch(tmp_path / "made.pth")
        assert type(content) is OrderedDict or (isinstance(content, pickles._Skipped) and not vars(content))


def test_damaged_files(tmp_path, our_file, official_file):
    whole, ours = official_file.read_bytes(), our_file.read_bytes()
    pages = b"<!DOCTYPE html><title>404</title>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    for content in (b"", b"\0", whole[:10], whole[: len(whole) // 2], whole[:-100], *pages, ours):
        (tmp_path / "bad.pth").write_bytes(content)
        assert refused(load, tmp_path / "bad.pth").startswith(f"{tmp_path / 'bad.pth'} ")
    for content in (b"", b"\0", ours[:4], ours[:100], ours[: len(ours) // 2], ours[:-1], *pages, whole):
        (tmp_path / "bad.safetensors").write_bytes(content)
        assert "damaged" in refused(load, tmp_path / "bad.safetensors")


def test_flipped_bytes_are_refused_or_harmless(tmp_path):
    """Whatever a few wrong bytes do to the pickle, the answer is one ValueError or plain tensors."""
    torch.save({"model": {"a": torch.zeros(3), "b": {"c": [1, "x"]}}}, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    generator = random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(3):
            content[generator.randrange(len(content))] = generator.randrange(256)
        (tmp_path / "a.pth").write_bytes(content)
        refused(load, tmp_path / "a.pth")


def test_missing_files(tmp_path):
    assert "no weight file" in refused(load, tmp_path / "nothing.pth", kind=FileNotFoundError)
    assert f"names are {', '.join(names_of_models())}" in refused(load, "huge", kind=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert "expected model.safetensors" in refused(load, tmp_path / "empty", kind=FileNotFoundError)
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "expected model.safetensors" in refused(load, tmp_path / "empty", kind=FileNotFoundError)


def test_a_folder_with_several_files_is_ambiguous(tmp_path, official_file):
    shutil.copy(official_file, tmp_path / "second.pth")
    assert "2 weight files" in refused(load, tmp_path)
    (tmp_path / "second.pth").unlink()
    assert load(tmp_path, "cpu").config == OFFICIAL


def test_loads_shards(tmp_path, port, port_folder):
    port.save_pretrained(tmp_path / "shards", max_shard_size="3MB")
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert_same(load(tmp_path / "shards", "cpu").state_dict(), load(port_folder, "cpu").state_dict())
    shards[0].unlink()
    assert shards[0].name in refused(load, tmp_path / "shards", kind=FileNotFoundError)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    assert "weight_map" in refused(load, tmp_path / "shards")


def test_other_models(tmp_path):
    from torchvision.models import resnet18
    from transformers import BertConfig, BertModel

    torch.save(resnet18().state_dict(), tmp_path / "resnet.pth")
    assert "holds no Grounding DINO: none of its 122 tensors" in refused(load, tmp_path / "resnet.pth")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    assert "holds no Grounding DINO" in refused(load, tmp_path / "bert")
    torch.save({"feat_map.weight": torch.zeros(2, 2)}, tmp_path / "hardly.pth")
    assert "missing" in refused(load, tmp_path / "hardly.pth")


# writing


def test_a_full_disk_leaves_nothing(small_disk, official_file):
    for to, name in (("gdino_lib", "a.safetensors"), ("official", "a.pth"), ("hugging-face", "folder")):
        assert "No space left" in refused(convert, official_file, small_disk / name, to, kind=OSError)
        assert list(small_disk.iterdir()) == []
    (small_disk / "a.safetensors").write_text("old")
    refused(save, gd.GroundingDINO(SMALL), small_disk / "a.safetensors", kind=OSError)
    assert [(file.name, file.read_text()) for file in small_disk.iterdir()] == [("a.safetensors", "old")]


def test_the_digest_of_weights(tmp_path):
    file = tmp_path / "a.pth"
    file.write_bytes(b"weights")
    assert weights_digest(file) == hashlib.sha256(b"weights").hexdigest(), "what sha256sum prints"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_bytes(b"{}")
    assert weights_digest(folder) == weights_digest(file)
    shards = tmp_path / "shards"
    shards.mkdir()
    parts = {"1.safetensors": b"one", "2.safetensors": b"two"}
    for name, data in parts.items():
        (shards / name).write_bytes(data)
    index = {"weight_map": {name: name for name in reversed(parts)}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    both = b"".join(hashlib.sha256(data).digest() for data in parts.values())
    assert weights_digest(shards) == hashlib.sha256(both).hexdigest()
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no weight file in the folder"):
        weights_digest(tmp_path / "none")
