"""The sources of the book: quick checks, without a build, of what the build and the readers rely on."""

import json
import pkgutil
import re
from pathlib import Path
from typing import ClassVar

import nbformat
import pytest
import yaml
from scripts import load_script

import data_prep
import gdino_lib
from data_prep.formats import voc

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]*_*.ipynb"))
NOTEBOOKS = [*CHAPTERS, BOOK / "template.ipynb"]
LONGEST_CELL, LONGEST_NAIVE_CELL, LONGEST_LINE, LARGEST_FILE = 25, 15, 88, 300_000
MOST_LONG_CELLS = 25  # visible cells with more than 15 lines, in the whole book
HIDDEN = {"remove-cell", "hide-cell", "hide-input", "remove-input"}
PICTURE = re.compile(r"plt\.show\(\)|display\(\w+\.image\)")
SETUP = """# @title Setup (Colab only)
import importlib.util
import subprocess
import sys

REPOSITORY = "{url}"  # filled in by `make repository`; empty while the project has no public address
if importlib.util.find_spec("data_prep") is None:
    if not REPOSITORY:
        raise SystemExit("not installed: run `pip install -e '.[book,train,scenes]'` in the project's folder")
    package = f"gdino_lib[train,scenes] @ git+{{REPOSITORY}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)"""
HEADINGS = ["What you will learn", "Before you start", "Take-aways", "Exercises", "What comes next"]


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


def appendices() -> list[Path]:
    """Notebooks of the book that are not chapters."""
    pages = (ROOT / f"{file}.ipynb" for file in toc_files() if not re.match(r"book/\d\d", file))
    return [page for page in pages if page.is_file()]


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def number_of(path: Path) -> str:
    """The number in the chapter's title: "3b" for 03b_from_pytorch_to_cpp_to_cuda.ipynb."""
    return re.sub("^0", "", path.name.partition("_")[0])


def visible_lines(path: Path) -> list[list[str]]:
    """The lines of each code cell whose code is visible: neither folded nor part of a solution."""
    cells, shown, in_solution = json.loads(path.read_text())["cells"], [], False
    for cell in cells:
        source = "".join(cell["source"])
        if "{solution-" in source:
            in_solution = "{solution-start}" in source
        elif cell["cell_type"] == "code" and not in_solution and not HIDDEN & set(cell["metadata"].get("tags", [])):
            shown.append(source.splitlines())
    return shown


def markdown(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_every_toc_entry_exists_and_every_chapter_is_in_the_toc():
    for file in toc_files():
        assert (ROOT / f"{file}.md").is_file() or (ROOT / f"{file}.ipynb").is_file(), file
    assert [file for file in toc_files() if re.match(r"book/\d\d", file)] == [f"book/{path.stem}" for path in CHAPTERS]


def test_the_map_and_the_index_name_the_same_chapters():
    chapter_map = load_script("book/figures/draw_map")
    assert (BOOK / "figures" / "map.svg").read_text() == chapter_map.draw(chapter_map.written_chapters(ROOT)), (
        "run `python book/figures/draw_map.py`"
    )
    rows = re.findall(
        r"^\| (\d+[a-z]?) \| \*\*(.*?)\*\* .*\| (ready|to come) \|$", (BOOK / "index.md").read_text(), re.M
    )
    assert [(number, re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)) for number, title, _ in rows] == [
        (chapter_map.spoken(number), title) for number, title, _ in chapter_map.CHAPTERS
    ]
    written = {number_of(path): path for path in CHAPTERS}
    for number, title, status in rows:
        assert (status == "ready") == (number in written), title
        if number in written:
            assert title.endswith(f"]({written[number].name})")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_title_is_the_number_and_the_title_in_the_index(path):
    (title,) = re.findall(rf"\*\*\[(.*)\]\({path.name}\)", (BOOK / "index.md").read_text())
    assert markdown(path).startswith(f"# {number_of(path)}. {title}\n")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_states_its_measured_times(path):
    times = load_script("book/chapter_times")
    stored = json.loads(times.STORED.read_text())
    assert path.stem in stored["seconds"], f"not measured yet: {times.COMMAND}"
    assert times.sentence(path, stored["seconds"][path.stem]) in markdown(path), times.COMMAND


def test_stored_times_belong_to_existing_chapters():
    stored = json.loads((BOOK / "data" / "chapter_seconds.json").read_text())
    assert set(stored["seconds"]) <= {path.stem for path in CHAPTERS}


