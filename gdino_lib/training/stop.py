"""SIGTERM and Ctrl-C become a request to stop, which the trainer polls."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from gdino_lib.messages import printable


class InterruptedValidation(BaseException):
    """A signal asked to stop during a validation, which need not be finished."""


class StopRequest:
    """A request to stop, which SIGTERM or Ctrl-C makes.

    Args:
        verbose: print a line when the request comes and when the run ends.
    """

    def __init__(self, verbose: bool = True) -> None:
        self.verbose = verbose
        self._signal: int | None = None
        self._immediate = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come since `listening` began."""
        return self._signal is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """In this block the first signal makes the request; a second signal acts as it did before the block.

        Signals reach only the main thread of a process; in another thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        self._signal = None  # forget the request of an earlier block
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def request(number: int, _: Any) -> None:
            self._signal = number
            restore()
            if self._immediate:
                raise InterruptedValidation
            if self.verbose:
                print("stopping after this step ...", file=sys.stderr)

        for number in previous:
            signal.signal(number, request)
        try:
            yield
        finally:
            restore()

    @contextmanager
    def immediate(self, enabled: bool = True) -> Iterator[None]:
        """In this block the request raises `InterruptedValidation` at once instead of waiting to be polled."""
        self._immediate = enabled
        try:
            yield
        finally:
            self._immediate = False

    def end(self, message: str) -> NoReturn:
        """End the run as the signal would have, with a message.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with status 143, after SIGTERM, or where another process got the signal.
        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self.verbose:
            print(printable(message), file=sys.stderr)
        raise SystemExit(143)
