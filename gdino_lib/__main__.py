"""`python -m gdino_lib` is the command `gdino`."""

import sys

from gdino_lib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
