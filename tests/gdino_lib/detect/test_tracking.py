"""Tracks in a drawn film whose tracks are known."""

import sys

import numpy as np
import pytest
from films import ColourDetector, detections, mota, moving, noise, write_film
from small_detectors import ALL, build

from gdino_lib.detect.detector import Detector
from gdino_lib.detect.tracking import find_in_frames, ids, interpolate

pytest.importorskip("trackers")
PHRASES = ["red", "green", "blue", "yellow"]
FOUR = [(5, 5, 2, 1, 0, 99), (130, 30, -2, 1, 0, 99), (20, 90, 3, 0, 0, 99), (140, 100, 0, -2, 5, 99)]
SLOW = [(5, 5, 1, 1, 0, 99), (130, 20, -1, 1, 0, 99), (20, 90, 1, 0, 0, 99)]
CROSSING = [(5, 40, 3, 0, 0, 99), (140, 44, -3, 0, 0, 99), (70, 100, 0, -2, 0, 99)]


def tracked(source, detector=None, every=1, **options):
    detector = detector or ColourDetector()
    return list(find_in_frames(detector, source, PHRASES, options, every))


def by_track(found):
    return [
        {track: tuple(box) for track, box in zip(ids(boxes), boxes.xyxy.tolist(), strict=True) if track >= 0}
        for _, boxes in found
    ]


def test_the_measure_itself():
    a, b = (0, 0, 10, 10), (50, 50, 60, 60)
    truth = [{0: a, 1: b}] * 4
    assert mota(truth, [{7: a, 8: b}] * 4) == (1.0, 0)
    assert mota(truth, [{7: a}] * 4) == (0.5, 0)
    assert mota(truth, [{7: a, 8: b, 9: (90, 90, 99, 99)}] * 4) == (0.5, 0)
    assert mota(truth, [{7: a, 8: b}] * 2 + [{8: a, 7: b}] * 2) == (0.75, 2)
    assert mota(truth, [{}] * 4) == (0.0, 0)


def test_the_measure_agrees_with_that_of_trackers():
    clear = pytest.importorskip("trackers.eval.clear")
    from films import iou

    generator = np.random.default_rng(5)
    truth = [{t: (10 * t + n, 5, 10 * t + n + 9, 14) for t in range(3)} for n in range(20)]
    found = []
    for boxes in truth:
        kept = [t for t in boxes if generator.random() < 0.8]
        names = generator.permutation(len(kept)).tolist() if generator.random() < 0.3 else kept
        found.append({int(name): boxes[t] for name, t in zip(names, kept, strict=True)})
    theirs = clear.compute_clear_metrics(
        [np.array(list(boxes)) for boxes in truth],
        [np.array(list(boxes), dtype=int) for boxes in found],
        [
            np.array([[iou(a, b) for b in f.values()] for a in t.values()]).reshape(len(t), len(f))
            for t, f in zip(truth, found, strict=True)
        ],
    )
    ours, switches = mota(truth, found)
    assert switches == theirs["IDSW"] > 0
    assert ours == pytest.approx(theirs["MOTA"])


def test_a_drawn_film_is_tracked_without_a_fault(tmp_path):
    pictures, truth = moving(FOUR, 40)
    found = tracked(write_film(tmp_path / "a.mp4", pictures))
    assert mota(truth, by_track(found)) == (1.0, 0)
    assert [f.number for f, _ in found] == list(range(40))
    assert len({track for boxes in by_track(found) for track in boxes}) == 4
    for frame, boxes in found:
        assert boxes.metadata == {"number": frame.number, "seconds": frame.seconds, "detected": True}
        assert list(boxes.data["class_name"]) == [PHRASES[number] for number in boxes.class_id]


def test_tracks_that_cross_keep_their_ids(tmp_path):
    pictures, truth = moving(CROSSING, 40)
    assert mota(truth, by_track(tracked(write_film(tmp_path / "a.mp4", pictures)))) == (1.0, 0)


def test_tracks_survive_a_short_blindness_but_its_boxes_are_missing(tmp_path):
    pictures, truth = moving(FOUR, 40)
    score, switches = mota(truth, by_track(tracked(iter(pictures), ColourDetector(blind={15, 16}))))
    assert switches == 0
    assert score == pytest.approx(1 - 8 / sum(map(len, truth)))


@pytest.mark.parametrize("every", [2, 3, 5, 7])
def test_interpolation_is_exact_on_even_motion(every):
    """Frames between two detections get the true boxes, to the precision of float32."""
    pictures, truth = moving(SLOW, 41)
    detector = ColourDetector()
    found = tracked(iter(pictures), detector, every)
    steps = [*range(0, 41, every)]
    detected = [*steps, 40] if steps[-1] != 40 else steps
    assert [f.number for f, boxes in found if boxes.metadata["detected"]] == detected
    assert detector.seen == len(detected)
    for boxes, true in zip(by_track(found), truth, strict=True):
        np.testing.assert_allclose(sorted(boxes.values()), sorted(true.values()), rtol=1e-6)
    assert mota(truth, by_track(found)) == (1.0, 0)


