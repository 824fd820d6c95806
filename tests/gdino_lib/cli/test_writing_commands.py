"""Every command that writes: it writes alone, replaces only files that a run wrote, and refuses in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from writing_commands import commands, make_inputs

from data_prep.atomic import only_writer, reserved
from gdino_lib.training import run_folder

NAMES = list(commands(Path("inputs"), Path("out")))
FOLDERS = NAMES[: NAMES.index("train") + 1]
PAIRS = ["csv-to-odvg", "voc-to-odvg"]
OVERWRITING = [name for name in FOLDERS if name not in ("sample", "audit")]
LISTING = [name for name in OVERWRITING if name != "train"]  # a run knows its folder by its log, see test_two_runs.py
ALONE = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
sys.path.append(sys.argv[1])
from writing_commands import commands
inputs, out = map(Path, sys.argv[2:4])
ended = {}
for name, (main, arguments) in commands(inputs, out).items():
    with redirect_stderr(StringIO()) as said, redirect_stdout(StringIO()):
        status = main(arguments)
    ended[name] = [status, said.getvalue()]
print(json.dumps(ended))
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def run(inputs, out, name, *more):
    main, arguments = commands(inputs, out)[name]
    return main([*arguments, *more])


def refusal(capsys):
    """The last line on standard error, which is the reason."""
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@contextmanager
def held(out, name):
    """Hold the lock that another process would hold while it writes the same files."""
    if name == "train":
        with run_folder.claimed(out):
            yield
    elif name == "audit":
        out.mkdir()
        with only_writer(out / "audit.txt"):
            yield
    else:
        with only_writer(out.with_suffix(".jsonl") if name in PAIRS else out):
            yield


@pytest.mark.parametrize("name", FOLDERS + PAIRS)
def test_a_second_process_is_refused(inputs, tmp_path, capsys, name):
    with held(tmp_path / "out", name):
        before = files(tmp_path)
        assert run(inputs, tmp_path / "out", name) == 2
        assert "another run is writing there" in refusal(capsys)
        assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["csv-to-coco", "convert", "merge", "eval", "audit"])
def test_a_second_process_is_refused_before_the_work_begins(inputs, tmp_path, capsys, name):
    """The first process has reserved the file and is still at work, so the file does not exist yet."""
    suffix = {"csv-to-coco": ".json", "eval": ".json", "audit": ""}.get(name, ".safetensors")
    path = tmp_path / f"out{suffix}"
    if name == "audit":
        path.mkdir()
        path /= "audit.json"
    with reserved(path):
        before = files(tmp_path)
        assert run(inputs, tmp_path / "out", name) == 2
        assert "another run is writing there" in refusal(capsys)
        assert files(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_is_refused_and_changes_nothing(inputs, tmp_path, capsys, name):
    assert run(inputs, tmp_path / "out", name) in (0, 1)
    before = files(tmp_path)
    assert run(inputs, tmp_path / "out", name) == 2
    assert re.search("exists|not empty", refusal(capsys))
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", OVERWRITING)
def test_overwrite_removes_no_file_that_no_run_wrote(inputs, tmp_path, capsys, name):
    """Such a file may have any name, even in a folder of results and with the suffix of a result."""
    out = tmp_path / "out"
    run(inputs, out, name)
    written = {path.suffix: path for path in sorted(out.rglob("*")) if path.is_file()}
    strangers = {path.with_name(f"mine{suffix}"): path.read_bytes() for suffix, path in written.items()}
    strangers |= {out / "mine.txt": b"mine", out / "my folder" / "mine.txt": b"mine"}
    for mine, content in strangers.items():
        mine.parent.mkdir(exist_ok=True)
        mine.write_bytes(content)
        before = files(tmp_path)
        assert run(inputs, out, name, "--overwrite") == 2
        assert mine.name in refusal(capsys)
        assert files(tmp_path) == before
        mine.unlink()
    assert run(inputs, out, name, "--overwrite") in (0, 1)


@pytest.mark.parametrize("name", LISTING)
def test_overwrite_removes_no_file_that_only_has_the_name_of_a_result(inputs, tmp_path, capsys, name):
    """Neither beside results, with another number, nor in a folder into which no run has written."""
    out = tmp_path / "out"
    run(inputs, out, name)
    results = [path for path in sorted(out.rglob("*")) if path.is_file()]
    numbered = {re.sub(r"\d", "9", path.name): path for path in results if re.search(r"\d", path.stem)}
    strangers = [path.with_name(other) for other, path in numbered.items()]
    strangers += [tmp_path / "mine" / path.relative_to(out) for path in results]
    for mine in strangers:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        before = files(tmp_path)
        assert run(inputs, out if out in mine.parents else tmp_path / "mine", name, "--overwrite") == 2
        assert mine.name in refusal(capsys)
        assert files(tmp_path) == before
        mine.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample", "scenes", "csv-to-voc", "voc-to-csv", "csv-to-odvg"])
def test_one_of_two_processes_at_once_writes_a_complete_result(inputs, tmp_path, name):
    main, arguments = commands(inputs, tmp_path / "whole")[name]
    assert main(arguments) in (0, 1)
    module = "data_prep" if main.__module__.startswith("data_prep") else "gdino_lib"
    for attempt in range(5):
        out = tmp_path / f"{attempt}"
        command = [sys.executable, "-m", module, *commands(inputs, out)[name][1]]
        both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in "ab"]
        ended = sorted((process.wait(), process.communicate()[1]) for process in both)
        assert ended[0][0] in (0, 1)
        assert ended[1][0] == 2
        assert ended[1][1].count("\n") == 1
        written, whole = (
            sorted(str(path)[len(str(stem)) :] for path in tmp_path.rglob("*") if str(path).startswith(str(stem)))
            for stem in (out, tmp_path / "whole")
        )
        assert written == whole


def without_root():
    """The beginning of a command line under which file rights hold even for root."""
    if os.name != "posix":
        pytest.skip("file rights are POSIX")
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("as root this needs setpriv")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["out", "deep/out"])
def test_every_command_names_a_folder_that_it_may_not_write(inputs, tmp_path, place):
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    alone = [*without_root(), sys.executable, "-c", ALONE, str(Path(__file__).parents[2] / "helpers")]
    ended = subprocess.run(
        [*alone, str(inputs), str(tmp_path / "locked" / place)], capture_output=True, text=True, check=True
    )
    results = json.loads(ended.stdout.splitlines()[-1])
    assert list(results) == NAMES
    for name, (status, said) in results.items():
        *notes, line = said.strip().splitlines()
        assert status == 2, (name, said)
        assert line.startswith("error: "), (name, said)
        assert "Permission denied" in line or "does not exist" in line, (name, line)
        assert str(tmp_path / "locked") in line, (name, line)
        assert not any("Traceback" in note for note in notes)
    assert not list((tmp_path / "locked").iterdir())
