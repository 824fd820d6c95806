"""Counts by line and zone, compared with their definitions."""

from itertools import pairwise

import numpy as np
import pytest
from films import ColourDetector, detections, moving
from PIL import Image

from gdino_lib.apps.counting import OutsideFilmError, TrackCounts, Tracking
from gdino_lib.detect.tracking import find_in_frames

PHRASES = ["red", "green", "blue", "yellow"]
SIZE = (160, 120)
LINE = ((80, 110), (80, 10))  # drawn upwards: its left side is the left half of the picture
ZONE = ((40, 30), (120, 30), (120, 90), (40, 90))


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def side(point, line):
    """Above 0 on the left, seen from the first point to the second, in a picture whose y grows downwards."""
    (x0, y0), (x1, y1) = line
    return (x1 - x0) * (y0 - point[1]) - (y0 - y1) * (point[0] - x0)


def crossings(truth, line):
    """(tracks that cross to the left, tracks that cross to the right), by comparing each frame with the next."""
    left, right = [], []
    for before, after in pairwise(truth):
        for track in before.keys() & after.keys():
            was, now = (side(centre(boxes[track]), line) for boxes in (before, after))
            (left if was < 0 < now else right if now < 0 < was else []).append(track)
    return left, right


def counted(pictures, tracking):
    counts = TrackCounts(tracking, SIZE)
    frames = find_in_frames(ColourDetector(), iter(pictures), PHRASES, {}, tracking.every)
    inside = [counts.add(found) for _, found in frames]
    return counts, inside


@pytest.mark.parametrize("every", [1, 4])
def test_lines_count_who_crosses_and_in_which_direction(every):
    # to the right, to the left, to the right below the end of the line, and one that stays
    tracks = [(21, 30, 2, 0, 0, 99), (121, 60, -2, 0, 0, 99), (21, 103, 2, 0, 0, 99), (5, 5, 0, 0, 0, 99)]
    pictures, truth = moving(tracks, 37)
    counts, _ = counted(pictures, Tracking(every, [LINE]))
    left, right = crossings(truth, LINE)
    assert (left, sorted(right)) == ([1], [0, 2])
    (line,) = counts.to_json()["lines"]
    assert line == {"line": LINE, "in": {"green": 1}, "out": {"red": 1}}, "the third passes below the line"
    assert counts.tracks == {"red": 1, "green": 1, "blue": 1, "yellow": 1}


def test_zones_count_tracks_and_how_many_are_inside_at_once():
    tracks = [(5, 50, 3, 0, 0, 99), (60, 95, 0, -1, 0, 99), (5, 5, 2, 0, 0, 99)]
    pictures, truth = moving(tracks, 40)
    counts, inside = counted(pictures, Tracking(1, zones=[ZONE]))
    expected = [sum(40 <= x <= 120 and 30 <= y <= 90 for x, y in map(centre, boxes.values())) for boxes in truth]
    assert [row[0] for row in inside] == expected
    (zone,) = counts.to_json()["zones"]
    assert zone == {"zone": ZONE, "tracks": {"red": 1, "green": 1}, "most_at_once": max(expected)}


def test_a_track_has_the_phrase_of_most_of_its_boxes():
    counts = TrackCounts(Tracking(zones=[ZONE]), SIZE)
    for number in (0, 0, 1, 0, 1):
        found = detections([(60, 50, 76, 66)], [number], PHRASES)
        found.tracker_id = np.array([3])
        counts.add(found)
    assert counts.tracks == {"red": 1}
    assert counts.to_json()["zones"][0]["tracks"] == {"red": 1}


def test_boxes_without_a_track_and_empty_frames_count_nothing():
    counts = TrackCounts(Tracking(lines=[LINE], zones=[ZONE]), SIZE)
    untracked = detections([(60, 50, 76, 66)], [0], PHRASES)
    assert counts.add(untracked) == counts.add(detections([], [], PHRASES)) == [0]
    assert counts.to_json() == {
        "tracks": {},
        "lines": [{"line": LINE, "in": {}, "out": {}}],
        "zones": [{"zone": ZONE, "tracks": {}, "most_at_once": 0}],
    }


def test_lines_and_zones_are_drawn_without_touching_the_frame():
    frame = Image.new("RGB", SIZE, (10, 20, 200))
    drawn = TrackCounts(Tracking(lines=[LINE], zones=[ZONE]), SIZE).draw(frame)
    pixels = np.asarray(drawn)
    assert pixels[100, 80].min() > 200, "the line is white"
    assert pixels[30, 60].tolist() != [10, 20, 200], "the edge of the zone"
    assert pixels[118, 2].tolist() == [10, 20, 200], "elsewhere the colours stay"
    assert frame.getcolors() == [(160 * 120, (10, 20, 200))]
    assert TrackCounts(Tracking(), SIZE).draw(frame) is frame


@pytest.mark.parametrize(
    "tracking", [Tracking(lines=[((1, 1), (200, 5))]), Tracking(zones=[((-1, 0), (5, 5), (9, 1))])]
)
def test_points_outside_the_film_are_refused(tracking):
    with pytest.raises(OutsideFilmError, match="is outside the film, which has 160 x 120 pixels"):
        TrackCounts(tracking, SIZE)