def test_no_existing_chapter_is_called_to_come():
    titles = re.findall(r"^\| \d+[a-z]? \| \*\*\[(.*?)\]\(", (BOOK / "index.md").read_text(), re.M)
    pages = {path: markdown(path) for path in CHAPTERS} | {path: path.read_text() for path in BOOK.glob("*.md")}
    for path, text in pages.items():
        for sentence in re.split(r"(?<=[.:;|])\s", text):
            if re.search(r"to come\b", sentence):
                assert not [title for title in titles if f"*{title}*" in sentence or f"[{title}]" in sentence], (
                    f"{path.name}: {sentence}"
                )


def test_few_visible_cells_are_long():
    long = [lines[0] for path in CHAPTERS for lines in visible_lines(path) if len(lines) > LONGEST_NAIVE_CELL]
    assert len(long) <= MOST_LONG_CELLS, "\n".join(long)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *appendices()], ids=lambda path: path.stem)
class TestNotebook:
    def test_is_valid_and_stripped(self, path):
        notebook = json.loads(path.read_text())
        nbformat.validate(notebook)
        assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
        for cell in code_cells(path):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None

    def test_starts_with_the_setup_cell(self, path):
        first = code_cells(path)[0]
        source = "".join(first["source"])
        url = re.search(r'^REPOSITORY = "(.*?)"', source, re.M)
        assert url, "no REPOSITORY in the first code cell"
        assert source == SETUP.format(url=url[1])
        assert first["metadata"]["tags"] == ["remove-cell"]

    def test_cells_are_short_and_fit_the_page(self, path):
        for number, cell in enumerate(code_cells(path)[1:], start=2):
            lines = "".join(cell["source"]).splitlines()
            assert all(len(line) <= LONGEST_LINE for line in lines), f"code cell {number}"
        for lines in visible_lines(path):
            naive = any(line.startswith("def naive_") for line in lines)
            assert len(lines) <= (LONGEST_NAIVE_CELL if naive else LONGEST_CELL), lines[0]

    def test_every_figure_has_alt_text(self, path):
        for cell in code_cells(path):
            if PICTURE.search("".join(cell["source"])):
                alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
                assert len(alt) > 20, "".join(cell["source"])[:80]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestChapter:
    def test_has_the_frame(self, path):
        headings = re.findall(r"^## (.*)$", markdown(path), re.M)
        assert [heading for heading in headings if heading in HEADINGS] == HEADINGS
        assert headings[:2] == HEADINGS[:2]
        assert headings[-3:] == HEADINGS[2:]
        assert len(load_script("book/chapter_times").SENTENCE.findall(markdown(path))) == 1

    def test_every_exercise_has_a_folded_solution_that_asserts(self, path):
        cells = json.loads(path.read_text())["cells"]
        exercises = re.findall(r"```\{exercise\}.*\n:label: (\S+)", markdown(path))
        assert exercises
        starts = {}
        for index, cell in enumerate(cells):
            found = re.match(
                r"```\{solution-start\} (\S+)\n:label: \S+\n:class: dropdown\n```", "".join(cell["source"])
            )
            if found:
                starts[found[1]] = index
        assert list(starts) == exercises
        for name, start in starts.items():
            end = next(i for i in range(start, len(cells)) if "{solution-end}" in "".join(cells[i]["source"]))
            code = "\n".join("".join(cell["source"]) for cell in cells[start:end] if cell["cell_type"] == "code")
            assert re.search(r"^assert ", code, re.M), f"the solution of {name} checks nothing"


def test_the_template_is_not_a_page():
    assert "book/template" not in toc_files()
    assert "book/template.ipynb" in yaml.safe_load((ROOT / "_config.yml").read_text())["exclude_patterns"]


