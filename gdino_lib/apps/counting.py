"""Count the tracks of a film: all of them, those that cross lines, and those that are in zones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from PIL import Image

from gdino_lib.detect.tracking import ids

if TYPE_CHECKING:
    import supervision as sv

Points: TypeAlias = Sequence[tuple[float, float]]  # (x, y) in pixels of the film


@dataclass(frozen=True)
class Tracking:
    """What `gdino detect --track` is to do with a film.

    Attributes:
        every: detect in each `every`-th frame, and interpolate the boxes of the frames between.
        lines: lines of two points; tracks that cross them are counted.
        zones: polygons of three or more points; tracks in them are counted.
    """

    every: int = 1
    lines: Sequence[Points] = ()
    zones: Sequence[Points] = ()


class OutsideFilmError(ValueError):
    """A point of a line or zone is outside a film."""


class TrackCounts:
    """The counts of one film so far. An object is where the centre of its box is.

    Args:
        tracking: the lines and zones.
        size: (width, height) of the film in pixels.

    Raises:
        OutsideFilmError: a point is outside the film.
        ValueError: a line without length, or a zone of fewer than three points.
    """

    def __init__(self, tracking: Tracking, size: tuple[int, int]) -> None:
        import supervision as sv

        for points in (*tracking.lines, *tracking.zones):
            _check(points, size)
        centre = (sv.Position.CENTER,)
        self._lines = [
            sv.LineZone(sv.Point(*start), sv.Point(*end), triggering_anchors=centre) for start, end in tracking.lines
        ]
        self._zones = [sv.PolygonZone(np.rint(points).astype(int), centre) for points in tracking.zones]
        self._tracking = tracking
        self._most = [0] * len(self._zones)
        self._inside: list[set[int]] = [set() for _ in self._zones]
        # {track: the labels of its boxes}
        self._phrases: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._names: dict[int, str] = {}  # of each class_id

    def add(self, found: sv.Detections) -> list[int]:
        """Count the tracks of the next frame.

        Returns:
            The number of tracks in each zone.
        """
        found = cast("sv.Detections", found[np.array(ids(found), dtype=int) >= 0])  # boxes of tracks
        tracks, names = ids(found), list(found.data.get("class_name", ()))
        for track, number, name in zip(tracks, np.asarray(found.class_id).tolist(), names, strict=True):
            self._phrases[track][str(name)] += 1
            self._names[number] = str(name)
        for line in self._lines:
            line.trigger(found)
        now = []
        for number, zone in enumerate(self._zones):
            inside = {track for track, is_inside in zip(tracks, zone.trigger(found), strict=True) if is_inside}
            self._inside[number] |= inside
            self._most[number] = max(self._most[number], len(inside))
            now.append(len(inside))
        return now

    def draw(self, image: Image.Image) -> Image.Image:
        """A copy of the frame with the lines, the zones and their counts so far."""
        import supervision as sv

        if not self._lines and not self._zones:
            return image
        scene = np.array(image)[..., ::-1].copy()  # supervision draws in BGR
        for line in self._lines:
            scene = sv.LineZoneAnnotator(thickness=1, text_scale=0.4, text_thickness=1, text_padding=4).annotate(
                scene, line
            )
        for number, zone in enumerate(self._zones):
            colour = sv.ColorPalette.DEFAULT.by_idx(number)
            scene = sv.PolygonZoneAnnotator(zone, colour, thickness=1, text_scale=0.4, text_padding=4).annotate(scene)
        return Image.fromarray(scene[..., ::-1].copy())

    @property
    def tracks(self) -> Counter[str]:
        """Number of tracks by phrase; the phrase of a track is that of most of its boxes."""
        return self._by_phrase(self._phrases)

    def to_json(self) -> dict[str, Any]:
        """The counts as `detections.json` holds them."""
        lines = [
            {
                "line": points,
                "in": {self._names[number or 0]: count for number, count in line.in_count_per_class.items()},
                "out": {self._names[number or 0]: count for number, count in line.out_count_per_class.items()},
            }
            for points, line in zip(self._tracking.lines, self._lines, strict=True)
        ]
        zones = [
            {"zone": points, "tracks": self._by_phrase(inside), "most_at_once": most}
            for points, inside, most in zip(self._tracking.zones, self._inside, self._most, strict=True)
        ]
        return {"tracks": self.tracks, "lines": lines, "zones": zones}

    def _by_phrase(self, tracks: Any) -> Counter[str]:
        return Counter(self._phrases[track].most_common(1)[0][0] for track in tracks)


def _check(points: Points, size: tuple[int, int]) -> None:
    width, height = size
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise OutsideFilmError(f"the point {x:g},{y:g} is outside the film, which has {width} x {height} pixels")
