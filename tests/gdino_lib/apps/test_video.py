"""Films: read, searched frame by frame, and written with drawn frames and their sound."""

import base64
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from detect_runs import LOW, TABLES, detect, document, files, film, picture
from films import moving, noise, sound_of, write_film
from PIL import Image

import gdino_lib as gd
from data_prep.formats import coco
from gdino_lib.apps.video import FilmWriter
from gdino_lib.detect.frames import Film
from gdino_lib.weights.loading import save

av = pytest.importorskip("av")
ROOT = Path(__file__).parents[3]


def frames_of(path):
    return list(Film(path).frames())


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_a_film_gives_a_film_and_one_line_per_frame(work, capsys, model):
    film("film.avi")
    picture("a.png")
    assert detect("film.avi", "a.png", "--top-k", 3) == 0
    assert files() == TABLES | {"a.png", "film.avi.mp4", "film.avi.mp4.jsonl"}
    (entry,) = document()["films"]
    assert (entry["frames"], entry["fps"], entry["width"], entry["height"]) == (5, 10, 64, 48)
    lines = lines_of("detections/film.avi.mp4.jsonl")
    assert [line["frame"] for line in lines] == list(range(5))
    assert [line["seconds"] for line in lines] == [0, 0.1, 0.2, 0.3, 0.4]
    assert sum(entry["counts"].values()) == sum(len(line["boxes"]) for line in lines) == 15
    assert set(lines[0]["boxes"][0]) == {"xyxy", "phrase", "confidence"}
    drawn = frames_of("detections/film.avi.mp4")
    for line, frame, copy in zip(lines, frames_of("film.avi"), drawn, strict=True):
        expected = gd.Detector(model)(frame.pixels, ["cat", "remote control"], 0.1, 0.1, None, 3)
        assert np.array_equal(np.float32([box["xyxy"] for box in line["boxes"]]), expected.xyxy)
        assert copy.pixels.shape == frame.pixels.shape
    assert "film.avi: 5 frames, " in capsys.readouterr().out
    assert [image.file_name for image in coco.read("detections/detections.coco.json").images] == ["a.png"]


def test_tracked_films_have_ids_in_the_lines_and_in_the_picture(work, capsys):
    write_film("film.mp4", [noise(1)[0]] * 7)
    arguments = ["film.mp4", "--top-k", "2", "--track", "--every", "3", "--zone", "0,0,64,0,64,48,0,48"]
    assert detect(*arguments) == 0
    lines = lines_of("detections/film.mp4.jsonl")
    assert [line["detected"] for line in lines] == [True, False, False, True, False, False, True]
    numbers = {box["id"] for line in lines for box in line["boxes"]}
    assert numbers == {0, 1}
    assert [line["zones"] for line in lines] == [[2]] * 7
    (entry,) = document()["films"]
    assert sum(entry["tracks"].values()) == 2
    assert entry["zones"][0]["tracks"] == entry["tracks"]
    assert document()["tracking"] == {"every": 3, "lines": [], "zones": [[[0, 0], [64, 0], [64, 48], [0, 48]]]}
    assert "film.mp4: 7 frames, tracks: " in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--every", "2"], ["--line", "1,1,9,9"], ["--zone", "1,1,9,9,1,9"]])
def test_options_of_tracking_need_it(work, capsys, option):
    film("film.avi")
    assert detect("film.avi", *option) == 2
    assert capsys.readouterr().err == f"error: {option[0]} needs --track\n"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--line", "1,2,3"], "expected points in pixels, X,Y,X,Y, got '1,2,3'"),
        (["--line", "1,2,x,4"], "expected points in pixels, X,Y,X,Y, got '1,2,x,4'"),
        (["--line", "1,2,1,2"], "expected two different points, X,Y,X,Y, got '1,2,1,2'"),
        (["--zone", "1,2,3,4"], "expected three or more points, X,Y,X,Y,X,Y, got '1,2,3,4'"),
    ],
)
def test_lines_and_zones_that_are_none(work, capsys, option, expected):
    with pytest.raises(SystemExit):
        detect("film.avi", "--track", *option)
    assert expected in capsys.readouterr().err


def test_a_zone_outside_the_film_costs_this_film_only(work, capsys):
    film("film.avi")
    picture("a.png")
    assert detect("film.avi", "a.png", "--track", "--line", "1,1,900,9") == 1
    assert capsys.readouterr().err == (
        "error: 'film.avi': the point 900,9 is outside the film, which has 64 x 48 pixels\n"
    )
    assert files() == {*TABLES, "a.png"}


