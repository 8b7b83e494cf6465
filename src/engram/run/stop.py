"""Stopping on request: the first Ctrl-C or SIGTERM asks, the second insists."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

from engram.errors import Interrupted

WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """`with StopRequest() as stop:` then `stop()` is true once a signal came.

    A second signal ends the process at once, without clean-up: whatever was saved before is whole, because a
    checkpoint is there whole or not at all. Outside the main thread signals cannot be watched, and nothing is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __call__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number


def interrupted(steps: int, folder: Path | None) -> Interrupted:
    """What `learn` raises after a signal: where it stopped, and how to go on.

    >>> str(interrupted(30, None))
    'stopped at step 30 (nothing is kept without a run directory)'
    """
    if folder is None:
        return Interrupted(f"stopped at step {steps:,} (nothing is kept without a run directory)")
    return Interrupted(f"stopped at step {steps:,} after saving; go on with: engram train --run {folder} --resume")
