"""What Engram says when something is wrong: one sentence, and an exit code the command line returns.

Every message states what was given, what was expected and what to do instead. Nothing here is raised for
a programming error inside Engram; those stay ordinary exceptions with a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_USAGE = 2  # the request cannot be carried out as written
EXIT_DATA = 65  # an environment or a file gave data that must not be used (sysexits: EX_DATAERR)
EXIT_NO_INPUT = 66  # nothing usable to resume or read from (sysexits: EX_NOINPUT)
EXIT_RESUME_ME = 75  # stopped on request after saving; resume to go on (sysexits: EX_TEMPFAIL)


class EngramError(ValueError):
    """A problem that the user can mend; shown as one sentence, without a traceback, by the command line."""

    exit_code = EXIT_USAGE


class UnknownName(EngramError):
    """A name that nothing is registered under."""


class SpecError(EngramError):
    """A setting with an impossible name, type or value."""


class SpaceError(EngramError):
    """An observation or action space that Engram cannot use."""


class EnvironmentFault(EngramError):
    """An environment broke its contract while it ran."""

    exit_code = EXIT_DATA


class LearningFault(EngramError):
    """A loss, gradient or parameter stopped being finite."""

    exit_code = EXIT_DATA


class CheckpointError(EngramError):
    """A checkpoint is missing, damaged, or of another run."""

    exit_code = EXIT_NO_INPUT


class RunLocked(EngramError):
    """Another process is writing to the run directory."""


def install(extra: str) -> str:
    """How to add an extra, from a clone. (The name `engram` on the public index is another project's.)"""
    return f"in Engram's folder type: uv sync --extra {extra} (or: pip install '.[{extra}]')"


def hint(name: str, known: Iterable[str]) -> str:
    """The way out for a wrong name: the nearest known one, or all of them.

    >>> hint("dnq", ["dqn", "double-dqn"])
    "did you mean 'dqn'?"
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"


class Interrupted(EngramError):
    """A signal asked the run to stop; it did, after saving."""

    exit_code = EXIT_RESUME_ME
