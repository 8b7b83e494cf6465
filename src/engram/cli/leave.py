"""Ctrl-C before a run can be saved: one line, nothing half made, exit code 130; also while JAX loads or compiles.

Python raises KeyboardInterrupt wherever the program happens to be. Inside the loading of a library, or a callback of
XLA, it is turned into another error or is lost. So until the trainer watches for signals itself (`run/stop.py`), the
handler here ends the process. It runs between two instructions of Python; while C++ code compiles there are none for
minutes, and then a thread does the same.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

EXIT_INTERRUPTED = 130
PATIENCE = 0.5  # seconds that the main thread has to end the process itself
_UNDO: list[Callable[[], None]] = []


def watch() -> None:
    """From now on Ctrl-C ends the process. To be called first of all, in the main thread."""
    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.signal(signal.SIGINT, _leave)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(ears, mouth), daemon=True).start()


def undo_when_left(undo: Callable[[], None]) -> None:
    """Something is half made: `undo` takes it back if the process is left before `kept`."""
    _UNDO.append(undo)


def kept() -> None:
    """Whatever was half made is whole."""
    _UNDO.clear()


def _leave(number: int = signal.SIGINT, frame: Any = None) -> None:  # noqa: ARG001
    with suppress(Exception):
        for undo in _UNDO:
            undo()
    what = "nothing was left to save" if not _UNDO else "nothing was begun"
    with suppress(Exception):
        os.write(2, f"engram: stopped; {what}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _listen(ears: socket.socket, mouth: socket.socket) -> None:  # noqa: ARG001, the socket lives as long as the thread
    asked = False
    while True:
        if signal.SIGINT not in ears.recv(64):
            continue
        if signal.getsignal(signal.SIGINT) is _leave:
            time.sleep(PATIENCE)
            _leave()
        elif asked:  # the trainer was told already, and its program has not come back
            time.sleep(PATIENCE)
            os._exit(EXIT_INTERRUPTED)
        else:
            asked = True
            with suppress(Exception):
                print("engram: stopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)
