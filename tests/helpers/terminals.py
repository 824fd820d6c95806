"""Commands on a terminal of their own, where progress bars and colours show."""

import os
import pty
import subprocess
import sys


def run_on_a_terminal(package, *arguments):
    """(exit status, all that the terminal got) of `python -m package ...`."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", package, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    got = b""
    try:
        while data := os.read(ours, 65536):
            got += data
    except OSError:  # so Linux says that the last of the other side has closed it
        pass
    os.close(ours)
    return process.wait(timeout=60), got.decode("utf-8", "replace")
