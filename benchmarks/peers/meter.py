"""The stopwatch of a peer's script: it sees counts after each environment step and prints one JSON line at the end."""

import argparse
import json
import resource
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from work import TASKS, Work, work

IMPORTED = time.time()


class Meter:
    """Times one run by wall clock. Call `at` after each (vector) environment step, then `report` once."""

    def __init__(self, peer: str, job: Work, started: float):
        """`started`: seconds since the epoch at which the process was started."""
        self.peer, self.job, self.started = peer, job, started
        self.first_learned: float | None = None
        self.window: tuple[float, int, int] | None = None  # clock, steps and updates where the window opens

    def at(self, steps: int, updates: int) -> None:
        """Note that `steps` environment steps and `updates` gradient steps are done. Meant to cost nothing."""
        if self.window is not None:
            return
        if self.first_learned is None and updates > 0:
            self.first_learned = time.time() - self.started
        if steps >= self.job.steady_from:
            self.window = (time.perf_counter(), steps, updates)

    def report(self, steps: int, updates: int, packages: Iterable[str], **more: Any) -> None:
        """Print the JSON line of this run. `more` adds entries that only one peer has."""
        clock, opened_at, updates_before = self.window or (float("nan"), steps, updates)
        seconds = time.perf_counter() - clock
        total = time.time() - self.started
        line = {
            "peer": self.peer,
            "task": self.job.task,
            "envs": self.job.envs,
            "seed": self.job.seed,
            "steps": steps,
            "updates": updates,
            "updates_expected": self.job.expected_updates,
            "steady_from": opened_at,
            "updates_steady": updates - updates_before,
            "seconds_steady": round(seconds, 4),
            "steps_per_second": round((steps - opened_at) / seconds, 2),
            "seconds_total": round(total, 3),
            "steps_per_second_whole": round(steps / total, 2),
            "startup_to_first_learned_step": None if self.first_learned is None else round(self.first_learned, 3),
            "peak_rss_mb": peak_rss_mb(),
            "versions": versions(packages),
        }
        print(json.dumps(line | more), flush=True)


def peak_rss_mb() -> float:
    """The most memory this process held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory from before the exec as well
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions by distribution name; those that are not installed are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def arguments(description: str, **more: Any) -> argparse.Namespace:
    """The command line that every peer's script takes: --task --steps --seed --started, and `more` flags."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--started", type=float, default=IMPORTED, help="start of the process, in epoch seconds")
    for name, text in more.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser.parse_args()


def job_of(options: argparse.Namespace) -> Work:
    """The work that the command line asked for."""
    return work(options.task, options.steps, options.seed, getattr(options, "grouped", False))
