"""The files of other projects that the book serves itself: only listed ones, with known digests."""

import tarfile
from pathlib import Path

import pytest
from scripts import load_script


class TestVendor:
    @pytest.fixture
    def vendor(self, monkeypatch):
        module = load_script("book/vendor")
        monkeypatch.setattr(module, "print", lambda *_, **__: None, raising=False)
        return module

    def archive(self, folder: Path, members: dict[str, bytes]) -> Path:
        path = folder / "asset-1.tgz"
        with tarfile.open(path, "w:gz") as tarball:
            for name, data in members.items():
                (folder / "member").write_bytes(data)
                tarball.add(folder / "member", name)
        return path

    def asset(self, vendor, digest="5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"):
        roots, digests = dict.fromkeys(("npm", "pypi"), "package/"), dict.fromkeys(("npm", "pypi"), digest)
        return vendor.Asset("asset", "asset@1", "asset==1", roots, ("main.js", "fonts/"), digests)

    def test_unpacks_only_listed_files_and_downloads_once(self, vendor, monkeypatch, tmp_path):
        calls = []

        def download(asset, source, aside):
            calls.append(source)
            files = ("package/main.js", "package/fonts/a.woff", "package/other.js", "package/fonts/../../../evil.js")
            return self.archive(aside, dict.fromkeys(files, b"0"))

        monkeypatch.setattr(vendor, "_download", download)
        for _ in range(2):
            target = vendor.fetch(self.asset(vendor), tmp_path / "_vendor")
        assert calls == ["npm"]
        assert sorted(path.name for path in target.rglob("*") if path.is_file()) == [".version", "a.woff", "main.js"]
        assert not list(tmp_path.rglob("evil.js"))

    def test_a_file_with_another_digest_is_refused(self, vendor, monkeypatch, tmp_path):
        monkeypatch.setattr(vendor, "_download", lambda a, s, aside: self.archive(aside, {"package/main.js": b"1"}))
        assert vendor.fetch(self.asset(vendor), tmp_path / "_vendor") is None
        assert not list((tmp_path / "_vendor").iterdir())

    def test_without_a_network_nothing_is_unpacked(self, vendor, monkeypatch, tmp_path):
        def refuse(*_):
            raise OSError("no network")

        monkeypatch.setattr(vendor, "_download", refuse)
        assert vendor.fetch(self.asset(vendor), tmp_path / "_vendor") is None
