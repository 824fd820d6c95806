"""Objects followed through a film: detection ahead of the reader, identities by ByteTrack, boxes between detected frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from gdino_lib.detect.frames import INSTALL, Frame, FrameSource, open_frames
from gdino_lib.detect.options import DetectOptions
from gdino_lib.messages import shown

if TYPE_CHECKING:
    import supervision as sv
    from trackers import ByteTrackTracker

    from gdino_lib.detect.detector import Detector

AHEAD = 32  # frames to read ahead at most, because frames of large films fill the memory; more if `every` is larger
LOST = 1.0  # seconds after which a track ends whose object is not found
LEAST_IOU = 0.1  # of a track's predicted box and its next box; the default of `ByteTrackTracker`
Segment: TypeAlias = list[Frame]  # frames after a detected one, up to and with the next frame to detect in


def find_in_frames(
    detector: Detector,
    source: FrameSource,
    phrases: Any,
    options: Mapping[str, Any],
    every: int = 1,
    follow: bool = True,
) -> Iterator[tuple[Frame, sv.Detections]]:
    """Find objects in all frames, in order. `Detector.track` explains the arguments.

    A frame between two detected frames gets the boxes of the tracks that are in both. A followed frame appears after the next
    detection, because this gives the first box of a track its id.

    Args:
        follow: False: detect only, without identities; `every` must be 1.

    Yields:
        (the frame, what was found in it). `metadata` holds the frame's `number` and `seconds`, and whether the Detector saw
        the frame (`detected`).

    Raises:
        FileNotFoundError, ModuleNotFoundError, TypeError, ValueError: at once, a source that cannot be opened, an `every` that
            is no whole number of at least 1, or a missing package.

    Warns:
        UserWarning: a film is damaged or shorter than its header says; its readable frames are used.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every: expected a whole number of at least 1, got {shown(every)}")
    frames, rate, live = open_frames(source)
    found = _detected(detector, _segments(frames, every), phrases, options, every, live)
    if follow:
        return _followed(found, _tracker(rate, every, options))
    return ((frame, _described(boxes, frame, True)) for (frame,), boxes in found)


def _segments(frames: Iterator[Frame], every: int) -> Iterator[Segment]:
    """The first frame alone, then `every` frames at a time; the last segment may be shorter, and ends the film."""
    segment = list(islice(frames, 1))
    while segment:
        yield segment
        segment = list(islice(frames, every))