def test_odd_and_damaged_films(work, capsys):
    film("odd.mp4", (66, 50), 3, "mpeg4")
    film("one.avi", (64, 48), 1)
    Path("bad.mp4").write_bytes(b"no film")
    Path("cut.mp4").write_bytes(Path("odd.mp4").read_bytes()[:200])
    assert detect("bad.mp4", "odd.mp4", "cut.mp4", "one.avi") == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert [entry["frames"] for entry in document()["films"]] == [3, 1]
    assert files() == TABLES | {"odd.mp4", "odd.mp4.jsonl", "one.avi.mp4", "one.avi.mp4.jsonl"}


def test_a_film_cut_off_gives_what_can_be_read_and_one_line(work, capsys):
    path = Path(write_film("film.mp4", noise(60), sound="aac", movflags="+faststart"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert detect("film.mp4", "--top-k", 1) == 0
    (entry,) = document()["films"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: 'film.mp4': the file promises 60 frames, {entry['frames']} could be read; these are used"
    assert 5 < entry["frames"] < 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(frames_of("detections/film.mp4")) == entry["frames"]
    samples = sound_of("detections/film.mp4")[2]
    assert len(samples) / 44_100 == pytest.approx(entry["frames"] / 10, abs=0.5)


@pytest.mark.parametrize(("name", "sound"), [("a.mp4", "aac"), ("a.mkv", "mp3"), ("a.ts", "aac")])
def test_sound_that_browsers_play_is_copied_bit_for_bit(tmp_path, name, sound):
    path = write_film(tmp_path / name, noise(20), sound=sound)
    copy_film(path, tmp_path / "copy.mp4")
    kept, original = sound_of(tmp_path / "copy.mp4"), sound_of(path)
    assert kept[0] == original[0]
    headers = 7 if name == "a.ts" else 0  # each packet of a transport stream begins with a header
    assert kept[1] == [packet[headers:] for packet in original[1]]


@pytest.mark.parametrize(("name", "sound"), [("a.avi", "pcm_s16le"), ("a.mkv", "flac"), ("a.mkv", "ac3")])
def test_other_sound_becomes_aac_and_stays_in_step(tmp_path, name, sound):
    path = write_film(tmp_path / name, noise(20), sound=sound)
    copy_film(path, tmp_path / "copy.mp4")
    codec, _, samples = sound_of(tmp_path / "copy.mp4")
    assert codec == "aac"
    assert len(samples) / 44_100 == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(samples[44_100 // 2 : 44_100 // 2 + 44_100]))
    assert np.argmax(spectrum) == 440, "the tone of 440 Hz"


def copy_film(path, target):
    source = Film(path)
    with FilmWriter(Path(target), source) as writer:
        for frame in source.frames():
            writer.add(Image.fromarray(frame.pixels), frame.seconds)


def test_a_silent_film_stays_silent(tmp_path):
    copy_film(write_film(tmp_path / "a.mp4", noise(3)), tmp_path / "copy.mp4")
    assert sound_of(tmp_path / "copy.mp4") is None


def test_the_copy_is_h264_in_420_with_the_index_first(tmp_path):
    copy_film(write_film(tmp_path / "a.mp4", noise(3), sound="aac"), tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as copied:
        context = copied.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    content = (tmp_path / "copy.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_colours_stay(tmp_path):
    pictures = [np.full((64, 64, 3), colour, np.uint8) for colour in [(200, 30, 40), (20, 180, 60), (30, 40, 220)]]
    copy_film(write_film(tmp_path / "a.mkv", pictures, codec="ffv1"), tmp_path / "copy.mp4")
    for frame, expected in zip(frames_of(tmp_path / "copy.mp4"), pictures, strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).max() <= 4


def test_an_uneven_frame_rate_stays(tmp_path):
    ticks = [0, 40, 200, 210, 300, 1000]
    copy_film(write_film(tmp_path / "a.mkv", noise(6), 25, ticks=ticks), tmp_path / "copy.mp4")
    assert [frame.seconds for frame in frames_of(tmp_path / "copy.mp4")] == pytest.approx(
        [tick / 1000 for tick in ticks], abs=2e-3
    )


@pytest.mark.parametrize("size", [(65, 49), (1, 48)])
def test_odd_sizes_grow_by_a_pixel(tmp_path, size):
    pictures = [np.full((size[1], size[0], 3), 90, np.uint8)] * 2
    copy_film(write_film(tmp_path / "a.avi", pictures, codec="png"), tmp_path / "copy.mp4")
    frames = frames_of(tmp_path / "copy.mp4")
    assert [frame.pixels.shape for frame in frames] == [(size[1] + size[1] % 2, size[0] + size[0] % 2, 3)] * 2
    assert np.abs(frames[0].pixels.astype(int) - 90).max() <= 3


def test_a_film_with_an_unusual_frame_rate_is_written(work):
    """119.983 frames per second is the rate of slow-motion films of telephones."""
    film("slow.avi", rate=119.983)
    assert detect("slow.avi") == 0
    assert document()["films"][0]["fps"] == pytest.approx(119.983, abs=1e-3)


def test_a_film_that_cannot_be_written_does_not_affect_other_files(work, capsys):
    picture("a.png")
    film("wide.avi", (16_400, 16), 1)
    assert detect("a.png", "wide.avi") == 1
    assert "'wide.avi': H.264 cannot hold frames of 16400 x 16 pixels" in capsys.readouterr().err
    assert files() == {*TABLES, "a.png"}


def test_films_without_the_extra_say_what_to_install(work, capsys, monkeypatch):
    film("film.mp4", codec="libx264")
    picture("a.png")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "trackers", None)
        assert detect("film.mp4", "a.png", "--track", "--out", "b") == 1
    install = "which is not installed: pip install 'gdino_lib[video]'"
    assert capsys.readouterr().err == f"error: 'film.mp4': tracking needs trackers, {install}\n"
    monkeypatch.setitem(sys.modules, "av", None)
    assert detect("film.mp4", "a.png") == 1
    assert capsys.readouterr().err == f"error: 'film.mp4': films need PyAV, {install}\n"


def test_a_full_disk_in_a_film_leaves_nothing(work, capsys, small_disk):
    write_film("film.mp4", noise(60, (160, 120)))
    assert detect("film.mp4", "--out", small_disk / "out", "--top-k", 1) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(small_disk.iterdir()) == []


def test_a_killed_run_leaves_no_film_under_its_final_name(work, model):
    save(model, "small.safetensors")
    write_film("film.mp4", noise(40))
    command = [sys.executable, "-m", "gdino_lib.cli.main", "detect", "film.mp4", "--phrases", "cat", "--track"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--model", "small.safetensors", *LOW, "--top-k", "1"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    end, part = time.monotonic() + 120, Path(".detections.partial/film.mp4.jsonl")
    while not (part.exists() and part.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    still_running = process.poll() is None
    process.kill()
    assert still_running, process.communicate()[1]
    process.communicate()
    assert not Path("detections").exists()
    assert detect("film.mp4", "--top-k", 1) == 0
    assert not Path(".detections.partial").exists()
    assert len(frames_of("detections/film.mp4")) == 40


@pytest.mark.slow
@pytest.mark.browser
def test_the_film_plays_in_a_browser(work, browser):
    """Chromium decodes the film to its end: size, length, sound, and the pixels of a frame in the middle."""
    write_film("film.avi", moving([(5, 20, 3, 0, 0, 99)], 30)[0], codec="mjpeg", sound="pcm_s16le")
    copy_film("film.avi", "copy.mp4")
    content = base64.b64encode(
        Path("copy.mp4").read_bytes()
    ).decode()  # a file of its own would hide its pixels from scripts
    page = browser.new_page()
    page.set_content(
        f"<video id=v muted src=data:video/mp4;base64,{content}></video><canvas id=c width=160 height=120></canvas>"
    )
    if page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')") == "":
        pytest.skip("this Chromium has no H.264")
    seen = page.evaluate(
        """async () => {
            const v = document.getElementById('v')
            const until = name => new Promise((done, fail) => {
                v.addEventListener(name, done, {once: true})
                v.addEventListener('error', () => fail(v.error.message), {once: true})
            })
            if (v.readyState < 1) await until('loadedmetadata')
            const ended = until('ended')
            await v.play()
            await ended
            const quality = v.getVideoPlaybackQuality()
            const sound = v.webkitAudioDecodedByteCount
            v.currentTime = 1.55
            await until('seeked')
            const c = document.getElementById('c').getContext('2d')
            c.drawImage(v, 0, 0)
            const pixel = [...c.getImageData(5 + 15 * 3 + 8, 28, 1, 1).data]
            return {width: v.videoWidth, height: v.videoHeight, seconds: v.duration, sound,
                    frames: quality.totalVideoFrames, pixel}
        }"""
    )
    page.close()
    assert (seen["width"], seen["height"]) == (160, 120)
    assert seen["seconds"] == pytest.approx(3.0, abs=0.1)
    assert seen["sound"] > 0
    assert seen["frames"] >= 25, "frames that were decoded while it played"
    assert np.abs(np.array(seen["pixel"][:3]) - (220, 40, 40)).max() < 40
