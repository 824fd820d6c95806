"""Films written with PyAV, drawn films with known tracks, and the measures of tracking by their slow definitions."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import supervision as sv
import torch

COLOURS = [(220, 40, 40), (40, 200, 60), (50, 70, 230), (230, 200, 40)]
GREY = 128


def write_film(path, pictures, rate=10, codec="libx264", sound=None, ticks=None, **options):
    """Write RGB arrays; `sound` names a codec for a tone that lasts as long; `ticks` are times of frames in milliseconds."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as output:
        video = output.add_stream(codec, rate=Fraction(rate).limit_denominator(90_000))
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "bgr0", "png": "rgb24"}.get(codec, "yuv420p")
        if ticks:
            video.codec_context.time_base = Fraction(1, 1000)
        tone = output.add_stream(sound, rate=44_100, layout="mono") if sound else None
        for number, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if ticks:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
            output.mux(video.encode(frame))
            if tone:
                output.mux(tone.encode(_tone(av, number, 44_100 // rate)))
        output.mux(video.encode(None))
        if tone:
            output.mux(tone.encode(None))
    return str(path)


def _tone(av, number, samples):
    wave = np.sin((np.arange(samples) + number * samples) * 2 * np.pi * 440 / 44_100) * 8000
    frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 44_100, number * samples
    return frame


def sound_of(path):
    """(codec, packets as bytes, samples [N] of the decoded sound) of the first audio track; None without sound."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as film:
        if not film.streams.audio:
            return None
        stream = film.streams.audio[0]
        packets, samples = [], []
        for packet in film.demux(stream):
            packets += [bytes(packet)] if packet.size else []
            samples += [frame.to_ndarray().reshape(-1) for frame in packet.decode()]
        return stream.codec_context.codec.canonical_name, packets, np.concatenate(samples)


def noise(frames, size=(64, 48)):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(frames)]


def moving(tracks, frames, size=(160, 120)):
    """Draw squares that move evenly.

    Args:
        tracks: (x, y, dx, dy, first, last) of each square of 16 pixels: its corner at frame 0, pixels per frame, and its frames.

    Returns:
        (the frames, {track: box} of each frame).
    """
    pictures, truth = [], []
    for number in range(frames):
        pixels = np.full((size[1], size[0], 3), GREY, np.uint8)
        boxes = {}
        for track, (x, y, dx, dy, first, last) in enumerate(tracks):
            if first <= number <= last:
                left, top = x + dx * number, y + dy * number
                pixels[top : top + 16, left : left + 16] = COLOURS[track % len(COLOURS)]
                boxes[track] = (left, top, left + 16, top + 16)
        pictures.append(pixels)
        truth.append(boxes)
    return pictures, truth


class ColourDetector:
    """Stands for a `Detector`: finds the squares of `moving` by their colour, and counts the pictures that it sees."""

    device = torch.device("cpu")
    batch_size = None

    def __init__(self, blind=(), confidence=0.9):
        self.blind, self.confidence, self.seen = set(blind), confidence, 0

    def __call__(self, pictures, phrases, **options):
        return [self.find(pixels, phrases) for pixels in pictures]

    def find(self, pixels, phrases):
        number, self.seen = self.seen, self.seen + 1
        boxes, classes = [], []
        for index, colour in enumerate(COLOURS if number not in self.blind else ()):
            near = np.abs(pixels.astype(int) - colour).max(axis=2) < 60
            if near.sum() > 30:
                rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
                boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
                classes.append(index % len(phrases))
        return detections(boxes, classes, phrases, self.confidence)


def detections(boxes, classes, phrases, confidence=0.9):
    return sv.Detections(
        xyxy=np.float32(boxes).reshape(-1, 4),
        confidence=np.full(len(boxes), confidence, np.float32),
        class_id=np.array(classes, dtype=int),
        data={"class_name": np.array([phrases[number] for number in classes], dtype=object)},
    )


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def mota(truth, found, least=0.5):
    """MOTA and the number of identity switches, by the definition of Bernardin and Stiefelhagen (2008), for few boxes a frame.

    Args:
        truth, found: {track: box} of each frame.
    """
    last, misses, extra, switches = {}, 0, 0, 0
    for true, seen in zip(truth, found, strict=True):
        # a pair of the frame before stays as long as it overlaps enough
        pairs = {t: f for t, f in last.items() if t in true and f in seen and iou(true[t], seen[f]) >= least}
        free_true = [t for t in true if t not in pairs]
        free_seen = [f for f in seen if f not in pairs.values()]
        pairs |= max(_assignments(free_true, free_seen, true, seen, least), key=lambda each: each[0])[1]
        switches += sum(t in last and last[t] != f for t, f in pairs.items())
        misses += len(true) - len(pairs)
        extra += len(seen) - len(pairs)
        last |= pairs
    return 1 - (misses + extra + switches) / sum(map(len, truth)), switches


def _assignments(free_true, free_seen, true, seen, least):
    """((pairs, sum of overlaps), the pairs) of every possible assignment."""
    places = [*free_seen, *[None] * len(free_true)]
    for order in set(permutations(places, len(free_true))):
        pairs = {t: f for t, f in zip(free_true, order, strict=True) if f is not None}
        overlaps = [iou(true[t], seen[f]) for t, f in pairs.items()]
        if all(overlap >= least for overlap in overlaps):
            yield (len(pairs), sum(overlaps)), pairs
