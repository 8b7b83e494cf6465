"""What Engram says when something is wrong: one sentence, and an exit code the command line returns.

Every message states what was given, what was expected and what to do instead. Nothing here is raised for
a programming error inside Engram; those stay ordinary exceptions with a traceback.
"""

import errno
import signal
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

EXIT_USAGE = 2  # the request cannot be carried out as written
EXIT_DATA = 65  # an environment or a file gave data that must not be used (sysexits: EX_DATAERR)
EXIT_NO_INPUT = 66  # nothing usable to resume or read from (sysexits: EX_NOINPUT)
EXIT_INPUT_OUTPUT = 74  # a file could not be read or written (sysexits: EX_IOERR)
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


class Untrusted(EngramError):
    """The files of a run ask for code that nobody at this machine named."""


class WriteFailed(EngramError):
    """A file could not be written; what was written before is untouched."""

    exit_code = EXIT_INPUT_OUTPUT


class Warned(str):
    """A note that something is wrong, which a run goes on in spite of. Other notes are for information."""


def install(extra: str) -> str:
    """How to add an extra, from a clone. (The name `engram` on the public index is another project's.)"""
    return f"in Engram's folder type: uv sync --extra {extra} (or: pip install '.[{extra}]')"


def hint(name: str, known: Iterable[str], listed: str | None = None) -> str:
    """The way out for a wrong name: the nearest known one, or all of them; or in their place where they are `listed`.

    >>> hint("dnq", ["dqn", "double-dqn"])
    "did you mean 'dqn'?"
    """
    known = sorted(known)
    plain = {one.lower(): one for one in known}  # people write DQN
    near = [plain[name.lower()]] if name.lower() in plain else get_close_matches(name, known, n=1, cutoff=0.6)
    near = near or [plain[one] for one in get_close_matches(name.lower(), plain, n=1, cutoff=0.6)]
    if near:
        return f"did you mean {near[0]!r}?"
    if listed is not None:
        return listed
    return f"known: {', '.join(known)}" if known else "none is known"


class Interrupted(EngramError):
    """A signal asked the run to stop; it did, after saving."""

    exit_code = EXIT_RESUME_ME


# -- what other people's code and disks do ---------------------------------------------------------------------

LONGEST = 300  # characters of an exception's text that a message holds


def is_fault(error: BaseException) -> bool:
    """Whether an exception out of a user's code is to be named: all but a Ctrl-C.

    An environment may raise KeyboardInterrupt by itself. Only where Python's own handler is in place can it have come
    from the keyboard; while a run learns, a handler of ours is.
    """
    return not isinstance(error, KeyboardInterrupt) or signal.getsignal(signal.SIGINT) is not signal.default_int_handler


def told(error: BaseException) -> str:
    """Class and text of an exception of anybody's, on one line, at most `LONGEST` characters, safe for a terminal.

    >>> told(KeyError("wheel"))
    "KeyError: 'wheel'"
    """
    try:
        text = str(error)
    except BaseException:  # its own text is broken: its class says what there is to say
        text = ""
    text = " ".join(text[: 4 * LONGEST].split())
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder that you may write to (--run DIR)"),
    **dict.fromkeys((errno.ENOENT, errno.ESTALE), "put the folder back where it was"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "move away what is in its place"),
}


def unwritten(path: Path | str, error: OSError) -> str:
    """Which file could not be written, why, and what to do.

    >>> unwritten("runs/mine/lock", OSError(28, "No space left on device"))
    'runs/mine/lock could not be written: No space left on device; make room there'
    """
    way_out = _WAYS_OUT.get(error.errno or 0, "mend that disk")
    return f"{path} could not be written: {error.strerror or error}; {way_out}"
