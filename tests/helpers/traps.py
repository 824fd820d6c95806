"""What an untrusted pickle can do to whoever opens it."""

from pathlib import Path


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
