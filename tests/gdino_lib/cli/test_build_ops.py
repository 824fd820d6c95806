"""`gdino build-ops`: its output, with and without a compiler."""

from gdino_lib.cli.main import main


def test_build_ops_prints_the_compiler_and_the_written_file(monkeypatch, capsys, tmp_path):
    from gdino_lib.ops import native

    monkeypatch.setattr(native, "build", lambda device: tmp_path / f"{device}.so")
    assert main(["build-ops", "--cuda"]) == 0
    printed = capsys.readouterr().out
    assert "cpu: compiler " in printed
    for device in ("cpu", "cuda"):
        assert f"{device}: written to {tmp_path / device}.so" in printed


def test_without_a_compiler_build_ops_fails_in_one_line_and_keeps_an_earlier_build(monkeypatch, capsys, tmp_path):
    from gdino_lib.ops import native

    monkeypatch.setenv("GDINO_CACHE", str(tmp_path))
    native.library_path("cpu").write_bytes(b"built elsewhere")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["build-ops"]) == 2
    captured = capsys.readouterr()
    assert "cpu: compiler not found" in captured.out
    assert captured.err == "error: no compiler (no-such-compiler) for deformable attention\n"
    assert native.library_path("cpu").read_bytes() == b"built elsewhere"
