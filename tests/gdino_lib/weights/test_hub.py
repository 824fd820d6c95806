"""Models by name: fetched once, at a pinned commit; without a network one question and one line."""

import shutil
import socket
import time

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from weight_files import SMALL, refused

from gdino_lib.weights.hub import names as names_of_models
from gdino_lib.weights.loading import load


@pytest.fixture
def hub(monkeypatch, port_folder):
    """A hub that has `port_folder`; `calls` holds what it is asked, and whether the cache may answer alone."""

    class Hub:
        def __init__(self):
            self.calls = []
            self.cached = self.online = True

        def snapshot_download(self, repository, local_files_only=False, **options):
            self.calls.append((repository, local_files_only, options))
            if local_files_only and not self.cached:
                raise LocalEntryNotFoundError("nothing in the cache")
            return str(port_folder)

        def get_hf_file_metadata(self, url, **_):
            self.calls.append((url, False, None))
            if not self.online:
                raise RuntimeError("name resolution failed\nfor a long while")

    hub = Hub()
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", hub.get_hf_file_metadata)
    return hub


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_the_hubs_files_are_fetched_at_a_pinned_commit(monkeypatch, tmp_path, hub, name):
    hub.cached = False
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a folder that happens to be called so is not what was asked for
    assert load(name, "cpu").config.width == SMALL.width
    (_, _, options), (url, _, _), (repository, local, again) = hub.calls
    assert repository == f"IDEA-Research/grounding-dino-{name}"
    assert len(options["revision"]) == 40
    assert options["allow_patterns"] == ["config.json", "model.safetensors"]
    assert (again, local) == (options, False)
    assert f"{repository}/resolve/{options['revision']}/model.safetensors" in url


def test_what_is_in_the_cache_needs_no_network(hub):
    hub.online = False
    load("tiny", "cpu")
    assert [local for _, local, _ in hub.calls] == [True]


def test_half_of_it_in_the_cache_is_not_taken_for_the_whole(hub, port_folder):
    (port_folder / "model.safetensors").unlink()  # older versions of the hub's package answer with what there is
    hub.online = False
    assert "cannot fetch 'tiny'" in refused(load, "tiny", kind=FileNotFoundError)


def test_without_a_network_one_question_and_one_line(hub):
    hub.cached = hub.online = False
    message = refused(load, "tiny", kind=FileNotFoundError)
    assert "cannot fetch 'tiny' from the Hugging Face hub (name resolution failed); " in message
    assert [local for _, local, _ in hub.calls] == [True, False], "asked once, nothing downloaded"


def test_the_hub_itself_is_quick_and_quiet_without_a_network(monkeypatch, tmp_path, capfd):
    with socket.socket() as closed:  # bound, not listening: whoever calls is turned away
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        start = time.perf_counter()
        message = refused(load, "tiny", kind=FileNotFoundError)
        assert time.perf_counter() - start < 5  # 0.1 s on an idle machine; 33 s with the hub's own retries
    assert "cannot fetch 'tiny'" in message
    assert "refused" in message
    assert capfd.readouterr() == ("", "")


def test_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refused(load, "tiny", kind=FileNotFoundError)
    assert "cannot fetch 'tiny'" in message
    assert "HF_HUB_OFFLINE" in message
    assert "config.json and model.safetensors of IDEA-Research/grounding-dino-tiny" in message
    assert "pass its path" in message


def test_names_without_weights(monkeypatch, tmp_path, our_file):
    assert "never released; use 'base'" in refused(load, "large", kind=FileNotFoundError)
    monkeypatch.setattr("gdino_lib.weights.hub.NANO", tmp_path)
    assert names_of_models() == ["tiny", "base"]
    assert "'nano' is not part of this version; use --model tiny" in refused(load, "nano", kind=FileNotFoundError)
    shutil.copy(our_file, tmp_path / "model.safetensors")
    assert load("nano", "cpu").config == SMALL
    assert names_of_models() == ["nano", "tiny", "base"]
    assert "expected a name or a path, got NoneType" in refused(load, None, kind=TypeError)
