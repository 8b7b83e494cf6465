"""Several processes at one study: the first waits, shows what the others say, and hands signals on.

A worker is told its task as one line of JSON on standard input, and to stop by another line. When its input is closed,
whoever started it has died: then it stops too, and at once if it was already told to.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from engram.errors import EXIT_RESUME_ME, EngramError
from engram.run.stop import StopRequest
from engram.tuning.study import Study, Task

LOOK = 0.1  # seconds between two looks at the processes
STOP = "stop"


def work_in_processes(
    study: Study, jobs: int, imports: Sequence[str], given: Mapping[str, Any], until: float | None
) -> bool:
    """Works on trials in so many processes; whether a signal came. Raises EngramError where one of them failed."""
    seconds = None if until is None else until - time.monotonic()
    told = {"folder": str(study.folder), "task": study.task.to_json(), "seconds": seconds}
    told |= {"imports": list(imports), "named": ":" in study.task.env, "given": dict(given)}
    with StopRequest() as stop:
        workers = [_start(told) for _ in range(jobs)]
        handed_on = False
        while any(worker.poll() is None for worker in workers):
            if stop() and not handed_on:
                handed_on = True
                for worker in workers:
                    _tell(worker, STOP)
            time.sleep(LOOK)
    codes = [worker.wait() for worker in workers]
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.close()
    wrong = [code for code in codes if code not in (0, EXIT_RESUME_ME)]
    if wrong and not stop():
        raise EngramError(
            f"{len(wrong)} of {jobs} processes of the study ended with exit code {wrong[0]}, and said why above; the "
            f"same command goes on with their trials"
        )
    return stop()


def _start(told: dict[str, Any]) -> "subprocess.Popen[bytes]":
    # -P: a file of the current folder must not stand in for a module of Python's. A session of its own: Ctrl-C reaches
    # the first process alone, so that each worker hears of it once.
    command = [sys.executable, "-P", "-m", "engram.tuning.workers"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)
    _tell(worker, json.dumps(told))
    return worker


def _tell(worker: "subprocess.Popen[bytes]", line: str) -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):  # it is over
        worker.stdin.write(f"{line}\n".encode())
        worker.stdin.flush()


def _listen() -> None:
    """Stops this process when that is told, or when nobody is there any more to tell it. What a run has saved is whole
    at any time, so it may also end at once, as where a program is compiled and no signal is heard.
    """
    asked = sys.stdin.readline().strip() == STOP
    os.kill(os.getpid(), signal.SIGTERM)
    if asked and not sys.stdin.readline():
        os._exit(128 + signal.SIGTERM)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """What a worker does; its exit code."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_listen, daemon=True).start()
    if told["imports"] or told["named"]:
        sys.path.append(os.getcwd())
    try:
        import_module("engram.agents.presets")  # Engram's own parts first
        for name in told["imports"]:
            import_module(name)
        from engram.tuning.tune import work_here

        until = None if told["seconds"] is None else time.monotonic() + told["seconds"]
        study = Study(Path(told["folder"]), Task.from_json(told["task"]))
        left = work_here(study, until=until, tell=_say, **told["given"])
    except EngramError as problem:
        print(f"engram: {problem}", file=sys.stderr, flush=True)
        return problem.exit_code
    return EXIT_RESUME_ME if left else 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the thread that waits for standard input holds it
