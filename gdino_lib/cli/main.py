"""The command `gdino`: it reads the arguments, runs the chosen command, and ends with an exit status."""

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
        0: done. 1: done, but for inputs of no use; one line on standard error names each. 2: nothing was done, and one
        line says why. 130: interrupted; nothing half-written is left.

    Raises:
        SystemExit: 143, on SIGTERM; nothing half-written is left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name must not fail on a terminal that lacks its letters
            stream.reconfigure(errors="backslashreplace")
    try:
        require_data_prep()
    except ImportError as error:
        return _refuse(one_line(error))
    from gdino_lib.apps.terminal import warnings_as_lines
    from gdino_lib.cli.parser import build_parser  # the commands import data_prep

    options = build_parser().parse_args(arguments)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that what was begun is removed
    try:
        with warnings_as_lines():
            return options.run(options)
    except KeyboardInterrupt as interrupt:  # a command that kept something says so itself
        print(printable(interrupt) or "interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough (`gdino ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again at its exit
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
