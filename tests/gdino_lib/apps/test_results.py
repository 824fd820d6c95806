"""When a folder of results may be replaced."""

from pathlib import Path

from detect_runs import TABLES, detect, files, picture


def test_results_are_replaced_only_when_asked(work, capsys):
    picture("a.png")
    picture("b.png")
    assert detect("a.png") == 0
    before = Path("detections/detections.json").read_bytes()
    assert detect("b.png") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert Path("detections/detections.json").read_bytes() == before
    assert detect("b.png", "--overwrite") == 0
    assert files() == {*TABLES, "b.png"}
    Path("detections/mine.txt").write_text("no run wrote this")
    capsys.readouterr()
    assert detect("a.png", "--overwrite") == 2
    assert capsys.readouterr().err == (
        "error: 'detections' holds 'mine.txt', which no run wrote; choose another folder with --out\n"
    )
    picture("photographs/holiday.png")
    assert detect("a.png", "--out", "photographs", "--overwrite") == 2
    assert Path("photographs/holiday.png").exists()
    assert detect("a.png", "--out", ".", "--overwrite") == 2
    assert {path.name for path in work.iterdir()} == {"a.png", "b.png", "detections", "photographs"}
