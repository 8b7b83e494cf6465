"""A run that is stopped anywhere and resumed in another process ends in the same state, to the last bit.

    python -m benchmarks.safety.resume                          all environments: 152 short processes, about 10 minutes
    python -m benchmarks.safety.resume --envs CartPole-v1 --out /tmp/quick.json

For each environment one run is never stopped. Then, for each of twelve stopping points, a run of the same plan is
stopped there in one process and finished by another, `engram train --run DIR --resume`; and one more is stopped at
all twelve. Every run must end with the state digest of the first (what `engram info` prints: a SHA-256 over
parameters, optimizer, replay, environment, generators and counters) and with the same log, line by line, times
aside. The exit code is 1 if one does not.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.record import WORK, Record, add_flags, surroundings

TIMES = ("seconds", "steps_per_second")


@dataclass(frozen=True)
class Case:
    """A run small enough to be repeated, yet with a replay that wraps, target copies, and episodes that end."""

    env: str
    steps: int
    settings: dict[str, Any]
    env_args: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """The plan, as arguments of `Trainer`; with a line of metrics for every step, which all runs must share."""
        return {"env": self.env, "steps": self.steps, "log_every": 1, "env_args": self.env_args,
                "overrides": self.settings}  # fmt: skip

    def words(self, folder: Path) -> list[str]:
        """The same plan as a command line."""
        words = [self.env, "--steps", str(self.steps), "--log-every", "1", "--run", str(folder)]
        for name, value in self.env_args.items():
            words += ["--env-arg", f"{name}={value}"]
        return words + [f"{path}={value}" for path, value in self.settings.items()]


SMALL = {"encoder.widths": "32,32", "replay.start": 200, "replay.capacity": 400, "replay.batch_size": 32,
         "target.every": 20, "target.rate": 1.0}  # fmt: skip
CASES = (
    Case("CartPole-v1", 1_200, SMALL),
    Case("Taxi-v4", 1_200, SMALL),
    Case("engram/CartPole-v1", 1_200, SMALL),
    Case(
        "ALE/Pong-v5", 400,
        {"encoder.width": 16, "replay.start": 100, "replay.capacity": 150, "replay.batch_size": 8, "target.every": 10},
        {"max_num_frames_per_episode": 600},  # so that some episodes end within 400 steps
    ),
)  # fmt: skip


def stopping_points(case: Case, rows: list[dict[str, Any]], learn_every: int) -> list[tuple[str, int]]:
    """Twelve different steps that may be special, found in the log of the run that was never stopped.

    A device environment stops between two cycles of acting and learning only: there, steps are rounded up.
    """
    unit, end = rows[0]["step"], rows[-1]["step"]
    learning = first(rows, lambda row: row["updates"] >= 1)
    copied = first(rows, lambda row: row["updates"] >= int(case.settings["target.every"]))
    # An episode that ends writes one row more than its steps.
    wraps = first(rows, lambda row: row["step"] + row["episodes"] > int(case.settings["replay.capacity"]))
    ends = [one["step"] for before, one in pairwise(rows) if one["episodes"] > before["episodes"]]
    inside = max(pairwise(ends), key=lambda pair: (pair[1] > learning) * (pair[1] - pair[0]))
    wanted = [
        ("after the first step", unit),
        ("before learning starts", learning // 2),
        ("one step before the first update", learning - unit),
        ("at the first update", learning),
        ("between acting and learning", learning + 3 * learn_every - 1),
        ("one step before the target network is copied", copied - unit),
        ("when the target network is copied", copied),
        ("when an episode ends", next(step for step in ends if step > learning)),
        ("inside an episode", sum(inside) // 2),
        ("one step before the replay wraps", wraps - unit),
        ("when the replay wraps", wraps),
        ("one step before the end", end - unit),
    ]
    points: list[tuple[str, int]] = []
    for name, step in wanted:
        step = -(-step // unit) * unit
        while step in (taken for _, taken in points):
            step += unit
        points.append((name, step))
    return points


def first(rows: list[dict[str, Any]], holds: Any) -> int:
    """The first step whose metrics satisfy `holds`."""
    return next(row["step"] for row in rows if holds(row))


# Processes


def child(options: argparse.Namespace) -> None:
    """In a process of its own: begin or resume the run in `options.child`, stop at step `options.until`."""
    from engram.run.plan import holds_run
    from engram.run.trainer import Trainer

    folder = Path(options.child)
    begun = holds_run(folder)
    case = next(case for case in CASES if case.env == options.envs[0])
    arguments: dict[str, Any] = {"resume": True} if begun else case.arguments()
    with Trainer(run=folder, **arguments) as trainer:
        trainer.learn(options.until - trainer.steps)
        if trainer.steps != options.until:
            raise SystemExit(f"asked to stop at step {options.until}, stopped at {trainer.steps}")


def call(words: list[str]) -> None:
    """Run a child to its end. Raises SystemExit with its last words if it fails."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=surroundings())
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} from: {' '.join(words)}\n{done.stderr.strip()[-1_500:]}")


