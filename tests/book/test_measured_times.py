"""Times that chapters read from `book/data`: they fit the settings of their scripts, and the machine was idle."""

import json
import math
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ["sampling", "parts"]


@pytest.fixture(autouse=True)
def folder_of_scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # the scripts import one another


@pytest.mark.parametrize("name", SCRIPTS)
def test_stored_times_have_the_settings_of_their_script(name):
    script = load_script(f"benchmarks/{name}")
    stored = ROOT / "book" / "data" / f"{name}.json"
    assert stored.is_file(), f"not measured yet: {script.COMMAND}"
    measured = json.loads(stored.read_text())
    about = json.loads(json.dumps(script.about()))
    assert {key: measured[key] for key in about} == about
    assert measured["load before"] <= load_script("benchmarks/results").MOST_LOAD


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_busy_machine_is_refused(name, monkeypatch, tmp_path):
    script = load_script(f"benchmarks/{name}")
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 3.0, 3.0))
    monkeypatch.setattr("sys.argv", [name, "--json", str(tmp_path / "times.json")])
    with pytest.raises(SystemExit, match=r"busy: its load is 3\.00"):
        script.main()
    assert not list(tmp_path.iterdir())


def test_each_part_is_timed_and_sampling_excludes_its_linear_layers(monkeypatch):
    torch = pytest.importorskip("torch")
    script = load_script("benchmarks/parts")
    now = iter(range(100_000))
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(now))
    config = script.GroundingDINOConfig.nano().replace(bert_layers=1, encoder_layers=1, decoder_layers=1)
    model = script.GroundingDINO(config).eval()
    with torch.inference_mode():
        spent = script.seconds_by_part(model, torch.randn(1, 3, 64, 96), runs=1)
    assert set(spent) == {*(name for name, _ in model.named_children()), "sampling"}
    # the fake clock advances by 1 at each reading, so a part lasts as long as the readings between its start and its stop
    assert spent["text_encoder"] == spent["image_backbone"] == spent["query_selection"] == 1
    layers = config.encoder_layers + config.decoder_layers
    # a deformable layer lasts 9, because it encloses 8 readings of its four linear layers; they last 1 each: 9 - 4 = 5
    assert spent["sampling"] == 5 * layers
    assert math.isclose(spent["feature_enhancer"], 1 + 10 * config.encoder_layers)
