"""The frames of a film, a stream, a camera or any iterable of pictures, one after the other."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gdino_lib.images import ImageSource, read_image
from gdino_lib.messages import one_line

if TYPE_CHECKING:
    import av

USUAL_RATE = 25.0  # frames per second of a source that does not state its rate
CLOCK = 1_000_000  # FFmpeg counts the length of a file in microseconds
PATIENCE = 10.0  # seconds to wait for a stream
INSTALL = "pip install 'gdino_lib[video]'"


class Frame(NamedTuple):
    """One picture of a film.

    Attributes:
        number: 0 for the first frame.
        seconds: when the frame is shown, from the start of the film; larger in each frame than in the frame before.
        pixels: uint8 [H, W, 3], RGB, upright.
    """

    number: int
    seconds: float
    pixels: NDArray[np.uint8]


class Film:
    """The frames of a film file, or of a stream with an address such as "rtsp://...".

    Attributes:
        path: the path or address.
        live: True for a stream, whose frames must be used as they come.
        width, height: size of an upright frame in pixels.
        fps: frames per second; 25 if the file does not state it.
        count: number of frames according to the file, which may be wrong; None if the file does not state it.
        start: time stamp of the file's start in seconds; `Frame.seconds` is counted from there.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the extra `video` is not installed.
        ValueError: the first frame cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        av = _require_av()
        self.path = os.fspath(path)
        self.live = "://" in self.path
        if not self.live and not os.path.exists(self.path):
            raise FileNotFoundError(f"{self.path!r}: no such file, expected a film")
        self._damage = ""
        try:
            self._container = open_container(self.path)
            if not self._container.streams.video:
                raise ValueError("it has no pictures")
            self._stream = self._container.streams.video[0]
            self._stream.thread_type = "AUTO"  # FFmpeg decodes on several threads
            self._decoded = self._decode()
            first = next(self._decoded, None)
            if first is None:
                raise ValueError(self._damage or "it has no frames")
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{self.path!r}: expected a film, but no frame could be read: {reason}") from None
        self._first = first
        self.height, self.width = _upright(first).shape[:2]
        self.fps = _usable_rate(self._stream.average_rate or self._stream.base_rate)
        self.count = self._stream.frames or None
        self.start = (self._container.start_time or 0) / CLOCK

    def frames(self) -> Iterator[Frame]:
        """Yield all frames; a film can be read once.

        Warns:
            UserWarning: frames are missing, because the file is damaged or cut off.
        """
        frame: av.VideoFrame | None = self._first
        number, last = 0, -1 / self.fps
        while frame is not None:
            seconds = last + 1 / self.fps if frame.time is None else frame.time - self.start
            last = seconds if seconds > last else last + 1 / self.fps
            yield Frame(number, last, _upright(frame))
            number, frame = number + 1, next(self._decoded, None)
        length = (self._container.duration or 0) / CLOCK
        self._container.close()
        self._warn_of_missing_frames(number, last + 1 / self.fps, length)

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Decode what can be decoded; `_damage` is the first error."""
        for _, frames, damage in decoded_packets(self._container.demux(self._stream)):
            self._damage = self._damage or damage
            yield from frames

    def _warn_of_missing_frames(self, number: int, end: float, length: float) -> None:
        if self.count is not None and number < self.count:
            promise = f"the file promises {self.count} frames, {number} could be read"
        elif self.count is None and not self.live and end < length - 1:
            promise = f"the file promises {length:.1f} seconds, the frames end after {end:.1f}"
        elif self._damage:
            promise = f"damaged ({self._damage}), {number} frames could be read"
        else:
            return
        warnings.warn(f"{self.path!r}: {promise}; these are used", stacklevel=3)


FrameSource: TypeAlias = str | os.PathLike[str] | int | Film | Iterable[ImageSource]


def open_frames(source: FrameSource) -> tuple[Iterator[Frame], float, bool]:
    """Open a source of frames.

    Args:
        source: a film file; the address of a stream, such as "rtsp://..."; the index of a camera, read with OpenCV; or any
            iterable of pictures, as `gdino_lib.images.read_image` takes them.

    Returns:
        (the frames; frames per second, 25 if unknown; True for a stream or a camera).

    Raises:
        FileNotFoundError, ModuleNotFoundError, TypeError, ValueError: the source cannot be opened.
    """
    if isinstance(source, Film):
        return source.frames(), source.fps, source.live
    if isinstance(source, str | os.PathLike):
        return open_frames(Film(source))
    if isinstance(source, int) and not isinstance(source, bool):
        return _camera(source)
    if isinstance(source, Iterable):
        return _pictures(source), USUAL_RATE, False
    raise TypeError(
        f"source: expected a film, an address, a camera index or an iterable of pictures, got {type(source).__name__}"
    )


def open_container(path: str) -> Any:
    """Open a film file or a stream with PyAV.

    A file may not refer to addresses in the network. RTSP runs over TCP, because lost packets of UDP damage frames.
    """
    av = _require_av()
    if "://" in path:
        options = {"rtsp_transport": "tcp"} if path.startswith("rtsp") else {}
        return av.open(path, options=options, timeout=PATIENCE)
    # with "file:", FFmpeg does not take the part of a name before ":" for a protocol
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"})


def decoded_packets(packets: Iterator[Any]) -> Iterator[tuple[Any, list[Any], str]]:
    """Decode packet by packet, and go on after damaged packets.

    Yields:
        (the packet, its frames, ""), or (None, no frames, what is wrong) for a packet that cannot be read or decoded.
    """
    av = _require_av()
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except av.FFmpegError as error:
            yield None, [], one_line(error.strerror)  # later packets may be whole; without them, the next round ends
        else:
            yield packet, frames, ""


def _camera(index: int) -> tuple[Iterator[Frame], float, bool]:
    """A camera, read with OpenCV, whose indices mean the same on Linux, macOS and Windows; PyAV's names of cameras differ."""
    try:
        import cv2
    except ImportError:
        raise ModuleNotFoundError(f"cameras need OpenCV, which is not installed: {INSTALL}") from None
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise ValueError(f"camera {index}: expected a camera that OpenCV can open, found none")
    rate = _usable_rate(capture.get(cv2.CAP_PROP_FPS))

    def frames() -> Iterator[Frame]:
        number = 0
        try:
            while (read := capture.read())[0]:
                pixels: Any = read[1]
                yield Frame(number, number / rate, np.ascontiguousarray(pixels[..., ::-1]))
                number += 1
        finally:
            capture.release()

    return frames(), rate, True


def _pictures(source: Iterable[ImageSource]) -> Iterator[Frame]:
    for number, picture in enumerate(source):
        yield Frame(number, number / USUAL_RATE, np.array(read_image(picture).convert("RGB")))


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The pixels as a player shows them: telephones store portrait films as landscape frames and an angle."""
    pixels: Any = frame.to_ndarray(format="rgb24")
    turns, rest = divmod(int(frame.rotation), 90)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns % 4 and not rest else pixels


def _usable_rate(rate: Any) -> float:
    rate = float(rate or 0)
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE


def _require_av() -> Any:
    try:
        import av
    except ImportError:
        raise ModuleNotFoundError(f"films need PyAV, which is not installed: {INSTALL}") from None
    return av
