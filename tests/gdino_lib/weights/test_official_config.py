"""The configuration files of the official package: each of them gives a preset, and none is ever executed."""

import pytest
from official_config_file import CONFIG

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.inference import load_model
from gdino_lib.weights.official_config import read_config


def test_configurations_give_the_presets(tmp_path):
    sizes = {
        "enc_layers = 1": "enc_layers = 6",
        "dec_layers = 2": "dec_layers = 6",
        "dim_feedforward = 96": "dim_feedforward = 2048",
        "hidden_dim = 64": "hidden_dim = 256",
        "nheads = 4": "nheads = 8",
        "num_queries = 30": "num_queries = 900",
    }
    text = CONFIG
    for small, full in sizes.items():
        assert small in text
        text = text.replace(small, full)
    for backbone, config in (
        ("swin_T_224_1k", GroundingDINOConfig.tiny()),
        ("swin_B_384_22k", GroundingDINOConfig.base()),
        ("swin_B_224_22k", GroundingDINOConfig.base(swin_window=7)),
        ("swin_L_384_22k", GroundingDINOConfig.large(swin_maps=3, levels=4)),
        ("swin_L_224_22k", GroundingDINOConfig.large(swin_maps=3, levels=4, swin_window=7)),
    ):
        (tmp_path / "config.py").write_text(text.replace("swin_T_224_1k", backbone), "utf-8")
        assert GroundingDINOConfig(**read_config(tmp_path / "config.py")) == config
    four_maps = text.replace("swin_T_224_1k", "swin_L_384_22k").replace("= [1, 2, 3]", "= [0, 1, 2, 3]")
    (tmp_path / "config.py").write_text(four_maps.replace("levels = 4", "levels = 5"), "utf-8")
    assert GroundingDINOConfig(**read_config(tmp_path / "config.py")) == GroundingDINOConfig.large()
    whole = text.replace("sub_sentence_present = True", "sub_sentence_present: bool = False")
    (tmp_path / "config.py").write_text(whole, "utf-8")
    assert read_config(tmp_path / "config.py")["text_mode"] == "whole-sentence"


@pytest.mark.parametrize(
    "line",
    [
        "import os; os.system('touch executed')",
        "from os import system",
        "x = open('executed', 'w')",
        "x = __import__('os').system('touch executed')",
        "x = [1, (lambda: open('executed', 'w'))()]",
        'x = f\'{open("executed", "w")}\'',
        "open('executed', 'w')",
        "x = enc_layers * 2",
        "x, y = 1, 2",
        "x += 1",
        "x: int",
        "num_queries: int = open('executed', 'w')",
        "class A: pass",
        "def f(): pass",
        "if True: x = 1",
        "@open('executed', 'w')\ndef f(): pass",
        "nheads == 4",
        "del nheads",
        "x = " + "-" * 5000 + "1",
        "x = " + "[" * 5000,
        "x = 'unfinished",
        "x = \0",
        "_base_ = ['other.py']",
    ],
    ids=lambda line: line[:40].replace("\0", "NUL"),
)
def test_configurations_are_never_executed(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG + line + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"config\.py") as error:
        load_model("config.py", "absent.pth")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    assert [file.name for file in tmp_path.iterdir()] == ["config.py"]
