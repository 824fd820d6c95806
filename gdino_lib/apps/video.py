"""Read the frames of films and write films with drawn frames, with OpenCV."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


class UnwritableFilmError(ValueError):
    """OpenCV cannot write a film of this size and frame rate."""


class Film:
    """The frames of a film.

    Attributes:
        width, height: size of a frame in pixels.
        fps: frames per second; 25 if the file does not state it.
        count: number of frames according to the file, which may be wrong; None if the file does not state it.

    Raises:
        ValueError: OpenCV is missing, or cannot read the first frame.
    """

    def __init__(self, path: str) -> None:
        # for a damaged film, print our message and not FFmpeg's; OpenCV reads the variables when it opens its first film
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        try:
            import cv2
        except ImportError:
            raise ValueError(f"{path!r}: films need OpenCV: pip install opencv-python-headless") from None
        self._cv2, self._path = cv2, path
        try:
            self._capture = cv2.VideoCapture(path)
            _, self._first = self._capture.read()
        except Exception as error:
            raise ValueError(f"{path!r}: expected a film that OpenCV can read, got {error}") from None
        if self._first is None:
            raise ValueError(f"{path!r}: expected a film, got a file from which OpenCV cannot read a frame")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if math.isfinite(count) and count > 0 else None
        self.height, self.width = self._first.shape[:2]

    def frames(self) -> Iterator[Image.Image]:
        """Yield all frames in RGB; a film can be read once."""
        frame = self._first
        while frame is not None:
            yield Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
            frame = self._capture.read()[1]
        self._capture.release()

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[Image.Image], None]]:
        """Yield a function that adds a frame to a new film at `path`. The codec drops a pixel of an odd width or height.

        Raises:
            UnwritableFilmError: OpenCV cannot write the film.
        """
        code = self._cv2.VideoWriter_fourcc(*"mp4v")
        size = self.width, self.height
        for fps in (self.fps, round(self.fps, 2), max(round(self.fps), 1)):  # the codec refuses some fractions
            writer = self._cv2.VideoWriter(str(path), code, fps, size)
            if writer.isOpened():
                break
        else:
            raise UnwritableFilmError(
                f"{self._path!r}: OpenCV cannot write a film of {size[0]} x {size[1]} pixels, {self.fps:g} frames per second"
            )
        try:
            yield lambda image: writer.write(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
        finally:
            writer.release()