def _detected(
    detector: Detector, segments: Iterator[Segment], phrases: Any, options: Mapping[str, Any], every: int, live: bool
) -> Iterator[tuple[Segment, sv.Detections]]:
    """Detect in the last frame of each segment, while this thread decodes further segments and the caller uses earlier ones.

    A CPU computes one image on each of two threads, which is faster than two images in a batch. Other devices take batches.
    A live source must not wait for later frames.
    """
    batch, workers = (1, 2) if detector.device.type == "cpu" else (detector.batch_size or 4, 1)
    batch = 1 if live else max(1, min(batch, AHEAD // every))
    ahead = 0 if live else min(workers, AHEAD // (batch * every))  # batches beside the first
    waiting: deque[tuple[list[Segment], Future[list[sv.Detections]]]] = deque()
    pool = ThreadPoolExecutor(workers, "gdino-frames")
    try:
        while True:
            while len(waiting) <= ahead and (group := list(islice(segments, batch))):
                pictures = [segment[-1].pixels for segment in group]
                waiting.append((group, pool.submit(detector, pictures, phrases, **options)))
            if not waiting:
                return
            group, future = waiting.popleft()
            yield from zip(group, future.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _followed(
    found: Iterator[tuple[Segment, sv.Detections]], tracker: ByteTrackTracker
) -> Iterator[tuple[Frame, sv.Detections]]:
    """Give boxes their identities, and the frames between two detected frames the boxes of the tracks that are in both."""
    # a frame is held until the next boxes are known, which may give its boxes their ids
    held: tuple[Frame, sv.Detections] | None = None
    highest = -1  # id so far
    for (*between, frame), boxes in found:
        _identify(tracker, frame, boxes)
        if held is not None:
            before, earlier = held
            _name_first_boxes(earlier, boxes, highest)
            yield before, _described(earlier, before, True)
            for each in between:
                share = (each.seconds - before.seconds) / (frame.seconds - before.seconds)
                yield each, _described(interpolate(earlier, boxes, share), each, False)
        highest = max(highest, *ids(boxes), -1)
        held = frame, boxes
    if held is not None:
        yield held[0], _described(held[1], held[0], True)


def interpolate(before: sv.Detections, after: sv.Detections, share: float) -> sv.Detections:
    """The boxes between two frames of a film, as if all objects moved evenly.

    Args:
        before, after: boxes with `tracker_id`, -1 for boxes without a track.
        share: 0 at the frame before, 1 at the frame after.

    Returns:
        A box for each track that is in both frames, labelled as before, with the weighted mean of both confidences.
    """
    rows = {track: row for row, track in enumerate(ids(after)) if track >= 0}
    pairs = [(row, rows[track]) for row, track in enumerate(ids(before)) if track in rows]
    rows_before, rows_after = np.array(pairs, dtype=int).reshape(-1, 2).T
    found = copy(cast("sv.Detections", before[rows_before]))
    target = cast("sv.Detections", after[rows_after])
    found.xyxy = _mean(found.xyxy, target.xyxy, share)
    found.confidence = _mean(found.confidence, target.confidence, share)
    return found


def ids(found: sv.Detections) -> list[int]:
    """The id of each box's track, -1 for a box without a track; all boxes of a frame that was not followed are without."""
    return [-1] * len(found) if found.tracker_id is None else found.tracker_id.tolist()


def _mean(first: Any, second: Any, share: float) -> Any:
    return (np.float64(1 - share) * first + np.float64(share) * second).astype(np.float32)


def _tracker(rate: float, every: int, options: Mapping[str, Any]) -> ByteTrackTracker:
    """ByteTrack: boxes whose confidence reaches `box_threshold` begin tracks, weaker boxes only continue tracks."""
    try:
        from trackers import ByteTrackTracker
    except ImportError:
        raise ModuleNotFoundError(f"tracking needs trackers, which is not installed: {INSTALL}") from None
    strong = 0.0 if options.get("thresholds") else options.get("box_threshold", DetectOptions.box_threshold)
    # the buffer counts frames of 1/30 second; a track outlives at least two detected frames without its object
    buffer = round(30 * max(LOST, 3 * every / rate))
    return ByteTrackTracker(
        lost_track_buffer=buffer,
        frame_rate=rate,
        track_activation_threshold=strong,
        high_conf_det_threshold=strong,
        minimum_iou_threshold=LEAST_IOU,
    )


def _identify(tracker: ByteTrackTracker, frame: Frame, found: sv.Detections) -> None:
    """Set `tracker_id`, int [N], -1 for a box without a track; boxes and their order stay as they are."""
    tracked = copy(found)
    tracked.data = {"row": np.arange(len(found))}
    tracked = tracker.update(tracked, timestamp=frame.seconds)
    identities = np.full(len(found), -1)
    if len(found):
        identities[np.asarray(tracked.data["row"], dtype=int)] = ids(tracked)
    found.tracker_id = identities


def _name_first_boxes(before: sv.Detections, after: sv.Detections, highest: int) -> None:
    """Give the first box of each track its id: ByteTrack gives ids from the second box of a track on.

    A track that has its first id in `after`, above the `highest` id so far, began in `before`. Its boxes are paired as
    ByteTrack pairs boxes: by the assignment with the largest sum of overlaps.
    """
    import supervision as sv
    from scipy.optimize import linear_sum_assignment

    if before.tracker_id is None or after.tracker_id is None or not len(before) or not len(after):
        return
    rows, new = np.flatnonzero(before.tracker_id < 0), np.flatnonzero(after.tracker_id > highest)
    overlaps = sv.box_iou_batch(before.xyxy[rows], after.xyxy[new])
    for row, column in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
        if overlaps[row, column] >= LEAST_IOU:
            before.tracker_id[rows[row]] = after.tracker_id[new[column]]


def _described(found: sv.Detections, frame: Frame, detected: bool) -> sv.Detections:
    found.metadata = {"number": frame.number, "seconds": frame.seconds, "detected": detected}
    return found
