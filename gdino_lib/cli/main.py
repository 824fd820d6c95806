"""The program `gdino`: parse the arguments, run the command, return the exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence

from gdino_lib.companion import require_data_prep
from gdino_lib.messages import one_line, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status. 0: the command did everything. 1: the command finished, but left out inputs that it could not use,
        each named in one line on standard error, or `gdino check` found a problem. 2: the command did nothing, and one line
        says why. 130: the command was interrupted; no half-written file is left.

    Raises:
        SystemExit: 143, on SIGTERM; no half-written file is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters of file names that the terminal cannot encode
            stream.reconfigure(errors="backslashreplace")
    try:
        require_data_prep()
    except ImportError as error:
        return _refuse(one_line(error))
    from gdino_lib.apps.terminal import warnings_as_lines
    from gdino_lib.cli.parser import build_parser  # the commands import data_prep

    options = build_parser().parse_args(arguments)
    previous = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # an exception, so that partial files are removed
    try:
        with warnings_as_lines():
            return options.run(options)
    except KeyboardInterrupt as interrupt:  # the message of a command that has kept results
        print(printable(interrupt) or "interrupted; no half-written file is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has closed it (`gdino ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would raise the error again at exit
        return 0
    except (ValueError, OSError) as error:
        return _refuse(one_line(error))
    except MemoryError as error:
        reason = one_line(error)
        return _refuse("out of memory" + (f": {reason}" if reason else ""))
    finally:
        signal.signal(signal.SIGTERM, previous)


def _refuse(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
