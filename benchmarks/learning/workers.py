"""Training runs in processes of their own, a few at a time, each kept in the record when it ends."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.record import ROOT, Record, surroundings, write_json
from engram import specs
from engram.run.plan import RunPlan, holds_run

EVALUATION_SEED = 7_204_000  # plus the run's seed; `Trainer.evaluate` and `engram evaluate` begin at 0
ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1"}  # for several at a time
CHOSEN = ("env", "preset", "steps", "seed", "seeds", "envs", "env_args", "action_bins")  # of a run, which tell a cell
RESUME_ME = 75  # the exit code of a run that was stopped and can be resumed


class Run(Protocol):
    """What one process trains: the part's name in the record, its folder, and what learning_worker.py is told."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def content(self) -> dict[str, Any]:
        """The worker's job: arguments of `Trainer`, episodes and seed of the evaluation."""
        ...


def goes_on(folder: Path, asked: Mapping[str, Any] | None = None) -> bool:
    """Whether a run lies in `folder` to go on with; one that ended before its first checkpoint is removed.

    `asked`: arguments of `Trainer` for a new run. One that was begun with others is another cell's: SystemExit.
    """
    begun = holds_run(folder) and any((folder / "checkpoints").glob("step-*"))
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)
    elif asked is not None:
        check_begun_so(folder, asked)
    return begun


def check_begun_so(folder: Path, asked: Mapping[str, Any]) -> None:
    """SystemExit, in a sentence, where the run in `folder` was begun with other arguments."""
    plan = RunPlan.read(folder)
    for name, value in asked.items():
        if (has := getattr(plan, name, value)) != value and name in CHOSEN:
            raise SystemExit(f"{folder} was begun with {name} = {has!r}, not {value!r}; remove that folder")
    wanted = specs.override_all(plan.agent, dict(asked.get("overrides", {})))
    if wanted != plan.agent:
        raise SystemExit(f"{folder} was begun with other settings than {asked['overrides']}; remove that folder")


def start(run: Run, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process that trains and evaluates, or goes on to."""
    run.folder.mkdir(parents=True, exist_ok=True)
    places = {"folder": str(run.folder / "run"), "result": str(run.folder / "result.json")}
    write_json(run.folder / "job.json", places | run.content())
    words = [sys.executable, "-m", "benchmarks.learning.learning_worker", str(run.folder / "job.json")]
    return subprocess.Popen(words, env=surroundings() | dict(environment), cwd=ROOT)


def train_all(
    runs: Sequence[Run],
    jobs: int,
    record: Record,
    deadline: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """All runs, `jobs` at a time; each is kept when it ends. Ends its processes, however it ends itself.

    After `deadline` (of `time.monotonic`) none begins, and running ones are told to save; the names of those that
    have not ended are returned.
    """
    waiting, running = list(runs), dict[subprocess.Popen[bytes], Run]()
    unfinished: list[str] = []
    told = False
    try:
        while waiting or running:
            late = deadline is not None and time.monotonic() > deadline
            while waiting and len(running) < jobs and not late:
                run = waiting.pop(0)
                record.place(run.folder)
                running[start(run, environment or {})] = run
            if late and not told:
                told = True
                unfinished += [run.name for run in waiting]
                waiting.clear()
                for process in running:
                    process.terminate()  # it saves, and can be resumed
            for process, run in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[process]
                if code == RESUME_ME and told:
                    unfinished.append(run.name)
                    continue
                if code:
                    raise SystemExit(f"{run.name} ended with exit code {code}; --continue goes on where it was")
                record.put(run.name, {"runs": json.loads((run.folder / "result.json").read_text())})
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()  # it saves, and can be resumed
        for process in running:
            process.wait()
    return unfinished
