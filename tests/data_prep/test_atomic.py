import os
import signal
import subprocess
import sys

import pytest

from data_prep.atomic import atomic_file, atomic_folder


def test_a_file_appears_when_it_is_whole(tmp_path):
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


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as said, atomic_folder(tmp_path / "file" / "out"):
        pass
    assert said.value.filename == str(tmp_path / "file" / "out")


def test_a_folder_is_not_replaced_unless_asked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "out"):
        pass
    with atomic_folder(tmp_path / "out", overwrite=True) as aside:
        (aside / "new").touch()
        assert (tmp_path / "out" / "mine").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_what_is_ours_is_replaced(tmp_path):
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
        with atomic_folder(tmp_path / "out", overwrite=True) as aside:
            (aside / name).touch()
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "out").iterdir()] == ["second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_what_a_killed_run_left_is_cleaned_up_by_the_next(tmp_path):
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
