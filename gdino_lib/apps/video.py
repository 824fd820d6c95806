"""Write films with drawn frames, in H.264, with the sound of the film that was read."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gdino_lib.detect.frames import Film, decoded_packets, open_container
from gdino_lib.messages import one_line

if TYPE_CHECKING:
    from av.container import OutputContainer

TICKS = 90_000  # time stamps per second, which holds the times of films with an uneven frame rate
COPIED = {"aac", "mp3"}  # sound that browsers play in an MP4 file; other sound becomes AAC
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
BT709 = 1  # number of these colours in H.264


class UnwritableFilmError(ValueError):
    """No film of this size can be written."""


class FilmWriter:
    """An MP4 file that grows by one frame at a time, at the times of the film that was read, and that browsers play.

    An odd width or height grows by one pixel, because H.264 in 4:2:0 needs even sizes.

    Args:
        path: the file to write.
        film: the film whose size, frame rate and sound are used.

    Raises:
        UnwritableFilmError: H.264 cannot hold frames of this size.
        OSError: the disk is full or not writable.
    """

    def __init__(self, path: Path, film: Film) -> None:
        import av
        from av.error import FFmpegError

        self._av, self._last = av, -1
        # "faststart": a browser can play the film before it has all of the file
        self._output = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._video = self._output.add_stream(
            "libx264",
            rate=Fraction(film.fps).limit_denominator(TICKS),
            options={"crf": "20", "preset": "veryfast"},
        )
        context = self._video.codec_context
        context.width, context.height = film.width + film.width % 2, film.height + film.height % 2
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, TICKS)
        context.colorspace = context.color_primaries = context.color_trc = BT709
        try:
            context.open()
        except FFmpegError as error:
            self._output.close()
            size = f"{film.width} x {film.height} pixels"
            raise UnwritableFilmError(
                f"{film.path!r}: H.264 cannot hold frames of {size}: {one_line(error.strerror)}"
            ) from None
        self._sound = _Sound(film, self._output)

    def add(self, image: Image.Image, seconds: float) -> None:
        """Add a frame, shown at `seconds`, and the sound before it.

        Raises:
            OSError: the disk is full.
        """
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.time_base = Fraction(1, TICKS)
        frame.pts = self._last = max(round(seconds * TICKS), self._last + 1)
        self._sound.add_until(seconds)
        self._output.mux(self._video.encode(frame))

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._output.mux(self._video.encode(None))
                self._sound.add_until(math.inf)
        finally:
            self._sound.close()
            self._output.close()


class _Sound:
    """The sound of a film, added to another film in step with its frames.

    AAC and MP3 are copied bit for bit. Other sound becomes AAC with one or two channels.
    """

    def __init__(self, film: Film, output: OutputContainer) -> None:
        self._film, self._output = film, output
        self._container = open_container(film.path)
        self._targets: dict[int, Any] = {}
        sounds = list(self._container.streams.audio)
        for stream in sounds:
            if stream.codec_context.codec.canonical_name in COPIED:
                self._targets[stream.index] = output.add_stream_from_template(stream)
            else:
                rate = stream.rate if stream.rate in AAC_RATES else 48_000
                layout = "mono" if stream.layout.nb_channels == 1 else "stereo"
                self._targets[stream.index] = output.add_stream("aac", rate=rate, layout=layout)
        self._steps = self._write(self._container.demux(sounds)) if sounds else iter(())
        self._next = next(self._steps, math.inf)

    def add_until(self, seconds: float) -> None:
        """Add all sound that begins at `seconds` or earlier."""
        while self._next <= seconds and self._next < math.inf:
            self._next = next(self._steps, math.inf)

    def close(self) -> None:
        """Close the film that was read."""
        self._container.close()

    def _write(self, packets: Iterator[Any]) -> Iterator[float]:
        """Write packet by packet; before each, yield its time in seconds. Damaged packets are left out."""
        last, damage = 0.0, ""
        for packet, frames, fault in decoded_packets(packets):
            if fault:
                damage = fault
                continue
            if packet.size and damage:  # not the end of a film that was cut off, of which the frames tell
                warnings.warn(f"{self._film.path!r}: damaged sound at {last:.1f} seconds: {damage}", stacklevel=4)
                damage = ""
            if packet.pts is not None:
                last = float(packet.pts * packet.time_base) - self._film.start
            yield last
            self._output.mux(self._packets(packet, frames, self._targets[packet.stream.index]))

    def _packets(self, packet: Any, frames: list[Any], target: Any) -> list[Any]:
        if packet.stream.codec_context.codec.canonical_name not in COPIED:
            shifted = [_shifted(frame, self._film.start) for frame in frames]
            last = [None] if packet.size == 0 else []  # the packet without data that ends a stream
            return [each for frame in (*shifted, *last) for each in target.encode(frame)]
        if packet.dts is None:
            return []
        packet.dts -= round(self._film.start / packet.time_base)
        packet = _shifted(packet, self._film.start)
        packet.stream = target
        return [packet]


def _shifted(item: Any, start: float) -> Any:
    """A frame or packet whose time is counted from `start` seconds."""
    if item.pts is not None:
        item.pts -= round(start / item.time_base)
    return item
