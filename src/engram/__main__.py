"""`engram` and `python -m engram`: the command line, which Ctrl-C can leave from its first moment on."""

import sys


def main() -> int:
    """Run the command line of this process and give its exit code."""
    from engram.cli.leave import watch

    watch()
    from engram.cli.commands import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