def test_interpolation_follows_the_clock_of_an_uneven_film(tmp_path):
    ticks = [0, 40, 80, 160, 240, 320]
    pictures = [moving([(tick // 40 + 5, 10, 0, 0, 0, 99)], 1)[0][0] for tick in ticks]
    found = tracked(write_film(tmp_path / "a.mkv", pictures, 25, "ffv1", ticks=ticks), every=5)
    lefts = [float(boxes.xyxy[0, 0]) for _, boxes in found]
    assert lefts == pytest.approx([tick / 40 + 5 for tick in ticks], abs=0.1)


def test_interpolation_of_boxes_confidences_and_labels():
    before = detections([(0, 0, 10, 10), (5, 5, 6, 6), (1, 1, 2, 2)], [1, 0, 0], PHRASES, 0.8)
    after = detections([(30, 40, 50, 60), (10, 0, 20, 10)], [2, 1], PHRASES, 0.4)
    before.tracker_id, after.tracker_id = np.array([4, -1, 9]), np.array([-1, 4])
    found = interpolate(before, after, 0.25)
    assert found.xyxy.tolist() == [[2.5, 0, 12.5, 10]]
    assert found.xyxy.dtype == found.confidence.dtype == np.float32
    assert found.confidence.tolist() == [np.float32(0.7)]
    assert (found.tracker_id.tolist(), list(found.data["class_name"])) == ([4], ["green"])
    assert before.xyxy[0].tolist() == [0, 0, 10, 10], "the given boxes stay"
    nothing = detections([], [], PHRASES)
    nothing.tracker_id = np.array([], dtype=int)
    assert len(interpolate(before, nothing, 0.5)) == len(interpolate(nothing, after, 0.5)) == 0


def test_weak_boxes_continue_tracks_but_begin_none():
    pictures, _ = moving(FOUR[:1], 20)
    assert not any(by_track(tracked(iter(pictures), ColourDetector(confidence=0.3))))
    assert all(by_track(tracked(iter(pictures), ColourDetector(confidence=0.3), box_threshold=0.2)))

    class Fading(ColourDetector):
        def find(self, pixels, phrases):
            found = super().find(pixels, phrases)
            found.confidence[:] = 0.9 if self.seen < 6 else 0.3
            return found

    boxes = by_track(tracked(iter(pictures), Fading()))
    assert [list(each) for each in boxes] == [list(boxes[0])] * 20
    assert boxes[0]


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_short_films(frames):
    pictures, truth = moving(FOUR[:2], frames)
    found = tracked(iter(pictures), every=3)
    assert len(found) == frames
    if frames == 1:
        assert ids(found[0][1]) == [-1, -1], "a track needs two boxes"
    if frames == 2:
        assert mota(truth, by_track(found)) == (1.0, 0)


def test_a_film_without_objects():
    found = tracked(iter(moving([], 5)[0]), every=2)
    assert [len(boxes) for _, boxes in found] == [0] * 5


def test_the_detector_tracks_what_it_detects(one_thread):
    detector, pictures = build(), noise(7)
    detector.batch_size = None
    options = ALL | {"top_k": 4}
    found = list(detector.track(iter(pictures), ["cat", "dog"], **options))
    assert len(found) == 7
    for (pixels, boxes), picture in zip(found, pictures, strict=True):
        assert np.array_equal(pixels, picture)
        expected = detector(picture, ["cat", "dog"], **options)
        assert np.array_equal(boxes.xyxy, expected.xyxy)
        assert np.array_equal(boxes.confidence, expected.confidence)
        assert list(boxes.data["class_name"]) == list(expected.data["class_name"])
        assert boxes.tracker_id.shape == (4,)


def test_batches_give_the_boxes_of_single_calls(one_thread, monkeypatch):
    """As on a GPU: one thread, batches of the detector's size."""
    import torch

    pictures, detector = noise(7), build()
    detector.batch_size = 3
    sizes = []

    class Batches:
        device, batch_size = torch.device("meta"), 3

        def __call__(self, images, phrases, **options):
            sizes.append(len(images))
            return detector(images, phrases, **options)

    options = ALL | {"top_k": 4}
    found = list(find_in_frames(Batches(), iter(pictures), ["cat", "dog"], options, follow=False))
    assert sizes == [3, 3, 1]
    for (_, boxes), picture in zip(found, pictures, strict=True):
        np.testing.assert_allclose(boxes.xyxy, detector(picture, ["cat", "dog"], **options).xyxy, atol=1e-3)


@pytest.mark.parametrize(("every", "least", "most"), [(1, 2, 6), (5, 11, 25), (60, 61, 121)])
def test_frames_are_read_ahead_but_not_without_bound(every, least, most):
    read = []

    def source():
        for number, picture in enumerate(moving([], 300, (8, 8))[0]):
            read.append(number)
            yield picture

    frames = find_in_frames(ColourDetector(), source(), PHRASES, {}, every)
    next(frames)
    assert least <= len(read) <= most
    frames.close()


def test_an_error_of_the_detector_reaches_the_caller():
    with pytest.raises(ValueError, match=r"box_threshold: expected a number in 0\.\.1"):
        next(build().track(iter(noise(3)), ["cat"], box_threshold=3))


def test_bad_arguments_are_refused_at_the_call(tmp_path):
    detector = build()
    with pytest.raises(ValueError, match="every: expected a whole number of at least 1, got 0"):
        detector.track(iter(noise(3)), ["cat"], every=0)
    with pytest.raises(FileNotFoundError, match="no such file, expected a film"):
        detector.track(tmp_path / "gone.mp4", ["cat"])
    assert isinstance(detector, Detector)


def test_without_trackers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ModuleNotFoundError) as error:
        build().track(iter(noise(3)), ["cat"])
    assert str(error.value) == "tracking needs trackers, which is not installed: pip install 'gdino_lib[video]'"
