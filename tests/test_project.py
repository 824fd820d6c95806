"""The project's own files agree with each other."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripts import load_script

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
URL = "https://github.com/made-up-owner/made-up-name"

repository = load_script("book/repository")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that git would commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "a copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "a copy" / name)
    return tmp_path / "a copy"


def test_conda_and_pip_agree(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    (pip,) = (entry["pip"] for entry in environment if isinstance(entry, dict))
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["book"] + extras["train"] + extras["scenes"]
    assert sorted(pip) == sorted({"-e .", *wanted})  # extras may share a package
    assert f"python{project['requires-python']}" in environment


def test_versions_agree(project):
    import data_prep
    import gdino_lib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert project["version"] == gdino_lib.__version__ == data_prep.__version__ == citation["version"]


def test_the_readme_names_the_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text("utf-8"))) - {"help"}
    assert {"book", "test", "serve"} <= named <= targets


def test_the_readme_is_short_and_its_lines_fit_a_screen():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 90
    prose = re.sub(r"(?s)```.*?```|<!-- address -->.*?<!-- /address -->", "", text)
    assert [line for line in prose.splitlines() if len(line) > 120] == []
    assert [line for line in text.splitlines() if len(line) > 132] == []


def test_the_card_of_the_embedded_model_is_short():
    assert len((ROOT / "gdino_lib/assets/nano/README.md").read_text("utf-8").splitlines()) <= 80


def test_every_link_of_the_readme_leads_somewhere():
    text = (ROOT / "README.md").read_text("utf-8")
    local = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_setting_the_address_fills_every_place_and_unsetting_it_empties_them(copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert repository.apply(copy, "") == []
    changed = {path.name for path in repository.apply(copy, URL + "/")}
    assert {"pyproject.toml", "_config.yml", "README.md", "CITATION.cff"} < changed
    assert tomllib.loads((copy / "pyproject.toml").read_text("utf-8"))["project"]["urls"] == {"Repository": URL}
    config = yaml.safe_load((copy / "_config.yml").read_text("utf-8"))
    assert config["repository"]["url"] == URL
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    readme = (copy / "README.md").read_text("utf-8")
    assert "https://colab.research.google.com/github/made-up-owner/made-up-name/blob/main/book/" in readme
    for notebook in copy.glob("book/[0-9]*.ipynb"):
        assert f'REPOSITORY = \\"{URL}\\"' in notebook.read_text("utf-8")
    repository.apply(copy, "")
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "url", ["github.com/a/b", "https://github.com/a", "https://example.org/a/b", "https://github.com/a/b/c"]
)
def test_an_address_of_another_form_is_refused(copy, url):
    with pytest.raises(ValueError, match="or nothing, got"):
        repository.apply(copy, url)


@pytest.mark.parametrize("arguments", [["PYTHON=no-such-python"], ["PYTHON=false"]])
def test_a_missing_tool_gets_one_clear_line(copy, arguments):
    result = subprocess.run(["make", "install", *arguments], cwd=copy, capture_output=True, text=True)
    first, *rest = result.stderr.splitlines()
    assert result.returncode != 0
    assert first.startswith("Python 3.10 or later is needed")
    assert all(line.startswith("make") for line in rest)


def test_no_large_file_and_no_machine_path_is_committed(copy):
    for path in (path for path in copy.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert len(data) <= 300_000 or "assets" in path.parts, f"{path} has {len(data)} bytes"
        for name in (str(ROOT), f"{Path.home()}/"):
            assert name.encode() not in data, f"{path} names {name}"


def test_the_built_book_links_to_colab_once_the_address_is_set(copy):
    chapter = min(copy.glob("book/[0-9]*.ipynb")).stem
    config = copy / "_config.yml"
    config.write_text(config.read_text("utf-8").replace("execute_notebooks: cache", "execute_notebooks: off"), "utf-8")
    contents = {"format": "jb-book", "root": "book/index", "chapters": [{"file": f"book/{chapter}"}]}
    (copy / "_toc.yml").write_text(yaml.safe_dump(contents), "utf-8")
    link = f"https://colab.research.google.com/github/made-up-owner/made-up-name/blob/main/book/{chapter}.ipynb"
    for url, shown in ((URL, True), ("", False)):
        repository.apply(copy, url)
        program = "from jupyter_book.cli.main import main; main()"
        command = [sys.executable, "-c", program, "build", ".", "--all"]
        subprocess.run(command, cwd=copy, check=True, capture_output=True)
        page = (copy / "_build" / "html" / "book" / f"{chapter}.html").read_text("utf-8")
        assert (link in page) == shown
