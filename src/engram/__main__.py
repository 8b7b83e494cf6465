"""`engram` and `python -m engram`: the command line, which Ctrl-C can leave from its first moment on."""

import os
import sys

# Python puts the current folder first on its path here. A file in it, perhaps a stranger's beside a run, must not stand
# in for a module that Engram imports; what the user names by --import is looked for there all the same.
if __name__ == "__main__" and sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path:
    del sys.path[0]


def main() -> int:
    """Run the command line of this process and give its exit code."""
    from engram.cli.leave import watch

    watch()
    from engram.cli.commands import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
