"""Several processes at one study: the first waits, shows what the others say, and hands signals on.

A worker is told its task as one line of JSON on standard input. When that is closed, whoever started it has died, and
it stops too, as after a signal.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from engram.errors import EXIT_RESUME_ME, EngramError
from engram.run.stop import StopRequest
from engram.tuning.study import Study, Task

LOOK = 0.1  # seconds between two looks at the processes


def work_in_processes(study: Study, trials: int, jobs: int, until: float | None, imports: Sequence[str]) -> bool:
    """Works on trials in so many processes; whether a signal came. Raises EngramError where one of them failed."""
    seconds = None if until is None else until - time.monotonic()
    told = {"folder": str(study.folder), "task": study.task.to_json(), "trials": trials, "seconds": seconds}
    told |= {"imports": list(imports), "named": ":" in study.task.env}
    with StopRequest() as stop:
        workers = [_start(told) for _ in range(jobs)]
        handed_on = False
        while any(worker.poll() is None for worker in workers):
            if stop() and not handed_on:
                handed_on = True
                for worker in workers:
                    worker.terminate()
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
    assert worker.stdin is not None
    worker.stdin.write((json.dumps(told) + "\n").encode())
    worker.stdin.flush()
    return worker


def _stop_when_alone() -> None:
    """Waits until standard input is closed."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """What a worker does; its exit code."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    if told["imports"] or told["named"]:
        sys.path.append(os.getcwd())
    try:
        import_module("engram.agents.presets")  # Engram's own parts first
        for name in told["imports"]:
            import_module(name)
        from engram.tuning.tune import work_here

        until = None if told["seconds"] is None else time.monotonic() + told["seconds"]
        study = Study(Path(told["folder"]), Task.from_json(told["task"]))
        left = work_here(study, told["trials"], until, lambda text: print(text, file=sys.stderr, flush=True))
    except EngramError as problem:
        print(f"engram: {problem}", file=sys.stderr, flush=True)
        return problem.exit_code
    return EXIT_RESUME_ME if left else 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the thread that waits for standard input holds it