def test_the_template_runs():
    """Execute its code cells in order, without a kernel and without a screen."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    names: dict = {"__name__": "template"}
    for cell in code_cells(BOOK / "template.ipynb"):
        exec(compile("".join(cell["source"]), "template.ipynb", "exec"), names)


def test_no_large_file_in_the_book():
    ours = [path for path in BOOK.rglob("*") if path.is_file() and "_vendor" not in path.parts]
    assert not [path.name for path in ours if path.stat().st_size > LARGEST_FILE]


# packages and modules without a page in the reference: helpers of other modules, and the command line, which has its own help
WITHOUT_REFERENCE = {
    "data_prep": {
        *("arguments", "formats.fields", "formats.json_text"),
        *("formats.file_per_image", "formats.polygons", "formats.yolo_folders"),
        *("formats.coco_reading", "formats.voc_images", "formats.voc_reading", "formats.voc_xml"),
        *("sample.annotations", "sample.backgrounds", "sample.drawing", "sample.people", "sample.portraits"),
    },
    "gdino_lib": {
        *(f"apps.{module}" for module in ("counting", "detect_files", "edit_files", "input_files", "other_models")),
        *("apps.results", "apps.terminal", "apps.video"),
        *("companion", "cli", "detect.dtypes", "evaluation.report", "messages"),
        *("nano.icons", "nano.pictures", "nano.recipe", "nano.photograph_recipe"),
        *(f"training.doctor.{module}" for module in ("batch", "data", "gradients", "overfitting", "pictures")),
        *("weights.files", "weights.hub", "weights.names", "weights.pickles"),
    },
}


@pytest.mark.parametrize("package", [data_prep, gdino_lib], ids=lambda package: package.__name__)
def test_every_public_module_is_in_the_reference(package):
    name = package.__name__
    page = (BOOK / "api" / f"{name}.md").read_text()
    modules = {
        module.name.removeprefix(f"{name}.")
        for module in pkgutil.walk_packages(package.__path__, f"{name}.")
        if not module.ispkg and not any(part.startswith("_") for part in module.name.split("."))
    }
    described = re.findall(rf"^\.\. automodule:: {name}\.(\S+)$", page, re.M)
    assert len(described) == len(set(described))
    assert set(described) <= modules
    helpers = {module for module in modules if {module, module.split(".")[0]} & WITHOUT_REFERENCE[name]}
    assert modules - helpers == set(described), "only helpers may be missing"
    assert re.findall(rf"^\| \[`(\S+)`\]\(#{name}\.\1\) \| \S", page, re.M) == described, (
        "the table lists the modules of the page"
    )


def test_the_stored_curves_of_chapter_09_have_the_settings_of_their_script():
    pytest.importorskip("accelerate")
    script = load_script("benchmarks/ablate_shapes")
    measured = json.loads((BOOK / "data" / "ablate_shapes.json").read_text())
    assert {name: measured[name] for name in script.about()} == script.about()
    assert {run["variant"] for run in measured["runs"]} == set(script.VARIANTS)
    seeds = {(run["variant"], run["seed"]) for run in measured["runs"]}
    assert {("as it should be", seed) for seed in range(3)} | {("no denoising", seed) for seed in range(3)} <= seeds
    assert len(seeds) == len(measured["runs"])


def test_every_citation_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{(\S+),", (BOOK / "references.bib").read_text(), re.M))
    pages = [markdown(path) for path in NOTEBOOKS] + [path.read_text() for path in BOOK.rglob("*.md")]
    cited = {key for page in pages for keys_ in re.findall(r"\{cite:p\}`(.*?)`", page) for key in keys_.split(",")}
    assert cited <= keys


def test_the_command_line_page_shows_every_command():
    help_of = load_script("book/command_help")
    page = (BOOK / "command_line.md").read_text()
    shown = re.findall(r"^```\{command-help\} (.*)$", page, re.M)
    assert len(shown) == len(set(shown))
    for command in shown:
        assert help_of.help_text(command).startswith(f"usage: {command} ")
    assert {f"gdino {name}" for name in help_of.command_names("gdino")} <= set(shown)
    # all converters have the same options, so the page shows only one
    others = [name for name in help_of.command_names("python -m data_prep") if not re.match("[a-z]+-to-[a-z]+$", name)]
    assert {f"python -m data_prep {name}" for name in ["voc-to-csv", *others]} <= set(shown)
    for unknown in ("gdino nothing", "python -m data_prep nothing", "cat"):
        with pytest.raises(ValueError, match="expected a command"):
            help_of.help_text(unknown)


def test_figures_and_exercises_carry_the_number_of_their_chapter():
    numbers = load_script("book/chapter_numbers")

    class Title(str):
        def astext(self):
            return str(self)

    class Environment:
        titles: ClassVar[dict] = {"a": Title("3b. From here to there"), "b": Title("Notation")}
        toc_fignumbers: ClassVar[dict] = {
            "a": {"exercise": {"x": (4,), "y": (5,)}, "figure": {"z": (2,)}},
            "b": {"figure": {"w": (3,)}},
        }

    assert numbers._number_by_chapter(None, Environment) == []
    assert Environment.toc_fignumbers == {
        "a": {"exercise": {"x": ("3b", 1), "y": ("3b", 2)}, "figure": {"z": ("3b", 1)}},
        "b": {"figure": {"w": (3,)}},
    }


class TestChapterTimes:
    @pytest.fixture
    def chapter(self, tmp_path):
        words = "word " * 2400 + "Reading takes about **20 minutes**; running takes under one."
        code = {"cell_type": "code", "source": ["x = 1\n", "\n", "y = 2"], "metadata": {}}
        folded = {"cell_type": "code", "source": ["z\n"] * 400, "metadata": {"tags": ["hide-input"]}}
        path = tmp_path / "01_topic.ipynb"
        prose = {"cell_type": "markdown", "source": [words], "metadata": {}}
        path.write_text(json.dumps({"cells": [prose, code, folded]}))
        return path

    def test_minutes_count_prose_and_visible_code_and_are_written_with_the_seconds(self, chapter):
        times = load_script("book/chapter_times")
        assert times.minutes_to_read(chapter) == 15
        times.write_into(chapter, 11.2)
        assert "Reading takes about **15 minutes**, running about **15 seconds** on two cores." in markdown(chapter)
        before = chapter.read_bytes()
        times.write_into(chapter, 12.9)
        assert chapter.read_bytes() == before

    def test_a_chapter_without_the_sentence_is_named(self, chapter):
        chapter.write_text(chapter.read_text().replace("Reading takes", "It takes"))
        with pytest.raises(ValueError, match=r"01_topic.*found 0"):
            load_script("book/chapter_times").write_into(chapter, 1)

    def test_seconds_come_from_the_execution_cache(self, chapter, tmp_path):
        pytest.importorskip("jupyter_cache")
        from jupyter_cache import get_cache

        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
        for name in ("01_topic.ipynb", "template.ipynb"):
            nbformat.write(notebook, tmp_path / name)
            notebook.cells[0].source += "0"
            get_cache(tmp_path / "cache" / "abc").cache_notebook_file(
                tmp_path / name, data={"execution_seconds": 1.26}, check_validity=False
            )
        assert load_script("book/chapter_times").measured_seconds(tmp_path / "cache") == {"01_topic": 1.3}


def test_the_stored_counts_of_chapter_10_are_those_of_the_real_set(face_mask_dir):
    script = load_script("benchmarks/face_mask_counts")
    stored = json.loads((BOOK / "data" / "face_mask_counts.json").read_text())
    assert json.loads(json.dumps(script.count(face_mask_dir))) == stored
    cell = next(
        "".join(c["source"])
        for c in code_cells(BOOK / "10_from_voc_to_csv.ipynb")
        if "def box_sides" in "".join(c["source"])
    )
    names: dict = {}
    exec(cell, names)
    records = [source.record for source in voc.read_folder(face_mask_dir / "images", face_mask_dir / "annotations")[0]]
    for size, resized in (("own pixels", False), ("resized", True)):
        assert script.describe(sorted(names["box_sides"](records, resized))) == stored["sides"][size]


def test_the_stored_counts_of_chapter_10_add_up():
    stored = json.loads((BOOK / "data" / "face_mask_counts.json").read_text())
    assert stored["command"] == load_script("benchmarks/face_mask_counts").COMMAND
    assert sum(sum(part.values()) for part in stored["classes"].values()) == stored["boxes"]
    for sides in stored["sides"].values():
        assert sum(sides["histogram"]) == stored["boxes"]
        for stride, count in sides["below"].items():
            bins = zip(stored["edges"][1:], sides["histogram"], strict=True)
            assert sum(number for edge, number in bins if edge <= int(stride)) == count


def test_matplotlib_reads_the_style_file():
    style = pytest.importorskip("matplotlib.style")
    with style.context(BOOK / "gdino.mplstyle"):
        pass


def test_the_cache_changes_with_library_data_and_environment(monkeypatch, tmp_path):
    outputs = load_script("book/fresh_outputs")
    monkeypatch.delenv("FACE_MASK_DIR", raising=False)
    for name in ("data_prep/a.py", "gdino_lib/b.py", "gdino_lib/csrc/c.cpp", "book/gdino.mplstyle"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    first = outputs.fingerprint(tmp_path)
    assert outputs.fingerprint(tmp_path) == first
    (tmp_path / "gdino_lib/b.py").write_text("two")
    second = outputs.fingerprint(tmp_path)
    (tmp_path / "gdino_lib/csrc/c.cpp").write_text("two")
    third = outputs.fingerprint(tmp_path)
    (tmp_path / "book/data").mkdir()
    (tmp_path / "book/data/curves.json").write_text("{}")
    fourth = outputs.fingerprint(tmp_path)
    monkeypatch.setenv("FACE_MASK_DIR", "elsewhere")
    assert len({first, second, third, fourth, outputs.fingerprint(tmp_path)}) == 5
