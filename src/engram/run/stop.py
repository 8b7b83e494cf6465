"""Stopping on request: the first Ctrl-C or SIGTERM asks, the second insists."""

import dataclasses
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from types import FrameType, TracebackType
from typing import Any

from engram.envs.device import is_device
from engram.envs.host.build import needs_trust
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


def reopening(plan: Any, imports: Iterable[str] = ()) -> str:
    """The flags without which `engram` refuses to open a run again: " --import mine --trust", or nothing.

    They name the modules of parts that are not Engram's and those of `imports`, which may have registered the
    environment, and say that an environment's module may be imported.
    """
    flags = "".join(f" --import {name}" for name in sorted(_modules(plan.agent).union(imports)))
    asks = plan.env is not None and not is_device(plan.env) and needs_trust(plan.env, plan.env_args)
    return flags + " --trust" * asks


def _modules(spec: Any) -> set[str]:
    """Where the specs of a spec are written, apart from Engram and from a script, which no flag imports."""
    name = type(spec).__module__
    found = set() if name == "__main__" or name.split(".")[0] == "engram" else {name}
    fields = (getattr(spec, field.name) for field in dataclasses.fields(spec))
    return found.union(*(_modules(one) for one in fields if dataclasses.is_dataclass(one)))


def interrupted(steps: int, folder: Path | None, flags: str = "", named: bool = True) -> Interrupted:
    """What `learn` raises after a signal: where it stopped, and how to go on.

    Args:
      flags: those of `reopening`. named: whether the environment has a name; one that is code is given again.

    >>> str(interrupted(30, None))
    'stopped at step 30 (nothing is kept without a run directory)'
    """
    if folder is None:
        return Interrupted(f"stopped at step {steps:,} (nothing is kept without a run directory)")
    way = f"engram train --run {quote(str(folder))} --resume{flags}"
    if not named:
        way = f"engram.Trainer(ENV, run={str(folder)!r}, resume=True).learn(), with ENV as before"
    return Interrupted(f"stopped at step {steps:,} after saving; go on with: {way}")
