"""Ctrl-C before a run can be saved: one line, nothing half made, exit code 130; also while JAX loads or compiles.

Python raises KeyboardInterrupt wherever the program happens to be. Inside the loading of a library, or a callback of
XLA, it is turned into another error or is lost. So until the trainer watches for signals itself (`run/stop.py`), the
handler here ends the process. It runs between two instructions of Python; while C++ code compiles there are none for
minutes, and then a thread does the same.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the first moment counts: what watching itself does not need is imported later
    from pathlib import Path
    from socket import socket

EXIT_INTERRUPTED = 130
PATIENCE = 0.5  # seconds that the main thread has to end the process itself
LOCK = "lock"  # in the directory of a run
MADE = (".run.json.*.part", "run.json", "checkpoints", LOCK)  # there, before `kept`: patterns, the lock last
_UNDO: list[Callable[[], None]] = []
_AFTER = ["after this step"]  # the newest one is when what runs now will stop


def watch() -> None:
    """From now on Ctrl-C ends the process. To be called first of all, in the main thread.

    A process that was started to ignore Ctrl-C, as one in the background may be, goes on ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, _leave)
    import socket
    import threading

    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(ears, mouth), daemon=True).start()


def undo_when_left(folder: "Path", new: "Sequence[Path]") -> None:
    """What a run that begins in `folder` made there is removed if the process is left before `kept`.

    What is there already, at this call, is the user's and stays. So does everything while this process has not locked
    the folder: it made nothing then. The folders of `new` (itself and its parents, innermost first) go if they are
    empty by now.
    """

    import shutil

    def made() -> "list[Path]":
        return [path for name in MADE for path in folder.glob(name)]

    before = set(made())

    def undo() -> None:
        for path in made() if _is_ours(folder / LOCK) else ():
            if path not in before:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in new:
            with suppress(FileNotFoundError):
                path.rmdir()

    _UNDO.append(undo)


def _is_ours(lock: "Path") -> bool:
    """Whether this process has taken the folder; it takes none without a lock."""
    import json

    try:
        return json.loads(lock.read_bytes())["pid"] == os.getpid()
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return False


def stops(after: str) -> None:
    """When what runs from now on will stop after Ctrl-C, as the rest of a sentence."""
    _AFTER.append(after)


def kept() -> None:
    """What was begun is whole: nothing is to be removed any more."""
    _UNDO.clear()


def _leave(number: int = signal.SIGINT, frame: Any = None) -> None:  # noqa: ARG001
    for undo in reversed(_UNDO):  # seeds before the folder that holds them
        with suppress(OSError):
            undo()
    with suppress(OSError):
        os.write(2, b"engram: stopped; nothing was left to save\n")
    os._exit(EXIT_INTERRUPTED)


def _listen(ears: "socket", mouth: "socket") -> None:  # noqa: ARG001, the socket lives as long as the thread
    import sys
    import time

    asked = False
    while True:
        if signal.SIGINT not in ears.recv(64):
            continue
        if signal.getsignal(signal.SIGINT) is _leave:
            time.sleep(PATIENCE)
            _leave()
        elif asked:  # the trainer was told already, and its program has not come back
            time.sleep(PATIENCE)
            with suppress(OSError):
                os.write(2, b"engram: stopped at once; what was saved before is whole, and --resume goes on from it\n")
            os._exit(EXIT_INTERRUPTED)
        else:
            asked = True
            with suppress(Exception):
                print(f"engram: stopping {_AFTER[-1]}; Ctrl-C again stops at once", file=sys.stderr, flush=True)
