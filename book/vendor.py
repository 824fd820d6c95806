"""Download the JavaScript that the pages need, so that the built book works without a network.

This file is a Sphinx extension (`_config.yml` names it) and a script: `python book/vendor.py`. `npm pack` downloads each asset
from the npm registry if npm is installed; otherwise `pip download` gets a PyPI package that contains it. The asset is unpacked
once into `book/_vendor`, which git ignores. If neither registry answers, the build says so and the pages load the asset from
its CDN.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "_vendor"
SECONDS = 120  # time limit for a download


@dataclass(frozen=True)
class Asset:
    """One third-party library.

    Attributes:
        name: its folder below `_vendor`, and below `_static` of the built book.
        npm, pypi: package and exact version on each registry.
        root: for each registry, the folder of the archive that the paths in `keep` are relative to.
        keep: files to unpack; a path that ends in "/" is a folder.
        sha256: for each registry, the digest of the first file in `keep`.
    """

    name: str
    npm: str
    pypi: str
    root: dict[str, str]
    keep: tuple[str, ...]
    sha256: dict[str, str]


# to add an asset, define it here and set in `_configure` the Sphinx setting that loads it
MATHJAX = Asset(
    name="mathjax",
    npm="mathjax@3.2.2",
    pypi="django-static-mathjax==3.2.2.1",
    root={"npm": "package/es5/", "pypi": "mathjax/static/mathjax/es5/"},
    keep=("tex-mml-chtml.js", "output/chtml/fonts/woff-v2/", "input/tex/extensions/", "a11y/"),
    sha256={
        "npm": "300480069078b5892d2363a2b65e2dfbbf30fe5c80f83edbfecf4610fd093862",
        "pypi": "8aacaa13814e2dd77de7b5f10a7c0cda3a0bcd0af3a2129f8aa7a794f607fd55",
    },
)


def fetch(asset: Asset, folder: Path = FOLDER) -> Path | None:
    """The folder of an asset, downloaded first if it is missing; None if neither registry provides it."""
    target = folder / asset.name
    stamp = target / ".version"
    wanted = f"{asset.npm} {asset.pypi} {' '.join(asset.keep)}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for source in ("npm", "pypi"):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as aside:
            try:
                unpacked = _unpack(asset, source, Path(aside))
            except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
                print(
                    f"{asset.name}: download from {source} failed: {' '.join(str(error).split())[:200]}",
                    file=sys.stderr,
                )
                continue
            (unpacked / ".version").write_text(wanted)
            shutil.rmtree(target, ignore_errors=True)
            unpacked.rename(target)
            return target
    return None


def _unpack(asset: Asset, source: str, aside: Path) -> Path:
    unpacked = aside / asset.name
    for name, data in _members(_download(asset, source, aside)):
        inner = name.removeprefix(asset.root[source])
        # do not trust names in an archive: write only files that `keep` lists, and none outside the folder
        if inner != name and ".." not in Path(inner).parts and inner.startswith(asset.keep) and not inner.endswith("/"):
            (unpacked / inner).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / inner).write_bytes(data)
    digest = hashlib.sha256((unpacked / asset.keep[0]).read_bytes()).hexdigest()
    if digest != asset.sha256[source]:
        raise ValueError(f"{asset.keep[0]} has the SHA-256 {digest}, expected {asset.sha256[source]}")
    return unpacked


def _download(asset: Asset, source: str, aside: Path) -> Path:
    if source == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise ValueError("npm is not installed")
        command = [npm, "pack", "--silent", "--fetch-retries=0", asset.npm]
    else:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries=0", asset.pypi]
    done = subprocess.run(command, cwd=aside, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode != 0:
        raise ValueError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-160:]}")
    return next(path for path in aside.iterdir() if path.suffix in (".tgz", ".whl"))


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
    else:
        with tarfile.open(archive) as tarball:
            yield from ((member.name, tarball.extractfile(member).read()) for member in tarball if member.isfile())


def _configure(app: Any, config: Any) -> None:
    from sphinx.util import logging

    if fetch(MATHJAX) is None:
        logging.getLogger(__name__).info(
            "MathJax could not be downloaded; the pages will load it from a CDN and show no formulas offline",
            color="yellow",
        )
        return
    config.html_static_path.append(str(FOLDER.relative_to(app.confdir)))
    config.mathjax_path = "mathjax/tex-mml-chtml.js"


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry point."""
    app.connect("config-inited", _configure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    print(f"mathjax: {'ready' if fetch(MATHJAX) else 'could not be downloaded; the pages will load it from a CDN'}")
