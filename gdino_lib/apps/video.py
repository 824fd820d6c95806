"""Films by OpenCV: frames read, drawn frames written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


class UnwritableFilmError(ValueError):
    """OpenCV cannot write such a film."""


class Film:
    """A film's frames.

    Attributes:
        width, height: of a frame, in pixels.
        fps: frames a second; 25 where the file does not say it.
        count: how many frames the file says that it has, an estimate; None where it does not.

    Raises:
        ValueError: OpenCV is missing, or cannot read one frame of it.
    """

    def __init__(self, path: str) -> None:
        # a damaged film is our message, not several of FFmpeg's; read when a film is first opened
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
            raise ValueError(f"{path!r}: expected a film, and OpenCV cannot read a frame of it")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else 25.0
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if math.isfinite(count) and count > 0 else None
        self.height, self.width = self._first.shape[:2]

    def frames(self) -> Iterator[Image.Image]:
        """All frames, in RGB, once."""
        frame = self._first
        while frame is not None:
            yield Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
            frame = self._capture.read()[1]
        self._capture.release()

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[Image.Image], None]]:
        """A function that adds a frame to a new film at `path`; of an odd width or height the codec drops a pixel.

        Raises:
            UnwritableFilmError: OpenCV has no way to write it.
        """
        code = self._cv2.VideoWriter_fourcc(*"mp4v")
        size = self.width, self.height
        for fps in (self.fps, round(self.fps, 2), max(round(self.fps), 1)):  # the codec knows not every fraction
            writer = self._cv2.VideoWriter(str(path), code, fps, size)
            if writer.isOpened():
                break
        else:
            raise UnwritableFilmError(
                f"{self._path!r}: OpenCV cannot write a film of {size[0]} x {size[1]} pixels, {self.fps:g} frames a second"
            )
        try:
            yield lambda image: writer.write(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
        finally:
            writer.release()
