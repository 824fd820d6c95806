"""Frames of films, streams, cameras and iterables."""

import socket
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from films import moving, noise, write_film
from PIL import Image

from gdino_lib.detect.frames import Film, open_frames


@pytest.fixture
def pictures():
    return moving([(10, 10, 3, 2, 0, 99)], 12)[0]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")])
def test_all_frames_come_in_order_with_their_times(tmp_path, pictures, name, codec):
    film = Film(write_film(tmp_path / name, pictures, 10, codec))
    assert (film.width, film.height, film.fps, film.live) == (160, 120, 10, False)
    assert film.count in (12, None)
    frames = list(film.frames())
    assert [frame.number for frame in frames] == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in range(12)], abs=2e-3)
    for frame, expected in zip(frames, pictures, strict=True):
        assert frame.pixels.dtype == np.uint8
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 4


def test_frames_are_bit_for_bit_those_of_a_lossless_film(tmp_path):
    pictures = noise(4)
    frames, _, _ = open_frames(write_film(tmp_path / "a.mkv", pictures, 10, "ffv1"))
    assert all(np.array_equal(f.pixels, p) for f, p in zip(frames, pictures, strict=True))


def test_an_uneven_frame_rate_keeps_its_times(tmp_path, pictures):
    ticks = [0, 40, 200, 210, 300, 1000, 1001, 1500, 1600, 1700, 1800, 2500]
    film = Film(write_film(tmp_path / "a.mkv", pictures, 25, ticks=ticks))
    assert [frame.seconds for frame in film.frames()] == pytest.approx([tick / 1000 for tick in ticks], abs=2e-3)


def test_a_turned_film_is_upright(tmp_path, pictures):
    """A telephone stores a portrait film as landscape frames and a matrix: here the one of a quarter turn."""
    path = Path(write_film(tmp_path / "a.mp4", pictures))
    content = path.read_bytes()
    one, none = (0x10000).to_bytes(4, "big"), bytes(4)
    unity, rest = one + bytes(12) + one + bytes(12) + (0x40000000).to_bytes(4, "big"), bytes(8)
    place = content.index(unity, content.index(b"tkhd"))
    minus = (-0x10000 & 0xFFFFFFFF).to_bytes(4, "big")
    turned = none + one + bytes(4) + minus + none + bytes(12) + unity[-4:]
    assert len(turned) == len(unity) == 36
    assert rest == bytes(8)
    path.write_bytes(content[:place] + turned + content[place + 36 :])
    film = Film(path)
    assert (film.width, film.height) == (120, 160)
    frame = next(film.frames()).pixels
    clockwise = np.rot90(pictures[0], -1)
    assert np.abs(frame.astype(int) - clockwise).mean() < 4


def test_a_film_cut_off_keeps_its_readable_frames_and_warns_once(tmp_path):
    path = Path(write_film(tmp_path / "a.mp4", noise(60), movflags="+faststart"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    film = Film(path)
    assert film.count == 60
    with pytest.warns(
        UserWarning, match=r"'.*a\.mp4': the file promises 60 frames, \d+ could be read; these"
    ) as caught:
        frames = list(film.frames())
    assert len(caught) == 1
    assert 5 < len(frames) < 50


def test_a_film_whose_header_promises_more_frames(tmp_path, pictures):
    path = Path(write_film(tmp_path / "a.avi", pictures, 10, "mjpeg"))
    content = bytearray(path.read_bytes())
    main = content.index(b"avih") + 8 + 16  # the number of frames in the main header, and in that of the stream
    stream = content.index(b"strh") + 8 + 32
    for place in (main, stream):
        assert int.from_bytes(content[place : place + 4], "little") == 12
        content[place : place + 4] = (40).to_bytes(4, "little")
    path.write_bytes(content)
    film = Film(path)
    with pytest.warns(UserWarning, match="promises 40 frames, 12 could be read"):
        assert len(list(film.frames())) == 12


def test_a_whole_film_does_not_warn(tmp_path, pictures):
    for name in ("a.mp4", "a.mkv", "a.ts"):
        path = write_film(tmp_path / name, pictures, sound="aac")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(list(Film(path).frames())) == 12


def test_a_stream_is_read_from_its_address(tmp_path, pictures):
    content = Path(write_film(tmp_path / "a.ts", pictures)).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        frames, rate, live = open_frames(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        assert (len(list(frames)), rate, live) == (12, 10, True)
        thread.join()


def test_a_camera_is_read_until_it_ends_and_is_released(monkeypatch):
    """There is no camera here: OpenCV's class is replaced."""
    cv2 = pytest.importorskip("cv2")
    pictures, released = noise(3), []

    class Capture:
        def __init__(self, index):
            self.left = [] if index else list(pictures)

        def isOpened(self):  # noqa: N802
            return bool(self.left)

        def get(self, number):
            return 0.0

        def read(self):
            return (True, self.left.pop(0)[..., ::-1]) if self.left else (False, None)

        def release(self):
            released.append(1)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    frames, rate, live = open_frames(0)
    assert all(np.array_equal(f.pixels, p) for f, p in zip(frames, pictures, strict=True))
    assert (rate, live, released) == (25, True, [1])
    with pytest.raises(ValueError, match="camera 3: expected a camera"):
        open_frames(3)


def test_an_iterable_may_hold_pictures_of_any_kind(tmp_path):
    pixels = noise(1)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    frames, _, live = open_frames(iter([pixels, Image.fromarray(pixels), tmp_path / "a.png"]))
    assert [(f.number, f.seconds, np.array_equal(f.pixels, pixels)) for f in frames] == [
        (0, 0.0, True),
        (1, 0.04, True),
        (2, 0.08, True),
    ]
    assert not live


@pytest.mark.parametrize("source", [None, 1.5, True])
def test_other_sources_are_refused(source):
    with pytest.raises(TypeError, match="source: expected a film, an address, a camera index or an iterable"):
        open_frames(source)


def test_files_that_are_no_films(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4': no such file, expected a film"):
        Film(tmp_path / "gone.mp4")
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"a\.mp4': expected a film, but no frame could be read: Invalid data"):
        Film(tmp_path / "a.mp4")


def test_a_file_may_not_send_the_reader_elsewhere(tmp_path):
    """A play list under the name of a film must not make us read other files or addresses."""
    (tmp_path / "a.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(ValueError, match="expected a film"):
        Film(tmp_path / "a.mp4")


def test_names_with_colons_and_patterns(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "%03d.mp4", "-x.mp4"):
        write_film(tmp_path / name, pictures[:2])
        assert len(list(Film(name).frames())) == 2


def test_without_the_extra_one_line_says_what_to_install(tmp_path, pictures, monkeypatch):
    path = write_film(tmp_path / "a.mp4", pictures)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError) as error:
        Film(path)
    assert str(error.value) == "films need PyAV, which is not installed: pip install 'gdino_lib[video]'"
