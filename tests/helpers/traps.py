"""A harmful pickle, to check that no code of an untrusted file is executed."""

from pathlib import Path


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