def stop_at(case: Case, folder: Path, step: int) -> None:
    """Begin or resume the run in `folder` and stop it at `step`, in a process of its own."""
    call(["-m", "benchmarks.safety.resume", "--child", str(folder), "--until", str(step), "--envs", case.env])


def outcome(folder: Path) -> dict[str, Any]:
    """How a run ended: step, digest of the state, digest of the log, problems of its checkpoints."""
    from hashlib import sha256

    from engram import info
    from engram.run.metrics import read_metrics

    facts = info(folder, verify=True)
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(folder)]
    log = sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    return {"step": facts["step"], "state_digest": facts["state_digest"], "log_digest": log, "lines": len(rows),
            "problems": facts["problems"] + facts["passed_over"]}  # fmt: skip


def never_stopped(case: Case, folder: Path) -> dict[str, Any]:
    """The run that the others are compared with, and where they shall be stopped."""
    from engram import info
    from engram.run.metrics import read_metrics

    call(["-m", "engram", "train", *case.words(folder)])
    facts = info(folder)
    points = stopping_points(case, read_metrics(folder), facts["agent"]["learn_every"])
    return outcome(folder) | {"level": facts["environment_state"], "points": points}


def stopped(case: Case, folder: Path, steps: list[int]) -> dict[str, Any]:
    """A run that is stopped at each of `steps` and resumed in a new process each time."""
    for step in steps:
        stop_at(case, folder, step)
    call(["-m", "engram", "train", "--run", str(folder), "--resume"])
    return outcome(folder) | {"stopped_at": steps}


# The benchmark


def measure(case: Case, record: Record, work: Path) -> None:
    """Every run of one environment that the record lacks."""

    def keep(name: str, make: Any, *arguments: Any) -> dict[str, Any]:
        name = f"{case.env}: {name}"
        if name not in record.parts:
            folder = work / name.replace("/", "-").replace(" ", "-").replace(":", "")
            shutil.rmtree(folder, ignore_errors=True)
            record.put(name, make(case, folder, *arguments))
            shutil.rmtree(folder)
        return record.parts[name]

    reference = keep("never stopped", never_stopped)
    points = [tuple(point) for point in reference["points"]]
    trials = [(f"{name}, step {step}", [step]) for name, step in points]
    trials.append(("at all twelve", sorted(step for _, step in points)))
    print(f"\n{case.env}, {case.steps:,} steps, environment state: {reference['level']}", flush=True)
    print(f"state digest {reference['state_digest']}, log of {reference['lines']:,} lines\n", flush=True)
    print("| stopped and resumed | same state | same log | checkpoints sound |\n|---|---|---|---|", flush=True)
    for name, steps in trials:
        part = keep(name, stopped, steps)
        verdict = ["yes" if right else "NO" for right in judge(reference, part)]
        print(f"| {name} | {' | '.join(verdict)} |", flush=True)


def judge(reference: dict[str, Any], part: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Whether state and log are those of the run that was never stopped, and all checkpoints are sound."""
    same = (part["step"], part["state_digest"]) == (reference["step"], reference["state_digest"])
    return same, part["log_digest"] == reference["log_digest"], not part["problems"]


def main() -> int:
    known = [case.env for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=known, default=known, help=f"of {', '.join(known)}")
    parser.add_argument("--work", type=Path, default=WORK / "resume", help="folder for the runs, emptied as they end")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=int, help=argparse.SUPPRESS)
    add_flags(parser, "resume")
    options = parser.parse_args()
    if options.child:
        child(options)
        return 0
    chosen = [case for case in CASES if case.env in options.envs]
    record = Record(options, {"cases": [asdict(case) for case in CASES], "seed": 0})
    for case in chosen:
        measure(case, record, options.work)
    parts = {name: part for name, part in record.parts.items() if "stopped_at" in part}
    references = {name: record.parts[f"{name.split(': ')[0]}: never stopped"] for name in parts}
    wrong = [name for name, part in parts.items() if not all(judge(references[name], part))]
    record.summarize({"resumed_runs": len(parts), "different": wrong})
    print(f"\n{len(parts)} resumed runs, {len(wrong)} of them different from the run that was never stopped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
