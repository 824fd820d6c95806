"""Every option for a size refuses numbers of 19 and of 401 digits in one line, before it takes memory."""

import pytest

from gdino_lib.cli.main import main

OPTIONS = [
    ["scenes", "--out", "out", "--count", "N"],
    ["scenes", "--out", "out", "--count", "1", "--size", "N"],
    *(
        ["train", "--train", "a.csv", "--images", ".", "--from-scratch", "nano", "--out", "out", option, "N"]
        for option in ("--epochs", "--batch-size", "--save-every", "--denoising", "--lora-rank", "--short-side")
    ),
]


@pytest.mark.parametrize("arguments", OPTIONS, ids=lambda arguments: f"{arguments[0]} {arguments[-2]}")
@pytest.mark.parametrize("digits", [19, 401])
def test_a_huge_number_is_refused(tmp_path, monkeypatch, capsys, arguments, digits):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    arguments = [argument.replace("N", "9" * digits) if argument == "N" else argument for argument in arguments]
    try:
        status = main(arguments)
    except SystemExit as left:  # argparse
        status = left.code
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    assert "expected" in said
    assert len(said) < 300
    assert not (tmp_path / "out").exists()
