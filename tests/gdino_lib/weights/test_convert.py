"""Weight files from each layout into each: tensors stay bit for bit, nothing is half-written."""

import pytest
import torch
from peers import captions, hugging_face
from safetensors import safe_open
from safetensors.torch import load_file
from weight_files import MM, OFFICIAL, SMALL, assert_same, model_of, refused

import gdino_lib as gd
from gdino_lib.weights import names as weight_names
from gdino_lib.weights.layouts import from_layout
from gdino_lib.weights.loading import convert, load, read, save

# round trips through files


def test_official_to_our_file_to_official(tmp_path, official, official_file):
    read_back = convert(official_file, tmp_path / "ours.safetensors", "gdino_lib")
    assert read_back.format == "official"
    again = convert(tmp_path / "ours.safetensors", tmp_path / "again.pth", "official")
    assert again.config == OFFICIAL
    assert_same(torch.load(tmp_path / "again.pth", weights_only=True)["model"], official)


def test_official_to_port_to_official(tmp_path, official, official_file):
    convert(official_file, tmp_path / "port", "hugging-face")
    convert(tmp_path / "port", tmp_path / "again.pth", "official")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    used = {name: tensor for name, tensor in official.items() if not weight_names.why_unused(name)}
    assert_same({name: again[name] for name in used}, used)
    for name in again.keys() - used.keys():  # what the port does not keep is as in a new file
        assert again[name].shape == official[name].shape
        if name.endswith("relative_position_index"):
            assert torch.equal(again[name], official[name])


def test_unused_tensors_survive_our_file(tmp_path, port_folder):
    convert(port_folder, tmp_path / "ours.safetensors", "gdino_lib")
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert any(name.startswith("unused.model.") for name in file.keys())  # noqa: SIM118
    convert(tmp_path / "ours.safetensors", tmp_path / "again", "hugging-face")
    assert_same(
        read(tmp_path / "again").unused | read(tmp_path / "again").state,
        read(port_folder).unused | read(port_folder).state,
    )


def test_strided_and_shared_tensors_are_written(tmp_path, official):
    state = dict(official)
    state["feat_map.weight"] = state["feat_map.weight"].t().contiguous().t()
    state["bert.encoder.layer.0.attention.self.key.weight"] = state["bert.encoder.layer.0.attention.self.query.weight"]
    torch.save(state, tmp_path / "odd.pth")
    convert(tmp_path / "odd.pth", tmp_path / "ours.safetensors", "gdino_lib")
    convert(tmp_path / "odd.pth", tmp_path / "port", "hugging-face")
    for path in ("ours.safetensors", "port"):
        assert_same(read(tmp_path / path).state, from_layout(state, "official").state)


def test_the_official_layout_holds_ablations_that_its_names_show(tmp_path):
    config = OFFICIAL.replace(fusion=False, text_cross_attention=False, shared_box_head=False)
    config = config.replace(fusion_width=1024)  # a width that nothing has
    model = model_of(config)
    save(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "official.pth", "official")
    again = load(tmp_path / "official.pth", "cpu")
    assert again.config == config
    assert_same(again.state_dict(), model.state_dict())


# transformers' port reads what we write, and the other way round

PROMPTS = [["cat", "remote control"]]


def outputs(model, size=64):
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if isinstance(model, gd.GroundingDINO):
            out = model(pixels, PROMPTS)
            return out.logits, out.boxes
        out = model(pixel_values=pixels, pixel_mask=torch.ones(1, size, size, dtype=torch.long), **captions(PROMPTS))
        length = captions(PROMPTS)["input_ids"].shape[1]
        return out.logits[..., :length], out.pred_boxes


def assert_equal_outputs(ours, theirs):
    for a, b in zip(outputs(ours), outputs(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [SMALL, MM], ids=["small", "mm"])
def test_the_port_loads_what_convert_writes(tmp_path, config):
    from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection

    kind = MMGroundingDinoForObjectDetection if config.scaled_logits else GroundingDinoForObjectDetection
    model = model_of(config)
    save(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "port", "hugging-face")
    peer, report = kind.from_pretrained(tmp_path / "port", output_loading_info=True)
    assert not any(report.values()), report
    assert_equal_outputs(model, peer.eval())


def test_files_for_the_port_are_spelled_as_on_the_hub(tmp_path, port_folder):
    """So that every release of transformers reads them: the names that it writes itself, and second copies."""
    convert(port_folder, tmp_path / "again", "hugging-face")
    port_names = load_file(port_folder / "model.safetensors").keys()
    names = load_file(tmp_path / "again" / "model.safetensors").keys()
    assert port_names <= names
    assert all("bbox_embed." in name for name in names - port_names)


@pytest.mark.parametrize("config", [SMALL, MM], ids=["small", "mm"])
def test_loads_folders_that_the_port_writes(tmp_path, config):
    peer = hugging_face(config)
    peer.save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu")
    assert model.config.replace(logit_epsilon=1e-5) == config
    model.decoder.logit_epsilon = 1e-5
    assert_equal_outputs(model, peer)


# targets


def test_a_refused_conversion_writes_nothing(tmp_path, our_file):
    assert "cannot hold" in refused(convert, our_file, tmp_path / "out.pth", "official")  # 2 heads for the text
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_kept(tmp_path, official_file):
    target = tmp_path / "out.safetensors"
    target.write_text("old")
    assert "exists" in refused(convert, official_file, target, "gdino_lib", kind=FileExistsError)
    (tmp_path / "bad.pth").write_text("bad")
    refused(convert, tmp_path / "bad.pth", target, "gdino_lib", overwrite=True)
    assert target.read_text() == "old"
    convert(official_file, target, "gdino_lib", overwrite=True)
    assert load(target, "cpu").config == OFFICIAL


def test_a_folder_with_other_things_is_never_replaced(tmp_path, official_file):
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("dear")
    for to in ("hugging-face", "gdino_lib", "official"):
        name = home.with_suffix(".safetensors") if to == "gdino_lib" else home
        if name != home:
            name.mkdir()
        refused(convert, official_file, name, to, overwrite=True, kind=FileExistsError)
    assert (home / "diary.txt").read_text() == "dear"
    for _ in range(2):
        convert(official_file, tmp_path / "port", "hugging-face", overwrite=True)
    assert sorted(file.name for file in (tmp_path / "port").iterdir()) == ["config.json", "model.safetensors"]


def test_suffixes_say_what_a_file_is(tmp_path, official_file):
    assert "is a .safetensors file" in refused(convert, official_file, tmp_path / "a.pth", "gdino_lib")
    assert "is a .pth file" in refused(convert, official_file, tmp_path / "a.safetensors", "official")
    assert "is a .safetensors file" in refused(save, gd.GroundingDINO(SMALL), tmp_path / "a.pth")
    assert "unknown layout 'onnx'" in refused(convert, official_file, tmp_path / "a.onnx", "onnx")
    missing = tmp_path / "no" / "a.safetensors"
    assert "does not exist" in refused(convert, official_file, missing, "gdino_lib", kind=FileNotFoundError)
