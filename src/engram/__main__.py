"""`python -m engram` is the command `engram`."""

import sys

from engram.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
