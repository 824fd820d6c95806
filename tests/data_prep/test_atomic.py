import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from data_prep.atomic import (
    MANIFEST,
    atomic_file,
    atomic_files,
    atomic_folder,
    other_file,
    read_manifest,
    write_manifest,
)


def test_a_file_appears_when_it_is_complete(tmp_path):
    with atomic_file(tmp_path / "a.txt") as file:
        file.write("é\n")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a.txt") as file:
        file.write(f"new{1 / 0}")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"), atomic_file(tmp_path / "nowhere" / "a.txt"):
        pass


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as said, atomic_folder(tmp_path / "file" / "out"):
        pass
    assert said.value.filename == str(tmp_path / "file" / "out")


def test_a_folder_is_not_replaced_unless_asked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "out"):
        pass
    with atomic_folder(tmp_path / "out", overwrite=True, replaceable={"mine"}) as aside:
        (aside / "new").touch()
        assert (tmp_path / "out" / "mine").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    for name in ("a.png", "deep/b.png"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    with pytest.raises(FileExistsError, match=r"holds deep/b\.png"), atomic_folder(tmp_path / "out", True, r"\w\.png"):
        pass
    assert (tmp_path / "out" / "deep" / "b.png").exists()
    with atomic_folder(tmp_path / "out", True, r"(deep/)?\w\.png"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name a folder inside it"), atomic_folder(".", overwrite=True):
        pass
    assert tmp_path.is_dir()


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_stays_and_its_folder_is_replaced(tmp_path):
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "out", True, {"first"}) as aside:
            (aside / name).touch()
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "out").iterdir()] == ["second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", True, {"mine"}):
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_the_next_run_removes_the_files_of_a_killed_run(tmp_path):
    code = """if True:
        import os, signal, sys
        from data_prep.atomic import atomic_folder
        with atomic_folder(sys.argv[1]) as aside:
            (aside / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with atomic_folder(tmp_path / "out") as aside:
        (aside / "whole").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "whole"]


def test_a_run_killed_between_the_two_renames_loses_nothing(tmp_path):
    old = tmp_path / ".out.old"
    old.mkdir()
    (old / "mine").touch()
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_written_files_have_ordinary_permissions(tmp_path):
    with atomic_file(tmp_path / "a.txt") as file:
        file.write("x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


HOLDING = """if True:
    import sys
    from pathlib import Path
    from data_prep.atomic import only_writer
    with only_writer(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
"""


@contextmanager
def another_process_writes(path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


WRITERS = {"folder": atomic_folder, "pair": lambda path: atomic_files(path.with_suffix(".map"), path)}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_one_of_two_processes_writes_and_a_killed_process_releases_its_lock(tmp_path, write):
    with another_process_writes(tmp_path / "out") as other:
        with pytest.raises(BlockingIOError, match=r"out: another run is writing there"), write(tmp_path / "out"):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock"]
        other.kill()
        other.wait()
        with write(tmp_path / "out"):
            pass
    assert (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_one_of_two_threads_writes(tmp_path, write):
    with write(tmp_path / "out"), ThreadPoolExecutor(1) as pool:
        refusal = pool.submit(lambda: write(tmp_path / "out").__enter__()).exception()
    assert isinstance(refusal, BlockingIOError)
    assert not list(tmp_path.glob(".*"))


def test_a_disk_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def acquire(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with (
        pytest.warns(UserWarning, match="this disk has no locks; do not start a second run"),
        atomic_folder(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out").is_dir()


def test_a_file_that_is_added_while_a_folder_is_written_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").touch()
    with pytest.raises(FileExistsError, match=r"holds mine\.txt"), atomic_folder(tmp_path / "out", True, {"a.png"}):
        (tmp_path / "out" / "mine.txt").touch()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_that_belong_together_appear_together(tmp_path):
    with atomic_files(tmp_path / "a", tmp_path / "b") as (first, second):
        first.write("1")
        second.write("2")
        assert not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path / "a", tmp_path / "b") as (first, second):
        first.write(f"3{1 / 0}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1", "b": "2"}
    with atomic_files(tmp_path / "a", tmp_path / "b") as (first, second):
        first.write("5")
        second.write("6")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "5", "b": "6"}


@pytest.mark.parametrize("failing", range(4))
def test_a_rename_that_fails_leaves_the_old_pair(tmp_path, monkeypatch, failing):
    """The first two renames move the old files aside, the other two move the new files to their paths."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    replace, calls = os.replace, []

    def failing_once(source, target):
        calls.append(source)
        if len(calls) == failing + 1:
            raise PermissionError
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing_once)
    with pytest.raises(PermissionError), atomic_files(tmp_path / "a", tmp_path / "b"):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1", "b": "2"}


@pytest.mark.parametrize("moment", range(4))
def test_a_pair_is_absent_after_a_kill_between_its_renames(tmp_path, moment):
    """Readers take a pair as complete if its last file exists."""
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from data_prep.atomic import atomic_files
        replace, calls = os.replace, []
        def killed(source, target):
            replace(source, target)
            calls.append(source)
            if len(calls) == int(sys.argv[2]) + 1:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = killed
        a, b = (Path(sys.argv[1], name) for name in "ab")
        with atomic_files(a, b) as files:
            for file in files:
                file.write("new")
    """
    for name in "ab":
        (tmp_path / name).write_text("old")
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(moment)])
    assert killed.returncode == -signal.SIGKILL
    there = {name: (tmp_path / name).read_text() for name in "ab" if (tmp_path / name).exists()}
    assert "b" not in there or set(there.values()) == {"new"}


def test_a_manifest_names_every_file_of_its_folder(tmp_path):
    for name in ("a.png", "deep/er/b.png", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert read_manifest(tmp_path) == frozenset()
    write_manifest(tmp_path)
    assert read_manifest(tmp_path) == {"a.png", "deep/er/b.png", ".hidden", MANIFEST}
    assert other_file(tmp_path, read_manifest(tmp_path)) is None
    (tmp_path / "deep" / "mine.png").touch()
    assert other_file(tmp_path, read_manifest(tmp_path)) == "deep/mine.png"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": [3]}', "[" * 100_000, '{"files": null}'])
def test_a_damaged_manifest_names_no_file(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    assert read_manifest(tmp_path) == frozenset()


def write_much(*files):
    for file in files:
        file.write("x" * 50_000)


def test_a_full_disk_leaves_the_old_pair(small_disk):
    for name in "ab":
        (small_disk / name).write_text("old")
    with pytest.raises(OSError, match="No space left"), atomic_files(small_disk / "a", small_disk / "b") as files:
        write_much(*files)
    assert {path.name: path.read_text() for path in small_disk.iterdir()} == {"a": "old", "b": "old"}
